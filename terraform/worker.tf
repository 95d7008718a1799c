resource "google_cloud_run_v2_worker_pool" "stage_image" {
  project             = var.project_id
  location            = var.region
  name                = "${var.name}-stage-image"
  description         = "Ruum Batch: stages images; started when a batch opens, stopped when nothing is open"
  deletion_protection = false
  scaling {
    scaling_mode          = "MANUAL"
    manual_instance_count = 0
  }
  template {
    service_account = google_service_account.door["stage_image"].email
    containers {
      image = var.worker_image
      resources {
        limits = {
          cpu    = var.worker.cpu
          memory = var.worker.memory
        }
      }
      dynamic "env" {
        for_each = local.settings
        content {
          name  = env.key
          value = env.value
        }
      }
      dynamic "env" {
        for_each = var.staging_model == "gemini" ? [google_secret_manager_secret.this["gemini"]] : []
        content {
          name = "GEMINI_API_KEY"
          value_source {
            secret_key_ref {
              secret  = env.value.secret_id
              version = "latest"
            }
          }
        }
      }
    }
  }
  lifecycle {
    # Ingest and reconcile change the number of instances, so a plan ignores it. But an apply sends the whole pool, with
    # the number that the *plan* has read: an apply hours after its plan sets the old number.
    # terraform/after-apply.sh therefore runs reconcile, which sets the right one (docs/adr/0008-what-an-apply-cannot-do.md).
    ignore_changes = [scaling[0].manual_instance_count, client, client_version]
  }
  depends_on = [
    google_project_service.this,
    time_sleep.worker,
    google_firestore_field.indexed,
    google_firestore_index.counts,
    google_firestore_index.moved,
  ]
}
