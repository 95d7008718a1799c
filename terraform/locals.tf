locals {
  # The code reads these files too: a single source for topics, deadlines, retries, quotas and permissions.
  topology    = jsondecode(file("${path.module}/../shared/topology.json"))
  permissions = jsondecode(file("${path.module}/../shared/permissions.json"))

  functions = toset(["ingest", "aggregate", "dead_letter", "reconcile"])
  doors     = toset(keys(local.permissions))
  slug      = { for door in local.doors : door => replace(door, "_", "-") }

  subscriptions = merge([
    for topic, entry in local.topology.topics : {
      for name, policy in entry.subscriptions : name => { topic = topic, policy = local.topology.policies[policy], kind = policy }
    }
  ]...)

  limits = merge(local.topology.limits, {
    for model, limit in var.vendor_limits : model => { for kind, most in limit : kind => most if most != null }
  })

  worker_pool = "projects/${var.project_id}/locations/${var.region}/workerPools/${var.name}-stage-image"

  # Every door has the same settings: doors that disagree about a number would sooner or later fail.
  settings = merge({
    GOOGLE_CLOUD_PROJECT               = var.project_id
    RUUM_GOOGLE_DATABASE               = google_firestore_database.this.name
    RUUM_GOOGLE_PREFIX                 = "${var.name}-"
    RUUM_GOOGLE_DOCUMENTS_KEPT_SECONDS = tostring(var.documents_kept_days * 86400)
    RUUM_BUCKETS_INTAKE                = google_storage_bucket.this["intake"].name
    RUUM_BUCKETS_RESULTS               = google_storage_bucket.this["results"].name
    RUUM_BUCKETS_WORK                  = google_storage_bucket.this["work"].name
    RUUM_BUCKETS_SOURCE                = google_storage_bucket.this["source"].name
    RUUM_STAGING_MODEL                 = var.staging_model
    RUUM_LIMITS                        = jsonencode(local.limits)
    RUUM_WORKER_IN_FLIGHT              = tostring(var.worker.in_flight)
    RUUM_FLEET_IMAGES_PER_INSTANCE     = tostring(var.worker.in_flight)
    RUUM_FLEET_MAX_INSTANCES           = tostring(var.worker.max_instances)
    RUUM_FLEET_POOL                    = local.worker_pool
    RUUM_BUCKETS_SIGNED_LINK_SECONDS   = tostring(var.signed_link_seconds)
    RUUM_TIERS_EXPRESS_FACTOR          = tostring(var.tier_factors.express)
    RUUM_TIERS_NORMAL_FACTOR           = tostring(var.tier_factors.normal)
    RUUM_TIERS_ECONOMY_FACTOR          = tostring(var.tier_factors.economy)
  }, var.settings)

  pubsub_agent   = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
  eventarc_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-eventarc.iam.gserviceaccount.com"
}

data "google_project" "this" {
  project_id = var.project_id
}

data "google_storage_project_service_account" "this" {
  project = var.project_id
}
