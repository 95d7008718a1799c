locals {
  # Days until objects are deleted, by bucket and prefix. Work objects are kept longer than a replay makes sense, cached
  # pictures a day longer than the cache's own 30.
  lifecycle = {
    intake = [{ prefix = "", days = 90 }]
    results = concat(
      [{ prefix = "closing/", days = 7 }], # what a closing has gathered: useless once it is over
      var.results_kept_days == null ? [] : [{ prefix = "results/", days = var.results_kept_days }],
    )
    work   = [{ prefix = "work/", days = 30 }, { prefix = "cache/", days = 31 }]
    source = []
  }
}

# intake: manifests, and photos beside them. source: photos that manifests name as gs://. results: what customers read.
# work: pictures that are paid for and not published yet.
resource "google_storage_bucket" "this" {
  for_each                    = local.lifecycle
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-${each.key}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection
  # A week to restore objects deleted by mistake. Not for work objects: they are deleted all the time, and we would pay.
  soft_delete_policy {
    retention_duration_seconds = each.key == "work" ? 0 : 604800
  }
  dynamic "lifecycle_rule" {
    for_each = each.value
    content {
      action {
        type = "Delete"
      }
      condition {
        age            = lifecycle_rule.value.days
        matches_prefix = lifecycle_rule.value.prefix == "" ? [] : [lifecycle_rule.value.prefix]
      }
    }
  }
  depends_on = [google_project_service.this]
}

# Sources of the functions: not a customer's, and never read by a door.
resource "google_storage_bucket" "code" {
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-code"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # No lifecycle rule: Terraform deletes a source when it replaces it, and would miss one that is in use.
  force_destroy = true
  depends_on    = [google_project_service.this]
}
