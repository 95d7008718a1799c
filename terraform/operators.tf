# The rights of people who run `ruum-batch --project`: those of all doors together, except the Gemini key itself.
locals {
  operators = toset(var.operators)
  # submit writes the intake; replay publishes tasks and events and pulls letters; reconcile writes reports and deletes
  # work objects; results reads pictures.
  operator_buckets = {
    for pair in setproduct(local.operators, ["intake", "results", "source", "work"]) : join("/", pair) => { member = pair[0], bucket = pair[1] }
  }
  operator_topics = {
    for pair in setproduct(local.operators, [for topic in keys(local.topology.topics) : topic if topic != "dead-letter"]) :
    join("/", pair) => { member = pair[0], topic = pair[1] }
  }
  # To look at what the runbooks name, and to start reconcile through its schedule.
  operator_roles = {
    for pair in setproduct(local.operators, [
      "roles/cloudscheduler.jobRunner", "roles/cloudscheduler.viewer", "roles/logging.viewer", "roles/monitoring.viewer",
      "roles/pubsub.viewer", "roles/run.viewer",
    ]) : join("/", pair) => { member = pair[0], role = pair[1] }
  }
}

resource "google_project_iam_member" "operator" {
  for_each = local.operator_roles
  project  = var.project_id
  role     = each.value.role
  member   = each.value.member
}

resource "google_project_iam_member" "operator_firestore" {
  for_each = local.operators
  project  = var.project_id
  role     = "roles/datastore.user"
  member   = each.key
  condition {
    title      = "${var.name}-database-only"
    expression = "resource.name == \"projects/${var.project_id}/databases/${google_firestore_database.this.name}\""
  }
}

resource "google_storage_bucket_iam_member" "operator" {
  for_each = local.operator_buckets
  bucket   = google_storage_bucket.this[each.value.bucket].name
  role     = "roles/storage.objectUser"
  member   = each.value.member
}

resource "google_pubsub_topic_iam_member" "operator" {
  for_each = local.operator_topics
  project  = var.project_id
  topic    = google_pubsub_topic.this[each.value.topic].name
  role     = "roles/pubsub.publisher"
  member   = each.value.member
}

resource "google_pubsub_subscription_iam_member" "operator" {
  for_each = {
    for pair in setproduct(local.operators, ["dead-letter-operators", "undelivered-events"]) : join("/", pair) => { member = pair[0], subscription = pair[1] }
  }
  project      = var.project_id
  subscription = each.value.subscription == "undelivered-events" ? google_pubsub_subscription.undelivered_events.name : google_pubsub_subscription.this[each.value.subscription].name
  role         = "roles/pubsub.subscriber"
  member       = each.value.member
}

# retry-failed, replay, resume and reconcile change the number of workers; see the scaler role for what else this allows.
resource "google_cloud_run_v2_worker_pool_iam_member" "operator" {
  for_each = local.operators
  project  = var.project_id
  location = var.region
  name     = google_cloud_run_v2_worker_pool.stage_image.name
  role     = google_project_iam_custom_role.scaler.id
  member   = each.key
}

resource "google_service_account_iam_member" "operator_acts" {
  for_each           = local.operators
  service_account_id = google_service_account.door["stage_image"].name
  role               = "roles/iam.serviceAccountUser"
  member             = each.key
}
