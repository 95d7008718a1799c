resource "google_pubsub_topic" "this" {
  for_each = local.topology.topics
  project  = var.project_id
  name     = "${var.name}-${each.key}"
  # Keeps every message for a week, so that we can replay them after a mistake of ours.
  message_retention_duration = "604800s"
  depends_on                 = [google_project_service.this]
}

resource "google_pubsub_subscription" "this" {
  for_each             = local.subscriptions
  project              = var.project_id
  name                 = "${var.name}-${each.key}"
  topic                = google_pubsub_topic.this[each.value.topic].id
  ack_deadline_seconds = each.value.policy.ack_deadline_seconds
  # The maximum: a backlog that waits for a daily quota can be days old and still healthy.
  message_retention_duration = each.value.kind == "keep" ? "2678400s" : "604800s"
  # Events about vendors' quotas are for operators only.
  filter = each.value.topic == "batch-events" ? "NOT hasPrefix(attributes.client, \"~\")" : null
  # Without this a subscription that is not used for 31 days is deleted, and its messages with it.
  expiration_policy {
    ttl = ""
  }
  retry_policy {
    minimum_backoff = "${each.value.policy.retry_minimum_seconds}s"
    maximum_backoff = "${each.value.policy.retry_maximum_seconds}s"
  }
  dynamic "dead_letter_policy" {
    for_each = can(each.value.policy.dead_letter_topic) ? [each.value.policy] : []
    content {
      dead_letter_topic     = google_pubsub_topic.this[dead_letter_policy.value.dead_letter_topic].id
      max_delivery_attempts = dead_letter_policy.value.max_deliveries
    }
  }
  # A push of our own instead of Eventarc's, which keeps 24 hours and expires. The run.app address: on the
  # cloudfunctions.net one, an internal-only function answers Pub/Sub 404.
  dynamic "push_config" {
    for_each = each.value.kind == "door" ? [google_cloudfunctions2_function.this["dead_letter"].service_config[0].uri] : []
    content {
      push_endpoint = push_config.value
      oidc_token {
        service_account_email = google_service_account.caller["trigger"].email
        audience              = push_config.value
      }
    }
  }
}

# A client's webhook: its own events are pushed to it. Metadata travels in headers, so the body is the event's data.
resource "google_pubsub_subscription" "webhook" {
  for_each             = { for client, crm in var.crm : client => crm.webhook if crm.webhook != null }
  project              = var.project_id
  name                 = "${var.name}-batch-events-${each.key}-webhook"
  topic                = google_pubsub_topic.this["batch-events"].id
  ack_deadline_seconds = local.topology.policies.keep.ack_deadline_seconds
  # Events that the CRM has not accepted for a week are still in its pull subscription.
  message_retention_duration = "604800s"
  filter                     = "attributes.client = \"${each.key}\""
  expiration_policy {
    ttl = ""
  }
  push_config {
    push_endpoint = each.value.endpoint
    oidc_token {
      service_account_email = google_service_account.caller["webhook"].email
      audience              = coalesce(each.value.audience, each.value.endpoint)
    }
    no_wrapper {
      write_metadata = true
    }
  }
  retry_policy {
    minimum_backoff = "${local.topology.policies.keep.retry_minimum_seconds}s"
    maximum_backoff = "${local.topology.policies.keep.retry_maximum_seconds}s"
  }
}

# When a batch completes, this stops workers that have nothing left to do, without waiting for reconcile's next run. Each
# worker would idle for five minutes on average, which costs more than a batch of 20 images. A lost event costs only that.
resource "google_pubsub_subscription" "completed" {
  project              = var.project_id
  name                 = "${var.name}-completed"
  topic                = google_pubsub_topic.this["batch-events"].id
  ack_deadline_seconds = local.topology.policies.door.ack_deadline_seconds
  # The minimum: by then reconcile's schedule has done the same.
  message_retention_duration = "600s"
  filter                     = "attributes.\"ce-type\" = \"ruum.batch.completed\""
  expiration_policy {
    ttl = ""
  }
  push_config {
    push_endpoint = "${google_cloudfunctions2_function.this["reconcile"].service_config[0].uri}/settle"
    oidc_token {
      service_account_email = google_service_account.caller["trigger"].email
      audience              = google_cloudfunctions2_function.this["reconcile"].service_config[0].uri
    }
  }
  retry_policy {
    minimum_backoff = "${local.topology.policies.door.retry_minimum_seconds}s"
    maximum_backoff = "${local.topology.policies.door.retry_maximum_seconds}s"
  }
}

# Events on which ingest or aggregate failed for most of a day. Eventarc creates the subscriptions that carry them, so
# Terraform cannot set their dead-letter policy: terraform/after-apply.sh does.
resource "google_pubsub_topic" "undelivered_events" {
  project                    = var.project_id
  name                       = "${var.name}-undelivered-events"
  message_retention_duration = "604800s"
  depends_on                 = [google_project_service.this]
}

resource "google_pubsub_subscription" "undelivered_events" {
  project              = var.project_id
  name                 = "${var.name}-undelivered-events"
  topic                = google_pubsub_topic.undelivered_events.id
  ack_deadline_seconds = local.topology.policies.keep.ack_deadline_seconds
  # The maximum: a person reads them.
  message_retention_duration = "2678400s"
  expiration_policy {
    ttl = ""
  }
}
