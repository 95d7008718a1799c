locals {
  # Each function's own files at the root, shared/ beside them, as the doors' tests unpack them.
  sources = {
    for door in local.functions : door => merge(
      { for file in fileset("${path.module}/../functions/${door}", "*.{py,txt}") : file => "functions/${door}/${file}" },
      { for file in fileset("${path.module}/../shared", "**/*.{py,json,html,txt}") : "shared/${file}" => "shared/${file}" },
    )
  }
}

data "archive_file" "function" {
  for_each         = local.functions
  type             = "zip"
  output_path      = "${path.root}/.build/${each.key}.zip"
  output_file_mode = "0644"
  dynamic "source" {
    for_each = local.sources[each.key]
    content {
      filename = source.key
      content  = file("${path.module}/../${source.value}")
    }
  }
}

# The hash is in the name: only what has changed is deployed again.
resource "google_storage_bucket_object" "function" {
  for_each = data.archive_file.function
  bucket   = google_storage_bucket.code.name
  name     = "${each.key}-${each.value.output_sha256}.zip"
  source   = each.value.output_path
}

resource "google_artifact_registry_repository" "this" {
  project       = var.project_id
  location      = var.region
  repository_id = var.name
  format        = "DOCKER"
  cleanup_policies {
    id     = "keep-ten"
    action = "KEEP"
    most_recent_versions {
      keep_count = 10
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "2592000s"
    }
  }
  depends_on = [google_project_service.this]
}

locals {
  # Ingest holds a whole manifest in memory and handles one at a time. The others mostly wait for the database, so one
  # instance serves many events. Few instances, because each competes with compare-and-sets on the same shards.
  sizes = {
    ingest      = { cpu = "1", memory = "1Gi", concurrency = 1, instances = 5 }
    aggregate   = { cpu = "1", memory = "1Gi", concurrency = 20, instances = 10 }
    dead_letter = { cpu = "1", memory = "512Mi", concurrency = 10, instances = 2 }
    # During a long run it also has to answer batches that complete.
    reconcile = { cpu = "1", memory = "1Gi", concurrency = 4, instances = 1 }
  }
}

resource "google_cloudfunctions2_function" "this" {
  for_each    = local.functions
  project     = var.project_id
  location    = var.region
  name        = "${var.name}-${local.slug[each.key]}"
  description = "Ruum Batch: see functions/${each.key}/main.py"
  build_config {
    runtime           = "python311"
    entry_point       = each.key
    docker_repository = google_artifact_registry_repository.this.id
    service_account   = google_service_account.caller["functions-build"].id
    source {
      storage_source {
        bucket = google_storage_bucket.code.name
        object = google_storage_bucket_object.function[each.key].name
      }
    }
  }
  service_config {
    available_cpu                    = local.sizes[each.key].cpu
    available_memory                 = local.sizes[each.key].memory
    max_instance_request_concurrency = local.sizes[each.key].concurrency
    max_instance_count               = local.sizes[each.key].instances
    timeout_seconds                  = local.topology.doors[each.key].timeout_seconds
    # Eventarc, Pub/Sub and the scheduler count as internal on the run.app address. No other caller is needed.
    ingress_settings      = "ALLOW_INTERNAL_ONLY"
    service_account_email = google_service_account.door[each.key].email
    # functions-framework starts four threads per core, whatever the service's concurrency is. With fewer threads than
    # concurrent requests, requests wait inside the instance, and Cloud Run starts no other one.
    environment_variables = merge(local.settings, { THREADS = tostring(local.sizes[each.key].concurrency) })
  }
  dynamic "event_trigger" {
    for_each = each.key == "ingest" ? [local.topology.doors.ingest] : []
    content {
      event_type            = event_trigger.value.trigger
      trigger_region        = var.region
      retry_policy          = "RETRY_POLICY_RETRY"
      service_account_email = google_service_account.caller["trigger"].email
      event_filters {
        attribute = "bucket"
        value     = google_storage_bucket.this["intake"].name
      }
    }
  }
  depends_on = [
    time_sleep.agents,
    time_sleep.functions_build,
    google_firestore_field.indexed,
    google_firestore_index.counts,
    google_firestore_index.moved,
  ]
}

# A trigger of its own: Firestore's events come as protobuf, which a function's own trigger cannot ask for.
resource "google_eventarc_trigger" "aggregate" {
  project                 = var.project_id
  location                = var.region
  name                    = "${var.name}-aggregate"
  service_account         = google_service_account.caller["trigger"].email
  event_data_content_type = "application/protobuf"
  matching_criteria {
    attribute = "type"
    value     = local.topology.doors.aggregate.trigger
  }
  matching_criteria {
    attribute = "database"
    value     = google_firestore_database.this.name
  }
  matching_criteria {
    attribute = "document"
    operator  = "match-path-pattern"
    value     = local.topology.doors.aggregate.document
  }
  destination {
    cloud_run_service {
      service = google_cloudfunctions2_function.this["aggregate"].name
      region  = var.region
    }
  }
  depends_on = [time_sleep.agents, google_cloud_run_service_iam_member.invoker]
}
