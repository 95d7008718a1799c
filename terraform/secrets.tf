# The key itself is added by hand (docs/operations.md): everything that Terraform knows is written into its state.
resource "google_secret_manager_secret" "this" {
  for_each  = toset(["gemini"])
  project   = var.project_id
  secret_id = "${var.name}-${each.key}-api-key"
  replication {
    auto {}
  }
  depends_on = [google_project_service.this]
}
