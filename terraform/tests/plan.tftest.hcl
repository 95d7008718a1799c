mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_data "google_storage_project_service_account" {
    defaults = { member = "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com" }
  }
}
mock_provider "google-beta" {}
mock_provider "archive" {
  mock_data "archive_file" {
    defaults = { output_sha256 = "0123abcd" }
  }
}
mock_provider "time" {}

variables {
  project_id   = "demo-project"
  worker_image = "us-docker.pkg.dev/demo/ruum/stage-image@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  alerts       = { emails = ["oncall@example.com"] }
}

run "the_defaults" {
  command = plan

  assert {
    condition     = toset(keys(google_pubsub_topic.this)) == toset(keys(local.topology.topics))
    error_message = "Topics are those of shared/topology.json."
  }
  assert {
    condition = alltrue([
      for name, subscription in google_pubsub_subscription.this : subscription.expiration_policy[0].ttl == ""
    ])
    error_message = "A subscription that expires takes its messages with it."
  }
  assert {
    condition = alltrue([
      for tier in ["express", "normal", "economy"] :
      google_pubsub_subscription.this["stage-image-${tier}"].dead_letter_policy[0].max_delivery_attempts == 10
      && google_pubsub_subscription.this["stage-image-${tier}"].ack_deadline_seconds == 18
      && google_pubsub_subscription.this["stage-image-${tier}"].retry_policy[0].minimum_backoff == "10s"
      && google_pubsub_subscription.this["stage-image-${tier}"].retry_policy[0].maximum_backoff == "300s"
    ])
    error_message = "Each tier is dead-lettered after 10 deliveries, with backoff from 10 s to 300 s."
  }
  assert {
    condition     = length(google_pubsub_subscription.this["dead-letter"].push_config) == 1 && length(google_pubsub_subscription.this["dead-letter-operators"].push_config) == 0
    error_message = "The dead-letter topic has two subscriptions: one pushed to the door, one kept for operators."
  }
  assert {
    condition     = google_pubsub_subscription.completed.filter == "attributes.\"ce-type\" = \"ruum.batch.completed\"" && google_pubsub_subscription.completed.message_retention_duration == "600s" && length(google_pubsub_subscription.completed.push_config) == 1
    error_message = "Workers are stopped when a batch completes, and reconcile is told of nothing else."
  }
  assert {
    condition = alltrue([
      for bucket in concat(values(google_storage_bucket.this), [google_storage_bucket.code]) :
      bucket.uniform_bucket_level_access && bucket.public_access_prevention == "enforced"
    ])
    error_message = "No bucket is public."
  }
  assert {
    condition     = google_eventarc_trigger.aggregate.event_data_content_type == "application/protobuf"
    error_message = "Firestore's events come as protobuf or not at all."
  }
  assert {
    condition     = google_cloudfunctions2_function.this["ingest"].event_trigger[0].retry_policy == "RETRY_POLICY_RETRY"
    error_message = "An ingest that raises must come again."
  }
  assert {
    condition     = alltrue([for function in google_cloudfunctions2_function.this : function.service_config[0].ingress_settings == "ALLOW_INTERNAL_ONLY"])
    error_message = "Nobody outside calls a function."
  }
  assert {
    condition     = google_cloud_run_v2_worker_pool.stage_image.scaling[0].manual_instance_count == 0
    error_message = "Workers cost nothing until something is open."
  }
  assert {
    condition     = google_firestore_database.this.delete_protection_state == "DELETE_PROTECTION_ENABLED"
    error_message = "The database is protected by default."
  }
  assert {
    condition     = length(google_billing_budget.this) == 0 && length(google_pubsub_subscription.webhook) == 0 && length(google_monitoring_notification_channel.slack) == 0
    error_message = "What was not asked for is not made."
  }
  assert {
    condition     = toset([for door, account in google_service_account.door : door]) == toset(keys(local.permissions))
    error_message = "Each door has an account of its own."
  }
  assert {
    condition     = length([for grant in google_project_iam_member.firestore : grant if length(grant.condition) == 0]) == 0
    error_message = "Firestore is granted for this pipeline's database only."
  }
  assert {
    condition     = local.settings.RUUM_GOOGLE_DOCUMENTS_KEPT_SECONDS == "34560000" && toset(keys(google_firestore_field.expires)) == toset(["batches", "cache", "hosts", "images", "reconciled", "tallies", "workers"])
    error_message = "Every document that is kept for a time is deleted after it."
  }
  assert {
    condition     = jsondecode(local.settings.RUUM_LIMITS)["gemini-nano-banana-2.1"].per_minute == 60
    error_message = "Quotas are those of shared/topology.json unless laid over."
  }
  assert {
    condition     = output.environment == local.settings && can(output.environment.RUUM_FLEET_POOL)
    error_message = "Operators' commands wake workers and count on as many as the doors do."
  }
  assert {
    condition     = !contains(keys(google_project_service.this), "billingbudgets.googleapis.com")
    error_message = "Without a budget its API stays off."
  }
}

run "a_first_apply" {
  command = plan

  assert {
    condition = (
      google_project_iam_member.functions_build_reads.role == "roles/storage.objectViewer"
      && strcontains(google_project_iam_member.functions_build_reads.condition[0].expression, "projects/_/buckets/gcf-v2-sources-123456789012-")
    )
    error_message = "The build reads a function's source in the bucket that Cloud Functions copies it to."
  }
  assert {
    condition     = time_sleep.functions_build.create_duration == "60s" && time_sleep.metrics.create_duration == "600s"
    error_message = "The build waits for its grants, alerts for their metrics."
  }
  assert {
    condition = alltrue([
      for service in ["eventarc.googleapis.com", "pubsub.googleapis.com"] : contains(keys(google_project_service_identity.this), service)
    ])
    error_message = "A service agent exists before it is granted a role."
  }
  assert {
    condition     = [for field in google_firestore_index.counts.fields : field.field_path] == ["counts.cancelled", "counts.completed", "counts.failed", "counts.processing", "counts.queued"] && alltrue([for field in google_firestore_index.counts.fields : field.order == "ASCENDING"])
    error_message = "A batch's counts are five sums in one query, which wants one index."
  }
  assert {
    condition     = [for field in google_firestore_index.moved.fields : "${field.field_path} ${field.order}"] == ["state ASCENDING", "movedAt ASCENDING"]
    error_message = "Reconcile asks for images by state and by the time they moved, in one index."
  }
  assert {
    condition     = alltrue([for field in google_firestore_field.unindexed : field.field == "*" && length(field.index_config[0].indexes) == 0])
    error_message = "What nobody queries has no index."
  }
  assert {
    condition = alltrue([
      for function in google_cloudfunctions2_function.this :
      function.service_config[0].environment_variables["THREADS"] == tostring(function.service_config[0].max_instance_request_concurrency)
    ])
    error_message = "A door has a thread for each request that Cloud Run sends it at once."
  }
  assert {
    condition = alltrue([
      for accounts in [google_service_account.door, google_service_account.caller] : alltrue([
        for account in accounts : length(account.account_id) >= 6 && length(account.account_id) <= 30
      ])
    ])
    error_message = "Service account ids have 6 to 30 characters."
  }
  assert {
    condition     = alltrue([for binding in google_storage_bucket_iam_binding.owners_only : binding.members == toset(["projectOwner:demo-project"])]) && length(google_storage_bucket_iam_binding.owners_only) == 16
    error_message = "A project's Viewers and Editors read no customer's pictures."
  }
  assert {
    condition     = length(google_project_iam_audit_config.objects) == 0 && length(google_project_iam_member.operator) == 0
    error_message = "Audit logs and operators are there when asked for."
  }
}

run "the_longest_name" {
  command = plan
  variables {
    name = "ruum-batch-two"
  }
  assert {
    condition = alltrue([
      for accounts in [google_service_account.door, google_service_account.caller] : alltrue([
        for account in accounts : length(account.account_id) <= 30
      ])
    ])
    error_message = "A name that is allowed fits every service account."
  }
}

run "people" {
  command = plan
  variables {
    operators  = ["group:operators@example.com"]
    audit_logs = true
  }
  assert {
    condition     = toset(keys(google_pubsub_topic_iam_member.operator)) == toset([for topic in keys(local.topology.topics) : "group:operators@example.com/${topic}" if topic != "dead-letter"])
    error_message = "A replay publishes tasks and events."
  }
  assert {
    condition     = toset([for grant in google_storage_bucket_iam_member.operator : split("/", grant.bucket)[0]]) == toset([for bucket in google_storage_bucket.this : bucket.name])
    error_message = "Commands read and write all four buckets."
  }
  assert {
    condition     = length(google_project_iam_audit_config.objects) == 1
    error_message = "Who reads objects is logged when asked for."
  }
}

run "what_is_seen" {
  command = plan

  assert {
    condition     = google_monitoring_alert_policy.reconcile_silent.conditions[0].condition_prometheus_query_language[0].query == "absent_over_time(logging_googleapis_com:user_ruum_reconciled{monitored_resource=\"cloud_run_revision\"}[1800s])"
    error_message = "A reconcile that never ran is noticed as well as one that stopped."
  }
  assert {
    condition = (
      endswith(google_monitoring_alert_policy.failing_push.conditions[0].condition_threshold[0].filter, "metric.label.response_class!=\"ack\"")
      && strcontains(google_monitoring_alert_policy.failing_push.conditions[0].condition_threshold[0].filter, "full_match(\"ruum-dead-letter|eventarc-southamerica-east1-ruum-(ingest|aggregate)-.*|ruum-batch-events-.*-webhook|ruum-completed\")")
      && !strcontains(google_monitoring_alert_policy.failing_push.conditions[0].condition_threshold[0].denominator_filter, "response_class")
    )
    error_message = "A push that is answered 403 or 404 is noticed, no matter who pushes."
  }
  assert {
    condition = anytrue([
      for condition in google_monitoring_alert_policy.oldest_message.conditions :
      strcontains(condition.condition_threshold[0].filter, "eventarc-southamerica-east1-ruum-(ingest|aggregate)-.*") && condition.condition_threshold[0].threshold_value == 1800
      ]) && anytrue([
      for condition in google_monitoring_alert_policy.oldest_message.conditions :
      strcontains(condition.condition_threshold[0].filter, "ruum-stage-image-.*") && condition.condition_threshold[0].threshold_value == 14400
    ])
    error_message = "Events and dead letters are late after half an hour, tasks after a healthy backlog."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.undelivered_events.conditions[0].condition_threshold[0].filter, "\"ruum-undelivered-events\"")
    error_message = "An event that was given up is noticed."
  }

  assert {
    condition = alltrue([
      for filter in [
        google_monitoring_slo.staged.request_based_sli[0].good_total_ratio[0].good_service_filter,
        google_monitoring_slo.staged.request_based_sli[0].good_total_ratio[0].bad_service_filter,
      ] : strcontains(filter, "resource.type=one_of(\"cloud_run_revision\",\"cloud_run_worker_pool\")")
    ])
    error_message = "The SLO counts what workers settle and what the dead_letter door settles."
  }
  assert {
    condition = anytrue([
      for tile in jsondecode(google_monitoring_dashboard.this.dashboard_json).mosaicLayout.tiles :
      try(strcontains(tile.widget.xyChart.dataSets[0].timeSeriesQuery.timeSeriesFilter.filter, "/circuit_not_closed\""), false)
    ])
    error_message = "The dashboard shows a circuit for as long as it is open, and not only when it opens."
  }
  assert {
    condition     = strcontains(google_logging_metric.counter["circuit_not_closed"].filter, "jsonPayload.event=\"quota_use\"")
    error_message = "A circuit's state is told each minute, its changes only once."
  }
  assert {
    condition = anytrue([
      for tile in jsondecode(google_monitoring_dashboard.this.dashboard_json).mosaicLayout.tiles :
      try(tile.widget.xyChart.dataSets[0].timeSeriesQuery.prometheusQuery, "") == "sum by (client) (increase(logging_googleapis_com:user_ruum_cost_usd_sum{monitored_resource=\"cloud_run_worker_pool\"}[1h]) or increase(logging_googleapis_com:user_ruum_cost_usd_sum{monitored_resource=\"cloud_run_revision\"}[1h]))"
    ])
    error_message = "The dashboard shows dollars spent, and not only what an image costs."
  }
  assert {
    condition = alltrue([
      for door in local.functions :
      strcontains(google_monitoring_alert_policy.failing_door.conditions[0].condition_threshold[0].filter, "\"${google_cloudfunctions2_function.this[door].name}\"")
      && strcontains(google_monitoring_alert_policy.failing_door.conditions[0].condition_threshold[0].denominator_filter, "\"${google_cloudfunctions2_function.this[door].name}\"")
    ])
    error_message = "No door fails unnoticed."
  }
  assert {
    condition = (
      strcontains(google_monitoring_alert_policy.failing_door.conditions[0].condition_threshold[0].filter, "run.googleapis.com/request_count")
      && endswith(google_monitoring_alert_policy.failing_door.conditions[0].condition_threshold[0].filter, "metric.label.response_code_class=\"5xx\"")
      && !strcontains(google_monitoring_alert_policy.failing_door.conditions[0].condition_threshold[0].denominator_filter, "5xx")
      && google_monitoring_alert_policy.failing_door.conditions[0].condition_threshold[0].aggregations[0].group_by_fields == tolist(["resource.label.service_name"])
      && google_monitoring_alert_policy.failing_door.conditions[0].condition_threshold[0].denominator_aggregations[0].group_by_fields == tolist(["resource.label.service_name"])
    )
    error_message = "A door fails when many of its own calls end with 5xx: one busy door must not hide another."
  }
}

run "another_name" {
  command = plan
  variables {
    name = "ruum-two"
  }
  assert {
    condition     = strcontains(google_monitoring_dashboard.this.dashboard_json, "logging_googleapis_com:user_ruum_two_cost_usd_sum")
    error_message = "PromQL knows no hyphen."
  }
}

# Names are made of both, and a bucket's may have 63 characters.
run "another_project_of_the_longest_name" {
  command = plan
  variables {
    project_id = "a-project-of-thirty-characters"
    name       = "ruum-fourteen1"
  }
  assert {
    condition = alltrue([
      for bucket in concat(values(google_storage_bucket.this), [google_storage_bucket.code]) :
      length(bucket.name) <= 63 && startswith(bucket.name, "a-project-of-thirty-characters-ruum-fourteen1-")
    ])
    error_message = "Buckets are named by project and name, in 63 characters at most."
  }
  assert {
    condition     = local.settings.GOOGLE_CLOUD_PROJECT == "a-project-of-thirty-characters" && !strcontains(jsonencode(local.settings), "demo-project")
    error_message = "Nothing names another project."
  }
}

run "least_privilege" {
  command = plan

  assert {
    condition     = toset([for key, grant in google_secret_manager_secret_iam_member.door : split("/", key)[0]]) == toset(["stage_image"])
    error_message = "Only workers read the Gemini key."
  }
  assert {
    condition     = toset([for key, grant in google_cloud_run_v2_worker_pool_iam_member.scaler : split("/", key)[0]]) == toset(["ingest", "reconcile"])
    error_message = "Only ingest and reconcile start and stop workers."
  }
  assert {
    condition     = length([for key, grant in google_storage_bucket_iam_member.door : key if startswith(key, "dead_letter/")]) == 0
    error_message = "DEAD LETTER touches no object."
  }
  assert {
    condition     = toset([for key, grant in google_pubsub_subscription_iam_member.door : split("/", key)[0]]) == toset(["stage_image"])
    error_message = "Only workers pull."
  }
}

run "a_crm_with_a_webhook" {
  command = plan
  variables {
    crm = {
      acme   = { member = "serviceAccount:crm@acme.iam.gserviceaccount.com", webhook = { endpoint = "https://crm.example.com/hook" } }
      globex = { member = "serviceAccount:crm@globex.iam.gserviceaccount.com" }
    }
    vendor_limits = { "gemini-nano-banana-2.1" = { per_minute = 300 } }
    budget        = { billing_account = "000000-111111-222222", amount = 100 }
  }

  assert {
    condition     = google_pubsub_subscription.webhook["acme"].push_config[0].oidc_token[0].audience == "https://crm.example.com/hook"
    error_message = "The endpoint is the audience unless told otherwise."
  }
  assert {
    condition     = google_pubsub_subscription.crm["acme"].filter == "attributes.client = \"acme\""
    error_message = "A CRM sees its own batches only."
  }
  assert {
    condition     = google_pubsub_subscription.webhook["acme"].filter == "attributes.client = \"acme\"" && length(google_pubsub_subscription.webhook) == 1
    error_message = "A webhook is pushed its own client's events only."
  }
  assert {
    condition = (
      endswith(google_storage_bucket_iam_member.crm_writes["acme/intake"].condition[0].expression, "-intake/objects/manifests/acme/\")")
      && endswith(google_storage_bucket_iam_member.crm_writes["acme/source"].condition[0].expression, "-source/objects/acme/\")")
      && length(google_storage_bucket_iam_member.crm_writes) == 4
    )
    error_message = "A CRM writes manifests and photos into its own folders only."
  }
  assert {
    condition     = jsondecode(local.settings.RUUM_LIMITS)["gemini-nano-banana-2.1"].per_minute == 300 && jsondecode(local.settings.RUUM_LIMITS)["runway"].concurrent == 10
    error_message = "vendor_limits are laid over those of the file."
  }
  assert {
    condition     = length(google_billing_budget.this) == 1 && contains(keys(google_project_service.this), "billingbudgets.googleapis.com")
    error_message = "A budget where one was asked for, and its API."
  }
}

run "signed_links" {
  command = plan
  variables {
    signed_link_seconds = 3600
  }
  assert {
    condition     = contains(keys(google_project_service.this), "iamcredentials.googleapis.com")
    error_message = "Links are signed through an API that must be on."
  }
  assert {
    condition     = toset(keys(google_service_account_iam_member.signs)) == toset(["aggregate", "ingest", "reconcile"])
    error_message = "Those that announce batches sign their links, and nobody else."
  }
}

run "the_preview_needs_no_key" {
  command = plan
  variables {
    staging_model = "preview"
  }
  assert {
    condition     = length([for env in google_cloud_run_v2_worker_pool.stage_image.template[0].containers[0].env : env if env.name == "GEMINI_API_KEY"]) == 0
    error_message = "The preview model reads no secret."
  }
}

run "minimal_example" {
  command = plan
  module {
    source = "./examples/minimal"
  }
  variables {
    alert_email = "oncall@example.com"
  }
}

run "production_example" {
  command = plan
  module {
    source = "./examples/production"
  }
  variables {
    billing_account = "000000-111111-222222"
    slack_token     = "not-a-token"
  }
}

# As the build plans it where no billing account was given to the bootstrap: an empty one would be refused.
run "production_example_without_a_budget" {
  command = plan
  module {
    source = "./examples/production"
  }
  variables {
    billing_account = ""
    slack_token     = "not-a-token"
  }
}
