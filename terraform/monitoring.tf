resource "google_monitoring_notification_channel" "email" {
  for_each     = toset(var.alerts.emails)
  project      = var.project_id
  display_name = each.key
  type         = "email"
  labels       = { email_address = each.key }
  depends_on   = [google_project_service.this]
}

resource "google_monitoring_notification_channel" "slack" {
  count        = var.alerts.slack_channel == null ? 0 : 1
  project      = var.project_id
  display_name = "Slack ${var.alerts.slack_channel}"
  type         = "slack"
  labels       = { channel_name = var.alerts.slack_channel }
  sensitive_labels {
    auth_token = var.slack_auth_token
  }
  depends_on = [google_project_service.this]
}

locals {
  channels = concat(
    [for channel in google_monitoring_notification_channel.email : channel.id],
    [for channel in google_monitoring_notification_channel.slack : channel.id],
  )
  user      = "metric.type=\"logging.googleapis.com/user/${var.name}"
  any_of_us = "resource.type=one_of(\"cloud_run_revision\",\"cloud_run_worker_pool\")"
  # A function's calls are its Cloud Run service's, which has its name.
  doors_named = join(",", [for door in local.functions : "\"${var.name}-${local.slug[door]}\""])
  calls       = "metric.type=\"run.googleapis.com/request_count\" AND resource.type=\"cloud_run_revision\" AND resource.label.service_name=one_of(${local.doors_named})"

  # Webhooks too: a CRM does not notice that its own endpoint refuses events.
  pushes = "metric.type=\"pubsub.googleapis.com/subscription/push_request_count\" AND ${local.subscription}(\"${local.door_subscriptions}|${var.name}-batch-events-.*-webhook|${var.name}-completed\")"

  # Alerts that a single log line raises, within five minutes.
  line_alerts = {
    dead-letters = {
      metric = "dead_letters", severity = "WARNING", name = "Images failed and wait for a replay"
    }
    circuit-open = {
      metric = "circuit_opened", severity = "ERROR", name = "A vendor does not answer: the circuit is open"
    }
    quota-exhausted = {
      metric = "day_spent", severity = "ERROR", name = "A vendor's daily quota is used up"
    }
    configuration-fault = {
      metric = "configuration_faults", severity = "CRITICAL", name = "Our configuration is at fault: work stops"
    }
    stalled-batch = {
      metric = "batches_stalled", severity = "ERROR", name = "A running batch has not moved for an hour"
    }
    paused-batch = {
      metric = "batches_paused", severity = "WARNING", name = "A batch was paused: too many of its images fail"
    }
  }
}

resource "google_monitoring_alert_policy" "line" {
  for_each              = local.line_alerts
  project               = var.project_id
  display_name          = "${var.name}: ${each.value.name}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = local.channels
  conditions {
    display_name = each.value.name
    condition_threshold {
      filter          = "${local.user}/${each.value.metric}\" AND ${local.any_of_us}"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }
  alert_strategy {
    auto_close = "3600s"
  }
  documentation {
    mime_type = "text/markdown"
    content   = "${each.value.name}. What it means, how to look and what to do: docs/operations.md, \"${each.key}\"."
  }
  depends_on = [time_sleep.metrics]
}

locals {
  subscription = "resource.type=\"pubsub_subscription\" AND resource.label.subscription_id=monitoring.regex.full_match"
  # Eventarc names its subscriptions eventarc-<region>-<trigger>-sub-<number>; a function's own trigger is the function's
  # name and a number.
  eventarc_subscriptions = "eventarc-${var.region}-${var.name}-(ingest|aggregate)-.*"
  door_subscriptions     = "${var.name}-dead-letter|${local.eventarc_subscriptions}"
  # Alerting is billed by the condition and the series: one condition for all subscriptions of a kind.
  oldest = {
    tasks  = { subscriptions = "${var.name}-stage-image-.*", seconds = var.alert_limits.oldest_message_seconds }
    events = { subscriptions = local.door_subscriptions, seconds = var.alert_limits.oldest_event_seconds }
  }
}

resource "google_monitoring_alert_policy" "oldest_message" {
  project               = var.project_id
  display_name          = "${var.name}: A task or event waits for too long"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  dynamic "conditions" {
    for_each = local.oldest
    content {
      display_name = "Oldest message: ${conditions.key}"
      condition_threshold {
        filter          = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND ${local.subscription}(\"${conditions.value.subscriptions}\")"
        comparison      = "COMPARISON_GT"
        threshold_value = conditions.value.seconds
        duration        = "300s"
        aggregations {
          alignment_period   = "60s"
          per_series_aligner = "ALIGN_MAX"
        }
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "A task or event waits for too long. What it means, how to look and what to do: docs/operations.md, \"oldest-message\"."
  }
  depends_on = [google_project_service.this]
}

# Reconcile is the safety net, so its silence must raise an alert. A schedule that is paused, refused (403) or sent to a
# wrong address (404) fails no door. PromQL, because the other absence condition never fires for a line that never came.
resource "google_monitoring_alert_policy" "reconcile_silent" {
  project               = var.project_id
  display_name          = "${var.name}: Reconcile has not finished a run"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels
  conditions {
    display_name = "No \"reconciled\" line for ${var.alert_limits.reconcile_silent_seconds} s"
    condition_prometheus_query_language {
      query                     = "absent_over_time(${local.promql}_reconciled{monitored_resource=\"cloud_run_revision\"}[${var.alert_limits.reconcile_silent_seconds}s])"
      duration                  = "60s"
      evaluation_interval       = "60s"
      disable_metric_validation = true
    }
  }
  alert_strategy {
    auto_close = "3600s"
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Reconcile has not finished a run. What it means, how to look and what to do: docs/operations.md, \"reconcile-silent\"."
  }
  depends_on = [time_sleep.metrics]
}

# A push that is refused (403), finds nothing (404) or takes too long does not count as a 5xx of a door.
resource "google_monitoring_alert_policy" "failing_push" {
  project               = var.project_id
  display_name          = "${var.name}: Pushes are not accepted"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  conditions {
    display_name = "More than half of a subscription's pushes in half an hour, for ten minutes"
    condition_threshold {
      filter             = "${local.pushes} AND metric.label.response_class!=\"ack\""
      denominator_filter = local.pushes
      comparison         = "COMPARISON_GT"
      # As for doors: a single failed push is retried and is no reason to wake anybody.
      threshold_value = 0.5
      duration        = "600s"
      aggregations {
        alignment_period     = "1800s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.subscription_id"]
      }
      denominator_aggregations {
        alignment_period     = "1800s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.subscription_id"]
      }
    }
  }
  alert_strategy {
    auto_close = "3600s"
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Pushes are not accepted. What it means, how to look and what to do: docs/operations.md, \"failing-push\"."
  }
  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "undelivered_events" {
  project               = var.project_id
  display_name          = "${var.name}: Events were given up"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels
  conditions {
    display_name = "Messages in ${google_pubsub_subscription.undelivered_events.name}"
    condition_threshold {
      filter          = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND resource.type=\"pubsub_subscription\" AND resource.label.subscription_id=\"${google_pubsub_subscription.undelivered_events.name}\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Events were given up. What it means, how to look and what to do: docs/operations.md, \"undelivered-events\"."
  }
  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "error_rate" {
  project               = var.project_id
  display_name          = "${var.name}: Too many images fail"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  conditions {
    display_name = "Failed share of the finished images, over 15 minutes"
    condition_threshold {
      filter             = "${local.user}/images_settled\" AND ${local.any_of_us} AND metric.label.state=\"failed\""
      denominator_filter = "${local.user}/images_settled\" AND ${local.any_of_us}"
      comparison         = "COMPARISON_GT"
      threshold_value    = var.alert_limits.failed_share
      duration           = "0s"
      aggregations {
        alignment_period     = "900s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
      denominator_aggregations {
        alignment_period     = "900s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Too many images fail. What it means, how to look and what to do: docs/operations.md, \"error-rate\"."
  }
  depends_on = [time_sleep.metrics]
}

# A door that cannot start, or runs out of memory or time, writes no line of ours; Cloud Run counts its answers all the same.
resource "google_monitoring_alert_policy" "failing_door" {
  project               = var.project_id
  display_name          = "${var.name}: A door fails"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels
  conditions {
    display_name = "More than half of a door's calls in half an hour, for ten minutes"
    condition_threshold {
      filter             = "${local.calls} AND metric.label.response_code_class=\"5xx\""
      denominator_filter = local.calls
      comparison         = "COMPARISON_GT"
      # A failed call is retried. Half an hour holds three of reconcile's calls: one failure raises no alert, two or three do. Ten minutes are longer than an ingest that ran out of time once and continues at redelivery.
      threshold_value = 0.5
      duration        = "600s"
      aggregations {
        alignment_period     = "1800s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.service_name"]
      }
      denominator_aggregations {
        alignment_period     = "1800s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.service_name"]
      }
    }
  }
  alert_strategy {
    # Without calls, nothing shows that the fault is over.
    auto_close = "3600s"
  }
  documentation {
    mime_type = "text/markdown"
    content   = "A door answers most of its calls with 5xx. What it means, how to look and what to do: docs/operations.md, \"failing-door\"."
  }
  depends_on = [google_project_service.this]
}

# --- SLO: 99.5 % of finished images are staged

resource "google_monitoring_custom_service" "this" {
  project      = var.project_id
  service_id   = "${var.name}-batch"
  display_name = "Ruum Batch (${var.name})"
  depends_on   = [google_project_service.this]
}

resource "google_monitoring_slo" "staged" {
  project             = var.project_id
  service             = google_monitoring_custom_service.this.service_id
  slo_id              = "${var.name}-staged"
  display_name        = "99.5 % of finished images are staged"
  goal                = 0.995
  rolling_period_days = 28
  request_based_sli {
    good_total_ratio {
      # Cancelled images are the customer's wish, not our failure. Counts workers and functions: the dead_letter door settles images too.
      good_service_filter = "${local.user}/images_settled\" AND ${local.any_of_us} AND metric.label.state=one_of(\"completed\",\"cancelled\")"
      bad_service_filter  = "${local.user}/images_settled\" AND ${local.any_of_us} AND metric.label.state=\"failed\""
    }
  }
  depends_on = [time_sleep.metrics]
}

# The window pairs of Google's SRE workbook: a long window to be sure, a short one so that the alert ends with the fault.
resource "google_monitoring_alert_policy" "burn_rate" {
  for_each = {
    fast = { rate = 14.4, long = "3600s", short = "300s", severity = "CRITICAL", words = "2 % of the month's error budget in an hour" }
    slow = { rate = 6, long = "21600s", short = "1800s", severity = "WARNING", words = "5 % of the month's error budget in six hours" }
  }
  project               = var.project_id
  display_name          = "${var.name}: Error budget burns ${each.key}"
  combiner              = "AND"
  severity              = each.value.severity
  notification_channels = local.channels
  dynamic "conditions" {
    for_each = [each.value.long, each.value.short]
    content {
      display_name = "${each.value.rate} times over ${conditions.value}"
      condition_threshold {
        filter          = "select_slo_burn_rate(\"${google_monitoring_slo.staged.id}\", \"${conditions.value}\")"
        comparison      = "COMPARISON_GT"
        threshold_value = each.value.rate
        duration        = "0s"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Error budget burns: ${each.value.words}. What to do: docs/operations.md, \"burn-rate\"."
  }
}
