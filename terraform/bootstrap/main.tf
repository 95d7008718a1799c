# What the first build needs, applied once by an Owner: the state's bucket, three accounts, the triggers. See
# docs/operations.md, "First deployment".
#
# Three accounts, because approval must guard everything that is dangerous. The one that tests pull requests can write a
# log. The one that tests and plans runs the code of a commit and of its dependencies, with no approval: it can read, push
# an image, and ask for an apply. The one that applies can change the project; only an approved build runs as it, with the
# steps in this file.
terraform {
  required_version = ">= 1.9"
  required_providers {
    google      = { source = "hashicorp/google", version = ">= 7.46, < 9.0" }
    google-beta = { source = "hashicorp/google-beta", version = ">= 7.46, < 9.0" }
  }
}

provider "google" {
  project = var.project_id
  region  = var.region
}

provider "google-beta" {
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
    # As in the module, which would refuse it only after the first build.
    condition     = can(regex("^[a-z][a-z0-9-]{2,12}[a-z0-9]$", var.name))
    error_message = "name must be 4 to 14 lower-case letters, digits and hyphens, starting with a letter and ending in a letter or digit."
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
    error_message = "approvers must name at least one member, or nobody can deploy."
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
    "artifactregistry.googleapis.com", "cloudbuild.googleapis.com", "cloudfunctions.googleapis.com",
    "cloudresourcemanager.googleapis.com", "eventarc.googleapis.com", "iam.googleapis.com", "pubsub.googleapis.com",
    "run.googleapis.com", "secretmanager.googleapis.com", "serviceusage.googleapis.com", "storage.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false
}

# Google's own agents, half an hour before the module grants them roles: a role cannot be granted to an agent that does
# not exist, and enabling an API does not always create its agent.
resource "google_project_service_identity" "this" {
  provider = google-beta
  for_each = toset([
    "cloudbuild.googleapis.com", "cloudfunctions.googleapis.com", "eventarc.googleapis.com", "pubsub.googleapis.com",
    "run.googleapis.com",
  ])
  service    = each.key
  depends_on = [google_project_service.this]
}

# --- state and plans

resource "google_storage_bucket" "state" {
  name                        = "${var.project_id}-${var.name}-terraform"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # A state that was overwritten by mistake can be restored from its versions.
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

# State and plans hold the Slack token in plain text, and a new bucket lets every Viewer of the project read it. Each of
# these roles is handed to the project's Owners alone: Terraform cannot keep a binding without members.
resource "google_storage_bucket_iam_binding" "owners_only" {
  for_each = toset(["legacyBucketOwner", "legacyBucketReader", "legacyObjectOwner", "legacyObjectReader"])
  bucket   = google_storage_bucket.state.name
  role     = "roles/storage.${each.key}"
  members  = ["projectOwner:${var.project_id}"]
}

resource "google_storage_bucket_iam_member" "plan_reads_state" {
  bucket = google_storage_bucket.state.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.build["plan"].member
}

# objectCreator cannot overwrite or delete: a plan that waits for approval stays what it was.
resource "google_storage_bucket_iam_member" "plan_keeps_plans" {
  bucket = google_storage_bucket.state.name
  role   = "roles/storage.objectCreator"
  member = google_service_account.build["plan"].member
  condition {
    title      = "plans-only"
    expression = "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.state.name}/objects/plans/\")"
  }
}

# --- accounts

resource "google_service_account" "build" {
  for_each     = { check = "test pull requests", plan = "test and plan", apply = "deploy what was approved" }
  account_id   = "${var.name}-${each.key}"
  display_name = "Ruum Batch: ${each.value}"
  depends_on   = [google_project_service.this]
}

# A pull request is anybody's code: its tests can write their log, and nothing else.
resource "google_project_iam_member" "check" {
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = google_service_account.build["check"].member
}

# To compare the project with the configuration, Terraform reads all of it, grants included; and the worker's image is
# pushed. Nothing here changes the project.
resource "google_project_iam_member" "plan" {
  for_each = toset([
    "roles/artifactregistry.writer",
    "roles/iam.securityReviewer",
    "roles/logging.logWriter",
    "roles/viewer",
  ])
  project = var.project_id
  role    = each.key
  member  = google_service_account.build["plan"].member
}

# Viewer lists buckets and does not read their settings.
resource "google_project_iam_custom_role" "plan" {
  role_id     = "${replace(var.name, "-", "_")}_plan"
  title       = "Ruum Batch: read what buckets are set to"
  permissions = ["storage.buckets.get", "storage.buckets.getIamPolicy"]
  depends_on  = [google_project_service.this]
}

resource "google_project_iam_member" "plan_reads_buckets" {
  project = var.project_id
  role    = google_project_iam_custom_role.plan.id
  member  = google_service_account.build["plan"].member
}

# The functions' sources are objects that Terraform compares too; they are no customer's.
resource "google_project_iam_member" "plan_reads_sources" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.build["plan"].member
  condition {
    title      = "${var.name}-function-sources-only"
    expression = "resource.name.startsWith(\"projects/_/buckets/${var.project_id}-${var.name}-code/\")"
  }
}

# What Terraform makes for the pipeline, by service; project-wide because what it grants on does not exist yet. Less than
# Owner, and still much: it makes accounts and grants, so everyone who can approve an apply controls the project.
resource "google_project_iam_member" "apply" {
  for_each = toset([
    "roles/artifactregistry.admin",
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
  member  = google_service_account.build["apply"].member
}

# The value is added by hand; the plan reads it for the alerts' channel.
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
  member    = google_service_account.build["plan"].member
}

# --- asking for an apply

# A plan is announced here. An account that may start builds may start them as any account it can act as. The plan's
# account may only publish this message.
resource "google_pubsub_topic" "plans" {
  name       = "${var.name}-plans"
  depends_on = [google_project_service.this]
}

resource "google_pubsub_topic_iam_member" "plan_asks" {
  topic  = google_pubsub_topic.plans.name
  role   = "roles/pubsub.publisher"
  member = google_service_account.build["plan"].member
}

# --- triggers

locals {
  substitutions = {
    _REGION          = var.region
    _NAME            = var.name
    _STATE_BUCKET    = google_storage_bucket.state.name
    _PLANS_TOPIC     = google_pubsub_topic.plans.name
    _BILLING_ACCOUNT = var.billing_account
  }
  plans = "gs://${google_storage_bucket.state.name}/plans/"
}

# What is proposed is tested before it is merged. The step stands here, so that a pull request cannot change what runs; from
# people without write access it waits until somebody who has comments "/gcbrun".
resource "google_cloudbuild_trigger" "check" {
  name            = "${var.name}-check"
  description     = "Tests of every pull request to main"
  location        = var.region
  service_account = google_service_account.build["check"].id
  repository_event_config {
    repository = var.repository
    pull_request {
      branch          = "^main$"
      comment_control = "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY"
    }
  }
  build {
    timeout = "5400s"
    options {
      logging      = "CLOUD_LOGGING_ONLY"
      machine_type = "E2_HIGHCPU_8"
    }
    step {
      id         = "test"
      name       = "gcr.io/google.com/cloudsdktool/google-cloud-cli:528.0.0-emulators"
      entrypoint = "bash"
      env        = ["CI=true"]
      args = ["-ceu", <<-EOT
        apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends \
          make python3-venv nodejs chromium chromium-driver
        make test
      EOT
      ]
    }
  }
}

resource "google_cloudbuild_trigger" "plan" {
  name            = "${var.name}-plan"
  description     = "Tests, image and plan of every commit on main"
  location        = var.region
  service_account = google_service_account.build["plan"].id
  filename        = "cloudbuild.yaml"
  substitutions   = local.substitutions
  repository_event_config {
    repository = var.repository
    push {
      branch = "^main$"
    }
  }
}

# A saved plan cannot be applied twice, nor after the state has changed: an apply that stopped halfway needs a new plan. Of a
# commit whose image exists, and that has therefore passed its tests, this makes one in minutes.
resource "google_cloudbuild_trigger" "replan" {
  name            = "${var.name}-replan"
  description     = "A new plan of a commit that was tested before; started by hand"
  location        = var.region
  service_account = google_service_account.build["plan"].id
  substitutions   = merge(local.substitutions, { _SKIP_TESTS = "yes" })
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

# Its steps stand here and not in the repository: a commit cannot change what runs with the rights to apply.
resource "google_cloudbuild_trigger" "apply" {
  name            = "${var.name}-apply"
  description     = "Applies an approved plan"
  location        = var.region
  service_account = google_service_account.build["apply"].id
  substitutions   = { _PLAN = "$(body.message.data.plan)" }
  pubsub_config {
    topic = google_pubsub_topic.plans.id
  }
  approval_config {
    approval_required = true
  }
  build {
    timeout = "5400s"
    options {
      logging = "CLOUD_LOGGING_ONLY"
    }
    # The name comes from a message, so it is handed over as a variable and never becomes part of a script.
    step {
      id         = "fetch-plan"
      name       = "gcr.io/google.com/cloudsdktool/google-cloud-cli:528.0.0-slim"
      entrypoint = "bash"
      env        = ["PLAN=$${_PLAN}"]
      args = ["-ceu", <<-EOT
        case "$$PLAN" in
          ${local.plans}*) ;;
          *) echo "\"$$PLAN\" is no plan of this pipeline: it must start with ${local.plans}" >&2; exit 1 ;;
        esac
        gcloud storage cp "$$PLAN" /workspace/plan.tgz
        mkdir /workspace/planned
        tar --extract --gzip --file=/workspace/plan.tgz -C /workspace/planned
      EOT
      ]
    }
    step {
      id         = "apply"
      name       = "hashicorp/terraform:1.11.4"
      entrypoint = "sh"
      args = ["-ceu", <<-EOT
        cd /workspace/planned
        configuration=$$(cat configuration)
        terraform -chdir=$$configuration init -input=false -lockfile=readonly -backend-config=bucket=${google_storage_bucket.state.name}
        terraform -chdir=$$configuration apply -input=false /workspace/planned/plan.tfplan
      EOT
      ]
    }
    step {
      id         = "after-apply"
      name       = "gcr.io/google.com/cloudsdktool/google-cloud-cli:528.0.0-slim"
      entrypoint = "bash"
      env        = ["PROJECT=${var.project_id}", "REGION=${var.region}", "NAME=${var.name}"]
      args       = ["/workspace/planned/terraform/after-apply.sh"]
    }
  }
}

resource "google_project_iam_member" "approver" {
  for_each = var.approvers
  project  = var.project_id
  role     = "roles/cloudbuild.builds.approver"
  member   = each.key
}

# To look at the plan before approving it. It holds the Slack token, and so does the state.
resource "google_storage_bucket_iam_member" "approver_reads_plans" {
  for_each = var.approvers
  bucket   = google_storage_bucket.state.name
  role     = "roles/storage.objectViewer"
  member   = each.key
}

output "state_bucket" {
  description = "Bucket of the state: terraform init -backend-config=bucket=…"
  value       = google_storage_bucket.state.name
}
