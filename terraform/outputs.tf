output "intake_bucket" {
  description = "Where manifests are dropped: gs://<bucket>/manifests/<client>/<name>."
  value       = google_storage_bucket.this["intake"].name
  # Usable only once ingest is notified of uploads.
  depends_on = [google_cloud_run_service_iam_member.invoker]
}

output "results_bucket" {
  description = "Where pictures and reports are found."
  value       = google_storage_bucket.this["results"].name
}

output "source_bucket" {
  description = "Bucket for photos that manifests name as gs://<bucket>/<client>/…."
  value       = google_storage_bucket.this["source"].name
}

output "events_topic" {
  description = "Topic of batch events."
  value       = google_pubsub_topic.this["batch-events"].id
}

output "crm_subscriptions" {
  description = "Each CRM's pull subscription of its own events, by client folder."
  value       = { for client, subscription in google_pubsub_subscription.crm : client => subscription.id }
  depends_on  = [google_pubsub_subscription_iam_member.crm_pulls]
}

output "image_repository" {
  description = "Where Cloud Build pushes the worker's image."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.this.repository_id}"
}

output "gemini_secret" {
  description = "Secret that the Gemini key is added to, see docs/operations.md."
  value       = google_secret_manager_secret.this["gemini"].id
}

output "worker_pool" {
  description = "The workers' pool."
  value       = google_cloud_run_v2_worker_pool.stage_image.id
}

output "environment" {
  description = "What `ruum-batch --project` needs in its environment to work on this pipeline."
  # All of it: without RUUM_FLEET_* a replay would wake no worker, and an estimate would assume a single one.
  value = local.settings
}

output "exports" {
  description = "The same as shell commands: terraform output -raw exports > ruum.env, then . ./ruum.env."
  # Values contain JSON, and may contain an apostrophe.
  value = join("", [for name, value in local.settings : "export ${name}='${replace(value, "'", "'\\''")}'\n"])
}
