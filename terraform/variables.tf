variable "project_id" {
  description = "Project that holds every resource."
  type        = string
  nullable    = false
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be 6 to 30 lower-case letters, digits and hyphens, starting with a letter."
  }
}

variable "region" {
  description = "Region of functions, workers, buckets and database; one region, because a Firestore trigger must be in its database's region."
  type        = string
  default     = "southamerica-east1"
  nullable    = false
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a single region such as southamerica-east1 or us-central1, not a multi-region such as nam5."
  }
}

variable "name" {
  description = "Prefix of every name, so that a project can hold several pipelines."
  type        = string
  default     = "ruum"
  nullable    = false
  validation {
    # A Firestore database id has at least 4 characters and ends in a letter or digit. A service account id has at most
    # 30, and the longest suffix of ours is "-functions-build".
    condition     = can(regex("^[a-z][a-z0-9-]{2,12}[a-z0-9]$", var.name))
    error_message = "name must be 4 to 14 lower-case letters, digits and hyphens, starting with a letter and ending in a letter or digit."
  }
}

variable "worker_image" {
  description = "Image of the staging worker, by digest: a tag may change under a running pool."
  type        = string
  nullable    = false
  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.worker_image))
    error_message = "worker_image must name a digest: …@sha256:<64 hexadecimal digits>."
  }
}

variable "worker" {
  description = "Size of a worker, its images in flight, and the maximum number of workers. At 60 images a minute and 50 s an image, 50 are in flight. Their picture work takes 0.2 s of CPU each and 600 MiB in all."
  type = object({
    cpu           = optional(string, "1")
    memory        = optional(string, "2Gi")
    in_flight     = optional(number, 50)
    max_instances = optional(number, 4)
  })
  default  = {}
  nullable = false
  validation {
    condition     = var.worker.in_flight >= 1 && var.worker.in_flight <= 500
    error_message = "worker.in_flight must be between 1 and 500."
  }
  validation {
    condition     = var.worker.max_instances >= 1 && var.worker.max_instances <= 100
    error_message = "worker.max_instances must be between 1 and 100."
  }
  validation {
    condition     = contains(["1", "2", "4", "8"], var.worker.cpu)
    error_message = "worker.cpu must be one of 1, 2, 4, 8."
  }
  validation {
    # Cloud Run's table: at most 4 GiB per CPU, and 4 or 8 CPUs need half a GiB each. Our own 600 MiB and a picture being
    # decoded need 1 GiB.
    condition = try(alltrue([
      for mebibytes in [tonumber(regex("^([0-9]+)(?:Mi|Gi)$", var.worker.memory)[0]) * (endswith(var.worker.memory, "Gi") ? 1024 : 1)] :
      mebibytes >= max(1024, 512 * tonumber(var.worker.cpu)) && mebibytes <= 4096 * tonumber(var.worker.cpu)
    ]), false)
    error_message = "worker.memory must be whole Mi or Gi, such as 2Gi: at least 1Gi and 512Mi for each CPU, at most 4Gi for each CPU."
  }
}

variable "staging_model" {
  description = "gemini, or preview to try the pipeline: it draws plain furniture and costs nothing."
  type        = string
  default     = "gemini"
  nullable    = false
  validation {
    condition     = contains(["gemini", "preview"], var.staging_model)
    error_message = "staging_model must be gemini or preview."
  }
}

variable "vendor_limits" {
  description = "Vendors' quotas by model id; they override those of shared/topology.json: calls started in a rolling minute, calls at once, or both."
  type = map(object({
    per_minute = optional(number)
    concurrent = optional(number)
  }))
  default  = {}
  nullable = false
  validation {
    condition     = alltrue([for limit in values(var.vendor_limits) : limit.per_minute != null || limit.concurrent != null])
    error_message = "Each of vendor_limits needs per_minute, concurrent, or both."
  }
  validation {
    condition = alltrue(flatten([
      for limit in values(var.vendor_limits) : [for n in [limit.per_minute, limit.concurrent] : n == null ? true : n >= 1]
    ]))
    error_message = "vendor_limits must be 1 or more."
  }
}

variable "tier_factors" {
  description = "What customers pay for a tier, as a multiple of what the work cost."
  type = object({
    express = optional(number, 1.5)
    normal  = optional(number, 1.0)
    economy = optional(number, 0.7)
  })
  default  = {}
  nullable = false
  validation {
    condition     = alltrue([for factor in values(var.tier_factors) : factor >= 0 && factor <= 100])
    error_message = "tier_factors must be between 0 and 100."
  }
}

variable "settings" {
  description = "More settings for every door, named as in docs/settings.md, such as RUUM_PHOTO_JPEG_QUALITY."
  type        = map(string)
  default     = {}
  nullable    = false
  validation {
    condition     = alltrue([for name in keys(var.settings) : can(regex("^RUUM_[A-Z0-9_]+$", name))])
    error_message = "settings must be named RUUM_<GROUP>_<NAME>, see docs/settings.md."
  }
}

variable "crm" {
  description = "Each CRM by its client folder: its account, such as serviceAccount:crm@….iam.gserviceaccount.com, and optionally a webhook: the endpoint that its events are pushed to, and the OIDC audience that it checks (the endpoint by default)."
  type = map(object({
    member = string
    webhook = optional(object({
      endpoint = string
      audience = optional(string)
    }))
  }))
  default  = {}
  nullable = false
  validation {
    condition     = alltrue([for client in keys(var.crm) : can(regex("^[a-z0-9][a-z0-9-]{0,62}$", client))])
    error_message = "crm must be keyed by client folder: lower-case letters, digits and hyphens."
  }
  validation {
    condition     = alltrue([for reader in values(var.crm) : can(regex("^(serviceAccount|user|group):", reader.member))])
    error_message = "crm members must start with serviceAccount:, user: or group:."
  }
  validation {
    condition     = alltrue([for reader in values(var.crm) : reader.webhook == null ? true : can(regex("^https://", reader.webhook.endpoint))])
    error_message = "crm webhooks must be https: events name customers' addresses."
  }
}

variable "operators" {
  description = "People who run ruum-batch --project, such as group:operators@example.com: they get the rights that its commands need. Owners need no entry."
  type        = list(string)
  default     = []
  nullable    = false
  validation {
    condition     = alltrue([for member in var.operators : can(regex("^(serviceAccount|user|group):[^@ ]+@[^@ ]+$", member))])
    error_message = "operators must start with serviceAccount:, user: or group:, followed by an e-mail address."
  }
}

variable "audit_logs" {
  description = "Whether Cloud Logging records who reads and changes objects, except the pipeline's own doors. Replaces the project's own setting for Cloud Storage."
  type        = bool
  default     = false
  nullable    = false
}

variable "results_kept_days" {
  description = "Days after which pictures and reports are deleted; null keeps them."
  type        = number
  default     = 365
  validation {
    condition     = var.results_kept_days == null ? true : var.results_kept_days >= 30
    error_message = "results_kept_days must be 30 or more, or null: replays of a month need the earlier rounds."
  }
}

variable "documents_kept_days" {
  description = "Days after which a batch's documents are deleted from Firestore: its photos' addresses, property codes, states and costs."
  type        = number
  default     = 400
  nullable    = false
  validation {
    condition     = var.documents_kept_days >= 90
    error_message = "documents_kept_days must be 90 or more: no replay begins in the last 30 days, and a batch must end before."
  }
  validation {
    # Commands such as results and image find pictures by their documents.
    condition     = var.results_kept_days == null ? true : var.documents_kept_days > var.results_kept_days
    error_message = "documents_kept_days must be more than results_kept_days: commands find pictures by their documents."
  }
}

variable "signed_link_seconds" {
  description = "For how many seconds the links to reports in events open without an account; 0 gives gs:// addresses. Signing needs a right of its own."
  type        = number
  default     = 0
  nullable    = false
  validation {
    condition     = var.signed_link_seconds >= 0 && var.signed_link_seconds <= 604800
    error_message = "signed_link_seconds must be between 0 and 604800, Cloud Storage's longest."
  }
}

variable "reconcile_schedule" {
  description = "When reconcile runs, as cron (UTC); null takes that of shared/topology.json."
  type        = string
  default     = null
  validation {
    condition     = var.reconcile_schedule == null ? true : can(regex("^[0-9A-Za-z*,/-]+( [0-9A-Za-z*,/-]+){4}$", var.reconcile_schedule))
    error_message = "reconcile_schedule must be five fields of cron with one space between, such as */10 * * * *, or null."
  }
}

variable "alerts" {
  description = "Who is notified: e-mail addresses, and a Slack channel (with slack_auth_token)."
  type = object({
    emails        = list(string)
    slack_channel = optional(string)
  })
  nullable = false
  validation {
    condition     = length(var.alerts.emails) > 0 && alltrue([for email in var.alerts.emails : can(regex("^[^@ ]+@[^@ ]+$", email))])
    error_message = "alerts.emails must name at least one address: an alert needs a receiver."
  }
}

variable "slack_auth_token" {
  description = "Token of the Slack app that posts alerts into alerts.slack_channel; give it as TF_VAR_slack_auth_token, never in a file."
  type        = string
  default     = null
  sensitive   = true
  validation {
    # Not inside alerts: a secret there would make the whole object secret.
    condition     = var.alerts.slack_channel == null || var.slack_auth_token != null
    error_message = "slack_auth_token is needed when alerts.slack_channel is set."
  }
}

variable "alert_limits" {
  description = "When alerts fire: age of the oldest waiting task in seconds (a tier's longest healthy backlog), age of the oldest event or dead letter, failed share of the finished images, seconds without a finished run of reconcile (three runs of its schedule)."
  type = object({
    oldest_message_seconds   = optional(number, 14400)
    oldest_event_seconds     = optional(number, 1800)
    failed_share             = optional(number, 0.05)
    reconcile_silent_seconds = optional(number, 1800)
  })
  default  = {}
  nullable = false
  validation {
    # An ingest alone may take nine minutes, and Eventarc keeps an event for a day at least.
    condition     = var.alert_limits.oldest_event_seconds >= 900 && var.alert_limits.oldest_event_seconds <= 86400
    error_message = "alert_limits.oldest_event_seconds must be between 900 and 86400, the day an event is kept."
  }
  validation {
    # Reconcile runs every ten minutes and may take nine: two runs at least. Monitoring looks back a day.
    condition     = var.alert_limits.reconcile_silent_seconds >= 1200 && var.alert_limits.reconcile_silent_seconds <= 82800
    error_message = "alert_limits.reconcile_silent_seconds must be between 1200, two runs of reconcile, and 82800, 23 hours."
  }
  validation {
    condition     = var.alert_limits.failed_share > 0 && var.alert_limits.failed_share < 1
    error_message = "alert_limits.failed_share must be between 0 and 1."
  }
  validation {
    # A retry alone may wait 300 s, and a subscription keeps a task for a week.
    condition     = var.alert_limits.oldest_message_seconds >= 600 && var.alert_limits.oldest_message_seconds <= 604800
    error_message = "alert_limits.oldest_message_seconds must be between 600, twice the longest backoff, and 604800, the week a task is kept."
  }
}

variable "budget" {
  description = "Monthly budget in the billing account's currency; null creates none. A budget needs a role on the billing account."
  type = object({
    billing_account = string
    amount          = number
    currency        = optional(string, "USD")
  })
  default = null
  validation {
    condition     = var.budget == null ? true : can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.budget.billing_account))
    error_message = "budget.billing_account must be three times six hexadecimal digits, such as 012345-6789AB-CDEF01; leave budget out for none."
  }
  validation {
    # The API takes whole units only.
    condition     = var.budget == null ? true : try(var.budget.amount >= 1 && floor(var.budget.amount) == var.budget.amount, false)
    error_message = "budget.amount must be a whole number, 1 or more."
  }
  validation {
    condition     = var.budget == null ? true : can(regex("^[A-Z]{3}$", var.budget.currency))
    error_message = "budget.currency must be three capitals, such as USD or BRL; it is that of the billing account."
  }
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the database and buckets that hold something. Off only for trials."
  type        = bool
  default     = true
  nullable    = false
}
