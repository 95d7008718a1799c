resource "google_project_service" "this" {
  for_each = toset(concat([
    "artifactregistry.googleapis.com", "cloudbuild.googleapis.com", "cloudfunctions.googleapis.com",
    "cloudscheduler.googleapis.com", "eventarc.googleapis.com", "firestore.googleapis.com",
    "logging.googleapis.com", "monitoring.googleapis.com", "pubsub.googleapis.com", "run.googleapis.com",
    "secretmanager.googleapis.com", "storage.googleapis.com",
  ], var.budget == null ? [] : ["billingbudgets.googleapis.com"]))
  project = var.project_id
  service = each.key
  # Other things in the project may use it.
  disable_on_destroy = false
}

# Service agents come into being some time after their API is switched on, and a grant takes a while to be known
# everywhere: a first apply that does not wait fails at the triggers.
resource "time_sleep" "agents" {
  create_duration = "120s"
  depends_on = [
    google_project_service.this,
    google_project_iam_member.eventarc_agent,
    google_project_iam_member.storage_publishes,
    google_project_iam_member.trigger_receives,
  ]
}
