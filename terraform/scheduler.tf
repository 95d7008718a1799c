# Continues what was interrupted, repairs wake-ups that failed, and stops workers that have nothing to do.
resource "google_cloud_scheduler_job" "reconcile" {
  project          = var.project_id
  region           = var.region
  name             = "${var.name}-reconcile"
  description      = "Ruum Batch: reconcile"
  schedule         = coalesce(var.reconcile_schedule, local.topology.doors.reconcile.trigger)
  time_zone        = "Etc/UTC"
  attempt_deadline = "${local.topology.doors.reconcile.timeout_seconds}s"
  http_target {
    http_method = "POST"
    # The run.app address: on the cloudfunctions.net one, an internal-only function answers the scheduler 404.
    uri = google_cloudfunctions2_function.this["reconcile"].service_config[0].uri
    oidc_token {
      service_account_email = google_service_account.caller["scheduler"].email
      audience              = google_cloudfunctions2_function.this["reconcile"].service_config[0].uri
    }
  }
  depends_on = [google_cloud_run_service_iam_member.invoker]
}
