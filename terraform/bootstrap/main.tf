# What must be there before the first build, applied once by hand: the state's bucket, the build's own account, the two
# triggers of cloudbuild.yaml. See docs/operations.md, "First deployment".
terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = ">= 7.46, < 9.0" }
  }
}

provider "google" {
  project = var.project_id
  region  = var.region
}

variable "project_id" {
  description = "The project the pipeline will live in."
  type        = string
  nullable    = false
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be 6 to 30 lower-case letters, digits and hyphens, starting with a letter."
  }
}

variable "region" {
  description = "Region of builds and state."
  type        = string
  default     = "southamerica-east1"
  nullable    = false
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a single region such as southamerica-east1 or us-central1, not a multi-region such as nam5."
  }
}

variable "name" {
  description = "As the module's own name."
  type        = string
  default     = "ruum"
  nullable    = false
  validation {
    # What the module allows, so that it is not refused only after the first build.
    condition     = can(regex("^[a-z][a-z0-9-]{1,15}$", var.name))
    error_message = "name must be 2 to 16 lower-case letters, digits and hyphens, starting with a letter."
  }
}

variable "repository" {
  description = "The connected repository: projects/<p>/locations/<region>/connections/<c>/repositories/<r>."
  type        = string
  validation {
    condition     = can(regex("^projects/[^/]+/locations/[^/]+/connections/[^/]+/repositories/[^/]+$", var.repository))
    error_message = "repository must be projects/<p>/locations/<region>/connections/<c>/repositories/<r>."
  }
}

variable "approvers" {
  description = "Who may approve an apply, such as group:platform@example.com."
  type        = set(string)
  validation {
    condition     = length(var.approvers) > 0
    error_message = "approvers must name somebody: nobody could ever deploy."
  }
}

variable "billing_account" {
  description = "Billing account of the budget; empty makes no budget."
  type        = string
  default     = ""
  nullable    = false
  validation {
    condition     = can(regex("^([0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6})?$", var.billing_account))
    error_message = "billing_account must be three times six hexadecimal digits, such as 012345-6789AB-CDEF01, or empty."
  }
}

resource "google_project_service" "this" {
  for_each = toset([
    "cloudbuild.googleapis.com", "cloudresourcemanager.googleapis.com", "iam.googleapis.com",
    "secretmanager.googleapis.com", "serviceusage.googleapis.com", "storage.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false
}

resource "google_storage_bucket" "state" {
  name                        = "${var.project_id}-${var.name}-terraform"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # A state that was overwritten by mistake is taken back from its versions.
  versioning {
    enabled = true
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = 30
      matches_prefix = ["plans/"]
    }
  }
  depends_on = [google_project_service.this]
}

resource "google_service_account" "build" {
  account_id   = "${var.name}-build"
  display_name = "Ruum Batch: build and deploy"
  depends_on   = [google_project_service.this]
}

# What Terraform makes for the pipeline, by service; project-wide because what it grants on does not exist yet. Less than
# Owner, and still much: it makes accounts and grants, so whoever can approve an apply holds the project.
resource "google_project_iam_member" "build" {
  for_each = toset([
    "roles/artifactregistry.admin",
    "roles/cloudbuild.builds.editor",
    "roles/cloudfunctions.admin",
    "roles/cloudscheduler.admin",
    "roles/datastore.owner",
    "roles/eventarc.admin",
    "roles/iam.roleAdmin",
    "roles/iam.serviceAccountAdmin",
    "roles/iam.serviceAccountUser",
    "roles/logging.configWriter",
    "roles/logging.logWriter",
    "roles/monitoring.admin",
    "roles/pubsub.admin",
    "roles/resourcemanager.projectIamAdmin",
    "roles/run.admin",
    "roles/secretmanager.admin",
    "roles/serviceusage.serviceUsageAdmin",
    "roles/storage.admin",
  ])
  project = var.project_id
  role    = each.key
  member  = google_service_account.build.member
}

# The value is added by hand; the build reads it for the alerts' channel.
resource "google_secret_manager_secret" "slack" {
  secret_id = "${var.name}-slack-token"
  replication {
    auto {}
  }
  depends_on = [google_project_service.this]
}

resource "google_secret_manager_secret_iam_member" "slack" {
  secret_id = google_secret_manager_secret.slack.secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.build.member
}

locals {
  substitutions = {
    _REGION          = var.region
    _NAME            = var.name
    _STATE_BUCKET    = google_storage_bucket.state.name
    _BILLING_ACCOUNT = var.billing_account
  }
}

resource "google_cloudbuild_trigger" "plan" {
  name            = "${var.name}-plan"
  description     = "Tests, image and plan of every commit on main"
  location        = var.region
  service_account = google_service_account.build.id
  filename        = "cloudbuild.yaml"
  substitutions   = local.substitutions
  repository_event_config {
    repository = var.repository
    push {
      branch = "^main$"
    }
  }
}

resource "google_cloudbuild_trigger" "apply" {
  name            = "${var.name}-apply"
  description     = "Applies a plan once somebody has approved it"
  location        = var.region
  service_account = google_service_account.build.id
  substitutions   = local.substitutions
  approval_config {
    approval_required = true
  }
  source_to_build {
    repository = var.repository
    ref        = "refs/heads/main"
    repo_type  = "GITHUB"
  }
  git_file_source {
    path       = "cloudbuild.yaml"
    repository = var.repository
    revision   = "refs/heads/main"
    repo_type  = "GITHUB"
  }
}

resource "google_project_iam_member" "approver" {
  for_each = var.approvers
  project  = var.project_id
  role     = "roles/cloudbuild.builds.approver"
  member   = each.key
}

output "state_bucket" {
  description = "Bucket of the state: terraform init -backend-config=bucket=…"
  value       = google_storage_bucket.state.name
}
