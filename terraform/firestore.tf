resource "google_firestore_database" "this" {
  project     = var.project_id
  name        = var.name
  location_id = var.region
  type        = "FIRESTORE_NATIVE"
  # A batch's state is the proof that nothing was lost.
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy                   = var.deletion_protection ? "ABANDON" : "DELETE"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED"
  depends_on                        = [google_project_service.this]
}

locals {
  # What shared/adapters/google/store.py queries, by collection: the fields that keep a single-field index.
  # tests/documents/test_firestore_indexes.py compares this with the adapter.
  indexed = {
    batches    = { open = "ASCENDING", createdAt = "DESCENDING" }
    cache      = {}
    hosts      = {}
    images     = { state = "ASCENDING" }
    quotas     = {}
    reconciled = {}
    tallies    = { open = "ASCENDING" }
    tiers      = {}
    workers    = {}
  }
  indexed_fields = merge([
    for collection, fields in local.indexed : {
      for field, order in fields : "${collection}.${field}" => { collection = collection, field = field, order = order }
    }
  ]...)
}

# By default Firestore indexes every field. An index that nobody queries costs writes. One whose values grow (a time, an
# image's number, a batch's id) is a hot spot above 500 writes a second. So nothing is indexed ...
resource "google_firestore_field" "unindexed" {
  for_each   = local.indexed
  project    = var.project_id
  database   = google_firestore_database.this.name
  collection = each.key
  field      = "*"
  index_config {}
}

# ... except what is queried.
resource "google_firestore_field" "indexed" {
  for_each   = local.indexed_fields
  project    = var.project_id
  database   = google_firestore_database.this.name
  collection = each.value.collection
  field      = each.value.field
  index_config {
    indexes {
      order       = each.value.order
      query_scope = "COLLECTION"
    }
  }
}

# An aggregation over several fields needs one index that holds them all, in alphabetical order; the emulator does not.
# Without it the counts of a batch fail, so no worker starts and no batch closes.
resource "google_firestore_index" "counts" {
  project     = var.project_id
  database    = google_firestore_database.this.name
  collection  = "tallies"
  query_scope = "COLLECTION"
  dynamic "fields" {
    for_each = ["counts.cancelled", "counts.completed", "counts.failed", "counts.processing", "counts.queued"]
    content {
      field_path = fields.value
      order      = "ASCENDING"
    }
  }
}

# Reconcile reads only the images that moved since its last run, by state and time. The time grows, but each state has a
# range of its own, and images move 33 times a second at 2,000 a minute: far from the 500 writes a second of a hot spot.
resource "google_firestore_index" "moved" {
  project     = var.project_id
  database    = google_firestore_database.this.name
  collection  = "images"
  query_scope = "COLLECTION"
  dynamic "fields" {
    for_each = ["state", "movedAt"]
    content {
      field_path = fields.value
      order      = "ASCENDING"
    }
  }
}

# Firestore deletes a document some time after its expireTime, usually within a day. Batches, images and tallies carry one
# from their creation (documents_kept_days). So do cache entries, heartbeats and the hosts' ledgers.
resource "google_firestore_field" "expires" {
  for_each   = toset(["batches", "cache", "hosts", "images", "reconciled", "tallies", "workers"])
  project    = var.project_id
  database   = google_firestore_database.this.name
  collection = each.key
  field      = "expireTime"
  ttl_config {}
  index_config {}
}
