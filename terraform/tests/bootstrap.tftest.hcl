# The bootstrap is applied once by hand: what it lets pass is noticed only when a build fails.
mock_provider "google" {}

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
