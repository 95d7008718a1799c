terraform {
  required_version = ">= 1.9"
  required_providers {
    archive = { source = "hashicorp/archive", version = "~> 2.4" }
    # 7.46 is the first with a generally available worker pool; 9.0 is untested.
    google = { source = "hashicorp/google", version = ">= 7.46, < 9.0" }
    # Only for google_project_service_identity, which no other provider has.
    google-beta = { source = "hashicorp/google-beta", version = ">= 7.46, < 9.0" }
    time        = { source = "hashicorp/time", version = "~> 0.12" }
  }
}
