# Metrics from our own log lines. Names of events and fields are those of shared/telemetry.py; a test compares them.
locals {
  # Counters: one per log line of an event, with these fields as labels.
  counters = {
    images_settled       = { event = "image_settled", labels = ["state", "client", "code"], and = "" }
    attempts_failed      = { event = "attempt_failed", labels = ["code"], and = "" }
    dead_letters         = { event = "dead_letter", labels = ["code"], and = "" }
    throttled            = { event = "throttled", labels = ["model"], and = "" }
    circuit_opened       = { event = "quota_changed", labels = ["model"], and = "jsonPayload.circuit=\"open\"" }
    circuit_not_closed   = { event = "quota_use", labels = ["model", "circuit"], and = "jsonPayload.circuit=(\"open\" OR \"half_open\")" }
    day_spent            = { event = "quota_changed", labels = ["model"], and = "jsonPayload.daySpent=true" }
    configuration_faults = { event = "configuration_fault", labels = [], and = "" }
    batches_accepted     = { event = "batch_accepted", labels = ["client", "tier"], and = "" }
    batches_rejected     = { event = "batch_rejected", labels = ["client"], and = "" }
    batches_closed       = { event = "batch_closed", labels = ["client", "state"], and = "" }
    batches_paused       = { event = "batch_paused", labels = ["client"], and = "" }
    batches_stalled      = { event = "batch_stalled", labels = ["client"], and = "" }
    reconciled           = { event = "reconciled", labels = [], and = "" }
  }
  # Distributions: the field's values.
  distributions = {
    cost_usd      = { event = "image_settled", field = "costUsd", labels = ["client"], unit = "1" }
    step_ms       = { event = "step", field = "durationMs", labels = ["step"], unit = "ms" }
    quota_share   = { event = "quota_use", field = "share", labels = ["model"], unit = "1" }
    quota_waiting = { event = "quota_use", field = "waiting", labels = ["model"], unit = "1" }
    in_hand       = { event = "health", field = "inHand", labels = [], unit = "1" }
  }
  ours = "(resource.type=\"cloud_run_revision\" OR resource.type=\"cloud_run_worker_pool\") AND jsonPayload.event"
}

resource "google_logging_metric" "counter" {
  for_each = local.counters
  project  = var.project_id
  name     = "${var.name}/${each.key}"
  filter   = join(" AND ", compact(["${local.ours}=\"${each.value.event}\"", each.value.and]))
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
    dynamic "labels" {
      for_each = each.value.labels
      content {
        key        = labels.value
        value_type = "STRING"
      }
    }
  }
  label_extractors = { for label in each.value.labels : label => "EXTRACT(jsonPayload.${label})" }
  depends_on       = [google_project_service.this]
}

resource "google_logging_metric" "distribution" {
  for_each        = local.distributions
  project         = var.project_id
  name            = "${var.name}/${each.key}"
  filter          = "${local.ours}=\"${each.value.event}\""
  value_extractor = "EXTRACT(jsonPayload.${each.value.field})"
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = each.value.unit
    dynamic "labels" {
      for_each = each.value.labels
      content {
        key        = labels.value
        value_type = "STRING"
      }
    }
  }
  label_extractors = { for label in each.value.labels : label => "EXTRACT(jsonPayload.${label})" }
  bucket_options {
    exponential_buckets {
      num_finite_buckets = 64
      growth_factor      = 1.4
      scale              = 0.001
    }
  }
  depends_on = [google_project_service.this]
}

# Monitoring may take ten minutes to know a new log metric. Until then it answers a policy on the metric with 404, and
# the provider does not retry.
resource "time_sleep" "metrics" {
  create_duration = "600s"
  triggers = {
    metrics = join(",", concat(
      [for metric in google_logging_metric.counter : metric.id],
      [for metric in google_logging_metric.distribution : metric.id],
    ))
  }
}
