mock_provider "google" {}
mock_provider "google-beta" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id   = "demo-project"
  worker_image = "us-docker.pkg.dev/demo/ruum/stage-image@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  alerts       = { emails = ["oncall@example.com"] }
}

run "an_image_by_tag" {
  command = plan
  variables {
    worker_image = "us-docker.pkg.dev/demo/ruum/stage-image:latest"
  }
  expect_failures = [var.worker_image]
}

run "a_multi_region" {
  command = plan
  variables {
    region = "nam5"
  }
  expect_failures = [var.region]
}

run "a_project_number" {
  command = plan
  variables {
    project_id = "123456"
  }
  expect_failures = [var.project_id]
}

run "a_name_too_long" {
  command = plan
  variables {
    name = "a-name-that-is-far-too-long"
  }
  expect_failures = [var.name]
}

run "an_unknown_model" {
  command = plan
  variables {
    staging_model = "dalle"
  }
  expect_failures = [var.staging_model]
}

run "a_limit_of_nothing" {
  command = plan
  variables {
    vendor_limits = { "gemini-nano-banana-2.1" = {} }
  }
  expect_failures = [var.vendor_limits]
}

run "a_limit_of_zero" {
  command = plan
  variables {
    vendor_limits = { "gemini-nano-banana-2.1" = { per_minute = 0 } }
  }
  expect_failures = [var.vendor_limits]
}

run "a_plain_http_webhook" {
  command = plan
  variables {
    crm = { acme = { member = "user:a@example.com", webhook = { endpoint = "http://crm.example.com" } } }
  }
  expect_failures = [var.crm]
}

run "a_client_that_is_no_folder" {
  command = plan
  variables {
    crm = { "Acme Homes" = { member = "user:a@example.com" } }
  }
  expect_failures = [var.crm]
}

run "everybody_as_a_reader" {
  command = plan
  variables {
    crm = { acme = { member = "allUsers" } }
  }
  expect_failures = [var.crm]
}

run "a_setting_by_another_name" {
  command = plan
  variables {
    settings = { LOG = "1" }
  }
  expect_failures = [var.settings]
}

run "alerts_to_nobody" {
  command = plan
  variables {
    alerts = { emails = [] }
  }
  expect_failures = [var.alerts]
}

run "slack_without_a_token" {
  command = plan
  variables {
    alerts = { emails = ["oncall@example.com"], slack_channel = "#ops" }
  }
  expect_failures = [var.slack_auth_token]
}

run "results_kept_for_a_day" {
  command = plan
  variables {
    results_kept_days = 1
  }
  expect_failures = [var.results_kept_days]
}

run "documents_kept_for_two_months" {
  command = plan
  variables {
    documents_kept_days = 60
    results_kept_days   = 30
  }
  expect_failures = [var.documents_kept_days]
}

run "documents_deleted_before_the_pictures_they_name" {
  command = plan
  variables {
    results_kept_days = 400
  }
  expect_failures = [var.documents_kept_days]
}

run "links_for_a_month" {
  command = plan
  variables {
    signed_link_seconds = 2592000
  }
  expect_failures = [var.signed_link_seconds]
}

run "no_workers" {
  command = plan
  variables {
    worker = { max_instances = 0 }
  }
  expect_failures = [var.worker]
}

run "half_of_all_fail_silently" {
  command = plan
  variables {
    alert_limits = { failed_share = 1 }
  }
  expect_failures = [var.alert_limits]
}

run "a_negative_price" {
  command = plan
  variables {
    tier_factors = { economy = -0.3 }
  }
  expect_failures = [var.tier_factors]
}

run "a_memory_without_a_unit" {
  command = plan
  variables {
    worker = { memory = "2048" }
  }
  expect_failures = [var.worker]
}

run "a_memory_too_small_for_a_picture" {
  command = plan
  variables {
    worker = { memory = "512Mi" }
  }
  expect_failures = [var.worker]
}

run "a_memory_too_small_for_its_cpus" {
  command = plan
  variables {
    worker = { cpu = "8", memory = "2Gi" }
  }
  expect_failures = [var.worker]
}

run "a_memory_too_large_for_its_cpu" {
  command = plan
  variables {
    worker = { cpu = "1", memory = "8Gi" }
  }
  expect_failures = [var.worker]
}

run "a_schedule_in_words" {
  command = plan
  variables {
    reconcile_schedule = "every ten minutes"
  }
  expect_failures = [var.reconcile_schedule]
}

run "a_schedule_of_four_fields" {
  command = plan
  variables {
    reconcile_schedule = "*/10 * * *"
  }
  expect_failures = [var.reconcile_schedule]
}

run "an_alert_at_each_retry" {
  command = plan
  variables {
    alert_limits = { oldest_message_seconds = 60 }
  }
  expect_failures = [var.alert_limits]
}

run "an_alert_that_never_fires" {
  command = plan
  variables {
    alert_limits = { oldest_message_seconds = 604801 }
  }
  expect_failures = [var.alert_limits]
}

run "a_budget_of_no_account" {
  command = plan
  variables {
    budget = { billing_account = "", amount = 100 }
  }
  expect_failures = [var.budget]
}

run "a_budget_of_nothing" {
  command = plan
  variables {
    budget = { billing_account = "000000-111111-222222", amount = 0 }
  }
  expect_failures = [var.budget]
}

run "a_budget_of_cents" {
  command = plan
  variables {
    budget = { billing_account = "000000-111111-222222", amount = 99.5 }
  }
  expect_failures = [var.budget]
}

run "a_budget_in_dollars" {
  command = plan
  variables {
    budget = { billing_account = "000000-111111-222222", amount = 100, currency = "dollars" }
  }
  expect_failures = [var.budget]
}

run "no_images_in_flight" {
  command = plan
  variables {
    worker = { in_flight = 0 }
  }
  expect_failures = [var.worker]
}

run "three_cpus" {
  command = plan
  variables {
    worker = { cpu = "3", memory = "4Gi" }
  }
  expect_failures = [var.worker]
}

run "a_name_too_long_for_an_account" {
  command = plan
  variables {
    name = "fifteen-letters"
  }
  expect_failures = [var.name]
}

run "a_name_too_short_for_a_database" {
  command = plan
  variables {
    name = "rum"
  }
  expect_failures = [var.name]
}

run "a_name_that_ends_in_a_hyphen" {
  command = plan
  variables {
    name = "ruum-"
  }
  expect_failures = [var.name]
}

run "an_operator_by_name" {
  command = plan
  variables {
    operators = ["Ana"]
  }
  expect_failures = [var.operators]
}

run "an_alert_during_each_ingest" {
  command = plan
  variables {
    alert_limits = { oldest_event_seconds = 300 }
  }
  expect_failures = [var.alert_limits]
}

run "an_alert_between_two_runs_of_reconcile" {
  command = plan
  variables {
    alert_limits = { reconcile_silent_seconds = 600 }
  }
  expect_failures = [var.alert_limits]
}
