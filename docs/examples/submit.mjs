// Drop a manifest: node submit.mjs BUCKET CLIENT FILE. Needs Node 18 or later and: npm install google-auth-library

import { readFile } from "node:fs/promises";
import { basename } from "node:path";

const [bucket, client, file] = process.argv.slice(2);
if (!file) throw new Error("usage: node submit.mjs BUCKET CLIENT FILE");
const emulator = process.env.STORAGE_EMULATOR_HOST;
const base = emulator ?? "https://storage.googleapis.com";

async function token() {
  if (emulator) return "none";
  const { GoogleAuth } = await import("google-auth-library");
  return new GoogleAuth({ scopes: "https://www.googleapis.com/auth/devstorage.read_write" }).getAccessToken();
}

const name = `manifests/${client}/${basename(file)}`;
const answer = await fetch(`${base}/upload/storage/v1/b/${bucket}/o?uploadType=media&name=${encodeURIComponent(name)}`, {
  method: "POST",
  headers: { "content-type": "application/octet-stream", authorization: `Bearer ${await token()}` },
  body: await readFile(file),
});
if (!answer.ok) throw new Error(`upload: ${answer.status} ${await answer.text()}`);
console.log(`gs://${bucket}/${name}`); // it is safe to do this twice
