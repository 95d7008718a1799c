#!/usr/bin/env bash
# What Terraform cannot set, after each apply. Cloud Build runs this; after an apply by hand, run it yourself:
#
#   PROJECT=my-project REGION=southamerica-east1 terraform/after-apply.sh
#
# Eventarc makes the subscriptions that call ingest and aggregate, with a deadline of 10 seconds. For a push that deadline
# is also the time that one call may take, even if the function's own time-out is longer: a longer call is cut off and
# repeated.
# Eventarc also throws an event away after a day, without a trace.
set -euo pipefail
: "${PROJECT:?set PROJECT to the project id}" "${REGION:?set REGION to the region of the pipeline}"
name=${NAME:-ruum}

number=$(gcloud projects describe "$PROJECT" --format='value(projectNumber)')
ingest=$(gcloud functions describe "$name-ingest" --project="$PROJECT" --region="$REGION" --gen2 \
	--format='value(eventTrigger.trigger)')
for trigger in "$name-aggregate" "${ingest##*/}"; do
	subscription=$(gcloud eventarc triggers describe "$trigger" --project="$PROJECT" --location="$REGION" \
		--format='value(transport.pubsub.subscription)')
	# Pub/Sub moves the message to the dead-letter topic: it must be allowed to acknowledge it here.
	gcloud pubsub subscriptions add-iam-policy-binding "$subscription" --project="$PROJECT" --format=none \
		--member="serviceAccount:service-$number@gcp-sa-pubsub.iam.gserviceaccount.com" --role=roles/pubsub.subscriber
	# 600 s is Pub/Sub's longest and above every door's time-out (shared/topology.json). 100 deliveries are the most
	# there can be: with Eventarc's pauses of up to 600 s they last 15 hours.
	gcloud pubsub subscriptions update "$subscription" --project="$PROJECT" --ack-deadline=600 \
		--message-retention-duration=7d --max-delivery-attempts=100 \
		--dead-letter-topic="projects/$PROJECT/topics/$name-undelivered-events"
done

# An apply sets the number of workers that its plan has read, perhaps hours ago. Reconcile sets the right one. It is
# called through its schedule, because the function takes no calls from outside.
gcloud scheduler jobs run "$name-reconcile" --project="$PROJECT" --location="$REGION"
