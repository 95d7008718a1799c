// Receive batch events: node subscribe.mjs PROJECT SUBSCRIPTION. Needs Node 18 or later and: npm install google-auth-library

const [project, subscription] = process.argv.slice(2);
if (!subscription) throw new Error("usage: node subscribe.mjs PROJECT SUBSCRIPTION");
const emulator = process.env.PUBSUB_EMULATOR_HOST;
const base = emulator ? `http://${emulator}/v1` : "https://pubsub.googleapis.com/v1";
const path = `${base}/projects/${project}/subscriptions/${subscription}`;
const seen = new Set(); // in production: a table whose key is the event id, written in the same transaction as your changes

async function token() {
  if (emulator) return "none";
  const { GoogleAuth } = await import("google-auth-library");
  return new GoogleAuth({ scopes: "https://www.googleapis.com/auth/pubsub" }).getAccessToken();
}

async function call(method, body) {
  const answer = await fetch(`${path}:${method}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${await token()}` },
    body: JSON.stringify(body),
  });
  if (answer.status === 504) return {}; // no event for a while
  if (!answer.ok) throw new Error(`${method}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

function handle(kind, id, data) {
  // Do what your CRM does with an event.
  if (kind === "ruum.batch.completed") {
    console.log(`${data.batchId}: ${data.counts.completed} of ${data.total} staged, ${data.counts.failed} failed`);
    console.log(`  pictures and errors: ${data.reports["results.jsonl"].uri}`);
  } else if (kind === "ruum.batch.rejected") {
    console.log(`${data.manifest}: rejected (problems: ${data.problems}): ${data.firstProblems[0]}`);
  } else {
    console.log(`${id}: ${kind}`); // an unknown type is no error: new ones may be added
  }
}

for (;;) {
  const { receivedMessages = [] } = await call("pull", { maxMessages: 100 });
  for (const { message } of receivedMessages) {
    const id = message.attributes["ce-id"];
    if (seen.has(id)) continue; // an event may be delivered more than once
    handle(message.attributes["ce-type"], id, JSON.parse(Buffer.from(message.data, "base64").toString()));
    seen.add(id);
  }
  // Acknowledge last: an event that was not handled is delivered again.
  if (receivedMessages.length) await call("acknowledge", { ackIds: receivedMessages.map((received) => received.ackId) });
}
