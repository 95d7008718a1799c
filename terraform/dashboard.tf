locals {
  pubsub = "resource.type=\"pubsub_subscription\" AND resource.label.subscription_id=monitoring.regex.full_match(\"${var.name}-stage-image-.*\")"

  # A log metric's name as PromQL writes it: ":" for the first slash, "_" for every other character that is not a letter.
  promql = "logging_googleapis_com:user_${replace(var.name, "-", "_")}"

  # title, metric filter, aligner, labels to group by
  charts = [
    { title = "Throughput: images finished a minute, by state", filter = "${local.user}/images_settled\" AND ${local.any_of_us}", aligner = "ALIGN_RATE", by = ["metric.label.state"] },
    { title = "Volume by client: images finished", filter = "${local.user}/images_settled\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.client"] },
    { title = "Quota use: share of the vendor's limit", filter = "${local.user}/quota_share\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_95", by = ["metric.label.model"] },
    { title = "Calls waiting for quota", filter = "${local.user}/quota_waiting\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_95", by = ["metric.label.model"] },
    { title = "429s", filter = "${local.user}/throttled\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.model"] },
    # Each worker reports it once a minute while it lasts. An empty chart: the circuit is closed, or no worker is running.
    { title = "Circuit not closed: workers that report it each minute", filter = "${local.user}/circuit_not_closed\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.model", "metric.label.circuit"] },
    { title = "Backlog per tier: tasks not acknowledged", filter = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND ${local.pubsub}", aligner = "ALIGN_MAX", by = ["resource.label.subscription_id"] },
    { title = "Oldest task per tier: seconds", filter = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND ${local.pubsub}", aligner = "ALIGN_MAX", by = ["resource.label.subscription_id"] },
    { title = "Dead letters, by code", filter = "${local.user}/dead_letters\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.code"] },
    { title = "Failed attempts, by code", filter = "${local.user}/attempts_failed\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.code"] },
    { title = "Cost per image: US dollars (median)", filter = "${local.user}/cost_usd\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_50", by = ["metric.label.client"] },
    { title = "Step: milliseconds (95th percentile)", filter = "${local.user}/step_ms\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_95", by = ["metric.label.step"] },
    { title = "Images in progress", filter = "${local.user}/in_hand\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_99", by = [] },
    { title = "Batches: accepted", filter = "${local.user}/batches_accepted\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.client"] },
    { title = "Batches: closed", filter = "${local.user}/batches_closed\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.state"] },
    { title = "Batches: rejected", filter = "${local.user}/batches_rejected\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.client"] },
  ]

  # These need PromQL, because no aligner takes the sum of a distribution. PromQL needs each query's resource type by name.
  queries = [
    {
      title = "Cost: US dollars spent in the last hour, by client"
      query = "sum by (client) (${join(" or ", [
        for kind in ["cloud_run_worker_pool", "cloud_run_revision"] : "increase(${local.promql}_cost_usd_sum{monitored_resource=\"${kind}\"}[1h])"
      ])})"
    },
  ]

  tiles = concat(
    [for chart in local.queries : { title = chart.title, query = { prometheusQuery = chart.query } }],
    [
      for chart in local.charts : {
        title = chart.title
        query = {
          timeSeriesFilter = {
            filter = chart.filter
            aggregation = {
              alignmentPeriod    = "60s"
              perSeriesAligner   = chart.aligner
              crossSeriesReducer = startswith(chart.aligner, "ALIGN_PERCENTILE") || chart.aligner == "ALIGN_MAX" ? "REDUCE_MAX" : "REDUCE_SUM"
              groupByFields      = chart.by
            }
          }
        }
      }
    ],
  )
}

resource "google_monitoring_dashboard" "this" {
  project = var.project_id
  dashboard_json = jsonencode({
    displayName = "Ruum Batch (${var.name})"
    mosaicLayout = {
      columns = 12
      tiles = [
        for index, tile in local.tiles : {
          xPos   = index % 2 * 6
          yPos   = floor(index / 2) * 4
          width  = 6
          height = 4
          widget = {
            title = tile.title
            xyChart = {
              chartOptions = { mode = "COLOR" }
              dataSets = [{
                plotType        = "LINE"
                targetAxis      = "Y1"
                timeSeriesQuery = tile.query
              }]
              yAxis = { scale = "LINEAR" }
            }
          }
        }
      ]
    }
  })
  depends_on = [time_sleep.metrics]
}
