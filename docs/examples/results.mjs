// Fetch a round's pictures: node results.mjs BUCKET BATCH ROUND FOLDER. Needs Node 18 or later and: npm install google-auth-library
// BATCH and ROUND are the batchId and round of the completed event, such as acme.first-1 and 1.

import { createHash } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";

const [bucket, batch, round, folder] = process.argv.slice(2);
if (!folder) throw new Error("usage: node results.mjs BUCKET BATCH ROUND FOLDER");
const emulator = process.env.STORAGE_EMULATOR_HOST;
const base = emulator ?? "https://storage.googleapis.com";

async function token() {
  if (emulator) return "none";
  const { GoogleAuth } = await import("google-auth-library");
  return new GoogleAuth({ scopes: "https://www.googleapis.com/auth/devstorage.read_only" }).getAccessToken();
}

async function download(name) {
  const answer = await fetch(`${base}/storage/v1/b/${bucket}/o/${encodeURIComponent(name)}?alt=media`, {
    headers: { authorization: `Bearer ${await token()}` },
  });
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${await answer.text()}`);
  return Buffer.from(await answer.arrayBuffer());
}

await mkdir(folder, { recursive: true });
const [client, ...rest] = batch.split(".");
const report = await download(`results/${client}/${rest.join(".")}/round-${round}/results.jsonl`);
for (const line of report.toString().trim().split("\n")) {
  const image = JSON.parse(line);
  if (image.state === "completed") {
    const picture = await download(image.output); // output is relative to the results bucket
    if (createHash("sha256").update(picture).digest("hex") !== image.sha256) {
      throw new Error(`${image.output} is not the picture of this report`);
    }
    await writeFile(join(folder, basename(image.output)), picture);
    console.log(`${image.index} ${image.propertyCode}: ${basename(image.output)}`);
  } else if (image.state === "failed") {
    console.log(`${image.index} ${image.propertyCode}: ${image.error.code}: ${image.error.message}`);
  }
}
