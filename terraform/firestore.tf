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

# Firestore deletes these by itself: results in the cache, and heartbeats of workers that are long dead.
resource "google_firestore_field" "expires" {
  for_each   = toset(["cache", "workers"])
  project    = var.project_id
  database   = google_firestore_database.this.name
  collection = each.key
  field      = "expireTime"
  ttl_config {}
  # Times that grow are a hot spot of an index, and nobody asks by them.
  index_config {}
}

# Fields nobody queries: an index on each would be written with every image, and times are hot spots.
resource "google_firestore_field" "unindexed" {
  for_each = {
    for pair in flatten([
      for collection, fields in {
        images = [
          "calls", "checkpoint", "claim", "createdAt", "durationsMs", "error", "output", "settledAt", "source", "token",
          "touchedAt",
        ]
        tallies = ["entries", "token"]
        batches = ["completion", "manifest", "token"]
        quotas  = ["grants", "served", "slots", "token", "waiters"]
        workers = ["at", "waitedSeconds"]
      } : [for field in fields : { collection = collection, field = field }]
    ]) : "${pair.collection}.${pair.field}" => pair
  }
  project    = var.project_id
  database   = google_firestore_database.this.name
  collection = each.value.collection
  field      = each.value.field
  index_config {}
}
