// Receive batch events as a webhook: node webhook.mjs PORT AUDIENCE SENDER. Needs Node 18 or later and no package.
// AUDIENCE is the address of your webhook as you gave it to us. SENDER is the service account that signs our pushes.
// Run it behind your own TLS: Pub/Sub pushes to https only.

import { createPublicKey, verify as verifySignature } from "node:crypto";
import { createServer } from "node:http";

const [port, audience, sender] = process.argv.slice(2);
if (!sender) throw new Error("usage: node webhook.mjs PORT AUDIENCE SENDER");
const KEYS = "https://www.googleapis.com/oauth2/v3/certs";
const KEYS_MS = 3_600_000; // Google publishes a new key hours before it signs with it
const MAX_BYTES = 1 << 20; // events are far smaller
const SKEW_SECONDS = 30; // clocks differ
const seen = new Set(); // in production: a table whose key is the event id, written in the same transaction as your changes

let keys = [];
let keysUntil = 0;

async function googleKeys() {
  if (Date.now() > keysUntil) {
    const answer = await fetch(KEYS);
    if (!answer.ok) throw new Error(`Google's keys: ${answer.status}`);
    keys = (await answer.json()).keys;
    keysUntil = Date.now() + KEYS_MS;
  }
  return keys;
}

const decoded = (part) => JSON.parse(Buffer.from(part, "base64url").toString());

// Whether Ruum sent this request, and to you.
async function fromRuum(authorization) {
  const token = /^Bearer ([\w-]+)\.([\w-]+)\.([\w-]+)$/i.exec(authorization ?? "");
  if (!token) return false;
  const [head, body, signature] = token.slice(1);
  const known = await googleKeys(); // outside the try: without keys nothing is known about the token
  try {
    const { alg, kid } = decoded(head);
    const key = known.find((one) => one.kid === kid);
    if (alg !== "RS256" || !key) return false; // never let the token choose how it is checked
    const publicKey = createPublicKey({ key, format: "jwk" });
    if (!verifySignature("RSA-SHA256", `${head}.${body}`, publicKey, Buffer.from(signature, "base64url"))) return false;
    const claims = decoded(body);
    const now = Date.now() / 1000;
    return (
      ["https://accounts.google.com", "accounts.google.com"].includes(claims.iss) &&
      claims.aud === audience &&
      claims.exp > now - SKEW_SECONDS &&
      claims.iat < now + SKEW_SECONDS &&
      // Anyone with a Google account can get a token for your audience. Only this account is ours.
      claims.email === sender &&
      claims.email_verified === true
    );
  } catch {
    return false;
  }
}

function handle(kind, id, data) {
  // Do what your CRM does with an event.
  console.log(`${id}: ${kind} ${data.outcome ?? ""}`.trimEnd());
}

// The HTTP status. Any other than 200, 201, 202 and 204 makes Pub/Sub deliver the event again.
async function answer(request) {
  if (request.method !== "POST") return 405;
  if (!(await fromRuum(request.headers.authorization))) return 401;
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BYTES) return 413;
    chunks.push(chunk);
  }
  const data = JSON.parse(Buffer.concat(chunks).toString());
  const id = request.headers["ce-id"];
  if (!seen.has(id)) {
    handle(request.headers["ce-type"], id, data); // an event may be delivered more than once
    seen.add(id);
  }
  return 204;
}

createServer(async (request, response) => {
  let status = 503; // Google's keys cannot be fetched now, or a bug: the event is delivered again
  try {
    status = await answer(request);
  } catch (error) {
    console.error(error);
  }
  response.writeHead(status).end();
}).listen(Number(port), "127.0.0.1");
