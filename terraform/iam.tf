# One account per door, with the rights that shared/permissions.json lists and no others.
resource "google_service_account" "door" {
  for_each     = local.doors
  project      = var.project_id
  account_id   = "${var.name}-${local.slug[each.key]}"
  display_name = "Ruum Batch: ${each.key}"
  depends_on   = [google_project_service.this]
}

# Accounts that only call: triggers call functions, the scheduler calls reconcile, pushes call the CRM's webhook; and the
# one that builds the functions.
resource "google_service_account" "caller" {
  for_each     = toset(["trigger", "scheduler", "webhook", "functions-build"])
  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = "Ruum Batch: ${each.key}"
  depends_on   = [google_project_service.this]
}

locals {
  # "verb:object" of the table, one row per door.
  grants = {
    for pair in flatten([
      for door, calls in local.permissions : [
        for call in calls : {
          door   = door
          verb   = split(":", call)[0]
          object = try(split(":", call)[1], "")
        }
      ]
    ]) : "${pair.door}/${pair.verb}/${pair.object}" => pair
  }
  on_buckets = { for key, grant in local.grants : key => grant if contains(["read", "write"], grant.verb) }
  # stage-image is three topics, one per tier.
  on_topics = {
    for pair in flatten([
      for key, grant in local.grants : [
        for topic in keys(local.topology.topics) : { key = "${key}/${topic}", door = grant.door, topic = topic }
        if grant.verb == "publish" && startswith(topic, grant.object)
      ]
    ]) : pair.key => pair
  }
  on_subscriptions = {
    for pair in flatten([
      for key, grant in local.grants : [
        for name in keys(local.subscriptions) : { key = "${key}/${name}", door = grant.door, subscription = name }
        if grant.verb == "pull" && startswith(name, grant.object)
      ]
    ]) : pair.key => pair
  }
}

resource "google_project_iam_member" "firestore" {
  for_each = { for key, grant in local.grants : key => grant if grant.verb == "firestore" }
  project  = var.project_id
  role     = "roles/datastore.user"
  member   = google_service_account.door[each.value.door].member
  # Firestore has no grants per database: the condition keeps this pipeline out of the project's other databases.
  condition {
    title      = "${var.name}-database-only"
    expression = "resource.name == \"projects/${var.project_id}/databases/${google_firestore_database.this.name}\""
  }
}

resource "google_storage_bucket_iam_member" "door" {
  for_each = local.on_buckets
  bucket   = google_storage_bucket.this[each.value.object].name
  # Not objectCreator: a picture may replace that of an older fence, and replacing an object needs the right to delete it.
  role   = each.value.verb == "read" ? "roles/storage.objectViewer" : "roles/storage.objectUser"
  member = google_service_account.door[each.value.door].member
}

resource "google_pubsub_topic_iam_member" "door" {
  for_each = local.on_topics
  project  = var.project_id
  topic    = google_pubsub_topic.this[each.value.topic].name
  role     = "roles/pubsub.publisher"
  member   = google_service_account.door[each.value.door].member
}

resource "google_pubsub_subscription_iam_member" "door" {
  for_each     = local.on_subscriptions
  project      = var.project_id
  subscription = google_pubsub_subscription.this[each.value.subscription].name
  role         = "roles/pubsub.subscriber"
  member       = google_service_account.door[each.value.door].member
}

resource "google_secret_manager_secret_iam_member" "door" {
  for_each  = { for key, grant in local.grants : key => grant if grant.verb == "secret" }
  project   = var.project_id
  secret_id = google_secret_manager_secret.this[each.value.object].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.door[each.value.door].member
}

# For changing the number of workers. Cloud Run has no narrower permission: run.workerpools.update can change image and
# command too. Together with the right to act as the workers' account (below), an account can run its own code with the
# Gemini key. Ingest's and reconcile's accounts hold both.
resource "google_project_iam_custom_role" "scaler" {
  project     = var.project_id
  role_id     = "${replace(var.name, "-", "_")}_scaler"
  title       = "Ruum Batch: start and stop workers"
  permissions = ["run.workerpools.get", "run.workerpools.update"]
}

resource "google_cloud_run_v2_worker_pool_iam_member" "scaler" {
  for_each = { for key, grant in local.grants : key => grant if grant.verb == "scale" }
  project  = var.project_id
  location = var.region
  name     = google_cloud_run_v2_worker_pool.stage_image.name
  role     = google_project_iam_custom_role.scaler.id
  member   = google_service_account.door[each.value.door].member
}

# Cloud Run asks whether the caller that changes a pool may act as the pool's account.
resource "google_service_account_iam_member" "scaler_acts" {
  for_each           = { for key, grant in local.grants : key => grant if grant.verb == "scale" }
  service_account_id = google_service_account.door["stage_image"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.door[each.value.door].member
}

# To sign a link, an account signs as itself. Granted only if links are signed, and only to doors that announce batches.
resource "google_service_account_iam_member" "signs" {
  for_each = var.signed_link_seconds == 0 ? toset([]) : toset([
    for door, calls in local.permissions : door
    if contains(calls, "publish:batch-events") && contains(calls, "write:results") && !contains(calls, "pull:stage-image")
  ])
  service_account_id = google_service_account.door[each.key].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_service_account.door[each.key].member
}

# --- callers

resource "google_cloud_run_service_iam_member" "invoker" {
  for_each = { for door in local.functions : door => door == "reconcile" ? "scheduler" : "trigger" }
  project  = var.project_id
  location = var.region
  service  = google_cloudfunctions2_function.this[each.key].name
  role     = "roles/run.invoker"
  member   = google_service_account.caller[each.value].member
}

# The event that a batch has completed is pushed to reconcile too.
resource "google_cloud_run_service_iam_member" "completed_invokes" {
  project  = var.project_id
  location = var.region
  service  = google_cloudfunctions2_function.this["reconcile"].name
  role     = "roles/run.invoker"
  member   = google_service_account.caller["trigger"].member
}

resource "google_project_iam_member" "trigger_receives" {
  project = var.project_id
  role    = "roles/eventarc.eventReceiver"
  member  = google_service_account.caller["trigger"].member
}

# Pub/Sub signs the tokens of its pushes as these accounts.
resource "google_service_account_iam_member" "push_tokens" {
  for_each           = toset(["trigger", "webhook"])
  service_account_id = google_service_account.caller[each.key].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub_agent
  depends_on         = [time_sleep.identities]
}

# --- Google's own agents

resource "google_project_iam_member" "eventarc_agent" {
  project    = var.project_id
  role       = "roles/eventarc.serviceAgent"
  member     = local.eventarc_agent
  depends_on = [time_sleep.identities]
}

# Cloud Storage announces objects through Pub/Sub. The grant is on the project, because the topic is Eventarc's.
resource "google_project_iam_member" "storage_publishes" {
  project = var.project_id
  role    = "roles/pubsub.publisher"
  member  = data.google_storage_project_service_account.this.member
}

# Pub/Sub itself publishes a dead letter and acknowledges the message it was made from.
resource "google_pubsub_topic_iam_member" "dead_letter_agent" {
  for_each = {
    dead-letter        = google_pubsub_topic.this["dead-letter"].name
    undelivered-events = google_pubsub_topic.undelivered_events.name
  }
  project    = var.project_id
  topic      = each.value
  role       = "roles/pubsub.publisher"
  member     = local.pubsub_agent
  depends_on = [time_sleep.identities]
}

resource "google_pubsub_subscription_iam_member" "dead_letter_agent" {
  for_each     = { for name, entry in local.subscriptions : name => entry if can(entry.policy.dead_letter_topic) }
  project      = var.project_id
  subscription = google_pubsub_subscription.this[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
  depends_on   = [time_sleep.identities]
}

# --- building the functions

resource "google_project_iam_member" "functions_build_logs" {
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = google_service_account.caller["functions-build"].member
}

# Cloud Functions copies the source into a bucket of its own, made at the first deployment, and the build reads it there.
# The grant is on the project because that bucket does not exist yet.
resource "google_project_iam_member" "functions_build_reads" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.caller["functions-build"].member
  condition {
    title = "${var.name}-function-sources-only"
    expression = join(" || ", [
      for bucket in ["gcf-v2-sources-${data.google_project.this.number}-", "${google_storage_bucket.code.name}/"] :
      "resource.name.startsWith(\"projects/_/buckets/${bucket}\")"
    ])
  }
}

resource "google_artifact_registry_repository_iam_member" "functions_build_writes" {
  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.this.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.caller["functions-build"].member
}

# --- customers

# A CRM writes manifests into its own folder of the intake and photos into its own folder of the source bucket, reads its
# own results, and pulls events. Photos may lie beside the manifest too, but each then calls ingest once for nothing:
# a Storage trigger can only filter by bucket.
resource "google_storage_bucket_iam_member" "crm_writes" {
  for_each = {
    for pair in setproduct(keys(var.crm), ["intake", "source"]) : join("/", pair) => {
      member = var.crm[pair[0]].member
      bucket = google_storage_bucket.this[pair[1]].name
      folder = pair[1] == "intake" ? "manifests/${pair[0]}/" : "${pair[0]}/"
    }
  }
  bucket = each.value.bucket
  role   = "roles/storage.objectUser"
  member = each.value.member
  condition {
    title      = "own-folder"
    expression = "resource.name.startsWith(\"projects/_/buckets/${each.value.bucket}/objects/${each.value.folder}\")"
  }
}

# Its results, and the problems of its rejected manifests. Listing is asked of the bucket, by prefix.
resource "google_storage_bucket_iam_member" "crm_reads" {
  for_each = var.crm
  bucket   = google_storage_bucket.this["results"].name
  role     = "roles/storage.objectViewer"
  member   = each.value.member
  condition {
    title = "own-results"
    expression = join(" || ", flatten([
      for folder in ["results/${each.key}/", "manifests/${each.key}/"] : [
        "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.this["results"].name}/objects/${folder}\")",
        "api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\").startsWith(\"${folder}\")",
      ]
    ]))
  }
}

resource "google_pubsub_subscription" "crm" {
  for_each                   = var.crm
  project                    = var.project_id
  name                       = "${var.name}-batch-events-${each.key}"
  topic                      = google_pubsub_topic.this["batch-events"].id
  ack_deadline_seconds       = local.topology.policies.keep.ack_deadline_seconds
  message_retention_duration = "604800s"
  # Each CRM sees its own batches only.
  filter = "attributes.client = \"${each.key}\""
  expiration_policy {
    ttl = ""
  }
  retry_policy {
    minimum_backoff = "${local.topology.policies.keep.retry_minimum_seconds}s"
    maximum_backoff = "${local.topology.policies.keep.retry_maximum_seconds}s"
  }
}

resource "google_pubsub_subscription_iam_member" "crm_pulls" {
  for_each     = var.crm
  project      = var.project_id
  subscription = google_pubsub_subscription.crm[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = each.value.member
}
