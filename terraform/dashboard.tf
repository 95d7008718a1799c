locals {
  pubsub = "resource.type=\"pubsub_subscription\" AND resource.label.subscription_id=monitoring.regex.full_match(\"${var.name}-stage-image-.*\")"

  # title, metric filter, aligner, labels to group by
  charts = [
    { title = "Throughput: images settled a minute, by state", filter = "${local.user}/images_settled\" AND ${local.any_of_us}", aligner = "ALIGN_RATE", by = ["metric.label.state"] },
    { title = "Volume by client: images settled", filter = "${local.user}/images_settled\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.client"] },
    { title = "Quota use: share of the vendor's limit", filter = "${local.user}/quota_share\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_95", by = ["metric.label.model"] },
    { title = "Calls waiting for quota", filter = "${local.user}/quota_waiting\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_95", by = ["metric.label.model"] },
    { title = "429s", filter = "${local.user}/throttled\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.model"] },
    { title = "Circuit opened", filter = "${local.user}/circuit_opened\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.model"] },
    { title = "Backlog per tier: tasks not acknowledged", filter = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND ${local.pubsub}", aligner = "ALIGN_MAX", by = ["resource.label.subscription_id"] },
    { title = "Oldest task per tier: seconds", filter = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND ${local.pubsub}", aligner = "ALIGN_MAX", by = ["resource.label.subscription_id"] },
    { title = "Dead letters, by code", filter = "${local.user}/dead_letters\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.code"] },
    { title = "Failed attempts, by code", filter = "${local.user}/attempts_failed\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.code"] },
    { title = "Cost per image: US dollars", filter = "${local.user}/cost_usd\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_50", by = ["metric.label.client"] },
    { title = "Step: milliseconds (95th percentile)", filter = "${local.user}/step_ms\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_95", by = ["metric.label.step"] },
    { title = "Images in hand", filter = "${local.user}/in_hand\" AND ${local.any_of_us}", aligner = "ALIGN_PERCENTILE_99", by = [] },
    { title = "Batches: accepted", filter = "${local.user}/batches_accepted\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.client"] },
    { title = "Batches: closed", filter = "${local.user}/batches_closed\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.state"] },
    { title = "Batches: rejected", filter = "${local.user}/batches_rejected\" AND ${local.any_of_us}", aligner = "ALIGN_DELTA", by = ["metric.label.client"] },
  ]
}

resource "google_monitoring_dashboard" "this" {
  project = var.project_id
  dashboard_json = jsonencode({
    displayName = "Ruum Batch (${var.name})"
    mosaicLayout = {
      columns = 12
      tiles = [
        for index, chart in local.charts : {
          xPos   = index % 2 * 6
          yPos   = floor(index / 2) * 4
          width  = 6
          height = 4
          widget = {
            title = chart.title
            xyChart = {
              chartOptions = { mode = "COLOR" }
              dataSets = [{
                plotType   = "LINE"
                targetAxis = "Y1"
                timeSeriesQuery = {
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
