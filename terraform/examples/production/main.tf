# Two CRMs, one of them with a webhook, a larger Gemini quota, a budget, and alerts to people and to Slack. Region, quotas,
# CRMs and alerts are an example's: docs/operations.md, step 5, has them replaced before the first build.
terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = ">= 7.46, < 9.0" }
  }
  # The state in a bucket, made by terraform/bootstrap: docs/operations.md, step 3.
  backend "gcs" {
    prefix = "ruum-batch"
  }
}

provider "google" {
  project = var.project_id
  # The budget's API wants to know who asks.
  billing_project       = var.project_id
  user_project_override = true
}

variable "project_id" {
  description = "The production project."
  type        = string
}

variable "worker_image" {
  description = "The worker's image by digest; cloudbuild.yaml gives it."
  type        = string
}

variable "billing_account" {
  description = "Billing account of the budget; empty makes no budget."
  type        = string
  default     = ""
}

variable "slack_token" {
  description = "Token of the Slack app that posts alerts: TF_VAR_slack_token in the environment, never a file."
  type        = string
  sensitive   = true
}

module "ruum_batch" {
  source       = "../.."
  project_id   = var.project_id
  region       = "southamerica-east1"
  worker_image = var.worker_image

  # 300 images a minute of 50 s keep 250 in flight: three workers. Their picture work, 0.2 s of CPU an image, is one CPU in
  # all, and an idle CPU costs as much as a busy one.
  worker = {
    cpu           = "1"
    memory        = "4Gi"
    in_flight     = 100
    max_instances = 4
  }
  vendor_limits = {
    "gemini-nano-banana-2.1" = { per_minute = 300 }
    "gemini-3.5-flash-lite"  = { per_minute = 600 }
  }
  settings = {
    # Whom the operator of a photo host may write to: it stands in the User-Agent.
    RUUM_DOWNLOAD_CONTACT   = "mailto:operations@example.com"
    RUUM_PHOTO_JPEG_QUALITY = "92"
  }

  crm = {
    acme = { member = "serviceAccount:crm@acme-crm.iam.gserviceaccount.com" }
    globex = {
      member  = "serviceAccount:staging@globex-homes.iam.gserviceaccount.com"
      webhook = { endpoint = "https://crm.globex.example/hooks/ruum-batch" }
    }
  }

  operators  = []
  audit_logs = true

  alerts = {
    emails        = ["oncall@example.com"]
    slack_channel = "#ruum-batch"
  }
  slack_auth_token    = var.slack_token
  alert_limits        = { oldest_message_seconds = 7200, failed_share = 0.03 }
  results_kept_days   = 730
  documents_kept_days = 765
  budget              = var.billing_account == "" ? null : { billing_account = var.billing_account, amount = 500 }
}

output "environment" {
  description = "What operators export before `ruum-batch --project`."
  value       = module.ruum_batch.environment
}

output "exports" {
  description = "The same as shell commands: terraform output -raw exports > ruum.env."
  value       = module.ruum_batch.exports
}

output "crm_subscriptions" {
  description = "What each CRM pulls its events from."
  value       = module.ruum_batch.crm_subscriptions
}
