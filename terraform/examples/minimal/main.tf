# The least that runs: everything by default, alerts to one address.
terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = ">= 7.46, < 9.0" }
  }
}

provider "google" {
  project = var.project_id
}

variable "project_id" {
  description = "An empty project with billing."
  type        = string
}

variable "worker_image" {
  description = "The worker's image by digest, as Cloud Build pushed it."
  type        = string
}

variable "alert_email" {
  description = "Who is told when something is wrong."
  type        = string
}

module "ruum_batch" {
  source       = "../.."
  project_id   = var.project_id
  worker_image = var.worker_image
  alerts       = { emails = [var.alert_email] }
}

output "intake_bucket" {
  description = "Where manifests are dropped."
  value       = module.ruum_batch.intake_bucket
}
