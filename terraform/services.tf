resource "google_project_service" "this" {
  for_each = toset(concat([
    "artifactregistry.googleapis.com", "cloudbuild.googleapis.com", "cloudfunctions.googleapis.com",
    "cloudresourcemanager.googleapis.com", "cloudscheduler.googleapis.com", "eventarc.googleapis.com",
    "firestore.googleapis.com", "iam.googleapis.com", "logging.googleapis.com", "monitoring.googleapis.com",
    "pubsub.googleapis.com", "run.googleapis.com", "secretmanager.googleapis.com", "storage.googleapis.com",
    ],
    # A link is signed through this API, as the doors' accounts have no keys.
    var.signed_link_seconds == 0 ? [] : ["iamcredentials.googleapis.com"],
    var.budget == null ? [] : ["billingbudgets.googleapis.com"],
  ))
  project = var.project_id
  service = each.key
  # Other things in the project may use it.
  disable_on_destroy = false
}

# Google refuses a grant to a service agent that does not exist, and enabling an API does not always create its agent:
# Eventarc's may first appear with the first trigger. This asks for them. The bootstrap asks too, half an hour earlier;
# a module used without the bootstrap has only this.
resource "google_project_service_identity" "this" {
  provider = google-beta
  for_each = toset([
    "cloudbuild.googleapis.com", "cloudfunctions.googleapis.com", "eventarc.googleapis.com", "pubsub.googleapis.com",
    "run.googleapis.com",
  ])
  project    = var.project_id
  service    = each.key
  depends_on = [google_project_service.this]
}

# IAM takes some seconds to know a new agent.
resource "time_sleep" "identities" {
  create_duration = "60s"
  depends_on      = [google_project_service_identity.this]
}

# A grant takes a while to take effect everywhere: a first apply that does not wait fails at the triggers.
resource "time_sleep" "agents" {
  create_duration = "120s"
  depends_on = [
    google_project_service.this,
    google_project_iam_member.eventarc_agent,
    google_project_iam_member.storage_publishes,
    google_project_iam_member.trigger_receives,
  ]
}

# The same for the account that builds the functions: without this the build cannot pull its source.
resource "time_sleep" "functions_build" {
  create_duration = "60s"
  depends_on = [
    google_artifact_registry_repository_iam_member.functions_build_writes,
    google_project_iam_member.functions_build_logs,
    google_project_iam_member.functions_build_reads,
  ]
}

# And for the workers' account: Cloud Run refuses a pool whose account may not read the secret it names.
resource "time_sleep" "worker" {
  create_duration = "60s"
  depends_on      = [google_secret_manager_secret_iam_member.door]
}
