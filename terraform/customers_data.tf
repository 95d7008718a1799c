# Customers' photos, pictures and reports are for the doors, the CRM they belong to, and operators.

# A new bucket lets every Viewer of the project read it and every Editor write it. So each of these roles is granted to
# the project's Owners alone, who have it anyway: Terraform cannot keep a binding without members.
resource "google_storage_bucket_iam_binding" "owners_only" {
  for_each = {
    for pair in setproduct(keys(local.lifecycle), ["legacyBucketOwner", "legacyBucketReader", "legacyObjectOwner", "legacyObjectReader"]) :
    join("/", pair) => { bucket = pair[0], role = pair[1] }
  }
  bucket  = google_storage_bucket.this[each.value.bucket].name
  role    = "roles/storage.${each.value.role}"
  members = ["projectOwner:${var.project_id}"]
}

# Logs who read or changed an object. The doors' own calls are left out: they are almost all of the calls, and each line
# is billed.
resource "google_project_iam_audit_config" "objects" {
  count   = var.audit_logs ? 1 : 0
  project = var.project_id
  service = "storage.googleapis.com"
  dynamic "audit_log_config" {
    for_each = ["DATA_READ", "DATA_WRITE"]
    content {
      log_type         = audit_log_config.value
      exempted_members = [for account in google_service_account.door : account.member]
    }
  }
}
