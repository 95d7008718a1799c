# The bootstrap is applied once by hand: what it lets pass is noticed only when a build fails.
mock_provider "google" {}
mock_provider "google-beta" {}

variables {
  project_id = "demo-project"
  repository = "projects/demo-project/locations/southamerica-east1/connections/github/repositories/ruum-batch"
  approvers  = ["group:platform@example.com"]
}

run "the_bootstrap" {
  command = plan
  module {
    source = "./bootstrap"
  }
  assert {
    condition     = google_cloudbuild_trigger.plan.substitutions["_BILLING_ACCOUNT"] == ""
    error_message = "No billing account is an empty one, of which the production example makes no budget."
  }
}

run "approval_guards_what_is_dangerous" {
  command = plan
  module {
    source = "./bootstrap"
  }
  assert {
    condition = length(setintersection([for grant in google_project_iam_member.plan : grant.role], [
      "roles/owner", "roles/editor", "roles/cloudbuild.builds.editor", "roles/iam.serviceAccountUser", "roles/storage.admin",
      "roles/resourcemanager.projectIamAdmin", "roles/secretmanager.admin", "roles/run.admin",
    ])) == 0
    error_message = "The account that runs a commit's tests can change nothing in the project."
  }
  assert {
    condition = toset([for grant in google_project_iam_member.plan : grant.role]) == toset([
      "roles/artifactregistry.writer", "roles/iam.securityReviewer", "roles/logging.logWriter", "roles/viewer",
    ])
    error_message = "The plan's account reads the project and pushes the image."
  }
  assert {
    condition     = google_cloudbuild_trigger.apply.approval_config[0].approval_required && google_cloudbuild_trigger.apply.filename == null
    error_message = "An apply is approved, and its steps are the bootstrap's and no commit's."
  }
  assert {
    condition     = google_project_iam_member.check.role == "roles/logging.logWriter"
    error_message = "A pull request's tests can write their log, and nothing else."
  }
  assert {
    condition     = google_cloudbuild_trigger.check.filename == null && google_cloudbuild_trigger.check.repository_event_config[0].pull_request[0].comment_control == "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY"
    error_message = "A stranger's pull request runs the bootstrap's steps only, and only when somebody has looked at it."
  }
  assert {
    condition     = google_storage_bucket_iam_member.plan_keeps_plans.role == "roles/storage.objectCreator"
    error_message = "A plan that waits for approval cannot be overwritten."
  }
  assert {
    condition     = google_cloudbuild_trigger.replan.substitutions["_SKIP_TESTS"] == "yes" && !contains(keys(google_cloudbuild_trigger.plan.substitutions), "_SKIP_TESTS")
    error_message = "Only a new plan of a tested commit goes without tests."
  }
  assert {
    condition     = toset([for step in google_cloudbuild_trigger.apply.build[0].step : step.id]) == toset(["fetch-plan", "apply", "after-apply"])
    error_message = "An apply fetches the plan, applies it, and sets what Terraform cannot."
  }
  assert {
    condition = alltrue([
      for service in ["eventarc.googleapis.com", "pubsub.googleapis.com", "run.googleapis.com", "cloudfunctions.googleapis.com", "cloudbuild.googleapis.com"] :
      contains(keys(google_project_service_identity.this), service) && contains(keys(google_project_service.this), service)
    ])
    error_message = "Service agents exist before the module grants them roles."
  }
}

run "the_bootstrap_with_a_budget" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    billing_account = "000000-111111-AAAAAA"
  }
  assert {
    condition     = google_cloudbuild_trigger.plan.substitutions["_BILLING_ACCOUNT"] == "000000-111111-AAAAAA"
    error_message = "The build is told which account the budget is of."
  }
}

run "a_project_number" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    project_id = "123456"
  }
  expect_failures = [var.project_id]
}

run "a_multi_region" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    region = "nam5"
  }
  expect_failures = [var.region]
}

run "a_name_too_long" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    name = "a-name-that-is-far-too-long"
  }
  expect_failures = [var.name]
}

run "a_repository_by_its_address" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    repository = "https://github.com/example/ruum-batch"
  }
  expect_failures = [var.repository]
}

run "nobody_approves" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    approvers = []
  }
  expect_failures = [var.approvers]
}

run "a_billing_account_by_its_name" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    billing_account = "My Billing Account"
  }
  expect_failures = [var.billing_account]
}

run "a_name_too_long_for_an_account" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    name = "fifteen-letters"
  }
  expect_failures = [var.name]
}

run "a_name_too_short_for_a_database" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    name = "rum"
  }
  expect_failures = [var.name]
}

run "a_name_that_ends_in_a_hyphen" {
  command = plan
  module {
    source = "./bootstrap"
  }
  variables {
    name = "ruum-"
  }
  expect_failures = [var.name]
}
