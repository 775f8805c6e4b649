// Opens the page of examples/web in headless Chromium, trains there, and holds what it shows against what it hands out.
//
// usage: node check_web.mjs FOLDER [PICTURE] [MODEL.gguf]      (apt install chromium nodejs; npm install playwright-core)
//
// FOLDER is what scripts/web.sh wrote. The page must load without a message on the console and ask for nothing but its own
// files; the loss that it shows must fall to half of the first, with a point of the curve for every step; the adapter that it
// hands out must be peft's two files. A damaged model must be refused in one line. PICTURE is a PNG to write.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { chromium } from "playwright-core";

const [folder, picture, model] = process.argv.slice(2);
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

const server = createServer(async ({ url }, response) => {
  try {
    const name = url === "/" ? "index.html" : url.slice(1);
    const content = await readFile(join(folder, name));
    response.writeHead(200, { "content-type": types[extname(name)] ?? "application/octet-stream" }).end(content);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const home = `http://127.0.0.1:${server.address().port}/`;

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 800, height: 900 } });
const told = [];
page.on("console", (message) => told.push(message.text()));
page.on("pageerror", (error) => told.push(error.message));
page.on("request", (request) => {
  const url = request.url();
  assert(url.startsWith(home) || url.startsWith(`blob:${home}`) || url.startsWith("data:"), url);
});
await page.goto(home);

async function downloaded(id) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(`#${id}`)]);
  return readFile(await download.path());
}

const start = Date.now();
if (model) {
  await page.setInputFiles("#model", model);
  await page.fill("#steps", "5");
}
const steps = Number(await page.inputValue("#steps"));
await page.click("#start");
await page.waitForFunction(() => /^Trained|failed/.test(document.querySelector("#state").textContent + document.querySelector("#state").className), null,
  { timeout: 600000 });
const state = await page.textContent("#state");
const [, first, last] = /loss ([\d.]+) at the first step, ([\d.]+) at the last/.exec(state) ?? assert.fail(state);
assert.equal(await page.textContent("#loss"), last);
assert.equal(Number(await page.textContent("#step")), steps);
assert.equal((await page.getAttribute("#curve", "points")).split(" ").length, steps);
if (!model) assert(Number(last) < Number(first) / 2, state);

const config = JSON.parse(await downloaded("config"));
assert.equal(config.peft_type, "LORA");
const weights = await downloaded("weights");
const header = JSON.parse(weights.subarray(8, 8 + Number(weights.readBigUInt64LE())));
const names = Object.keys(header).filter((name) => name !== "__metadata__");
assert(names.length > 0 && names.every((name) => /^base_model\.model\..*\.lora_[AB]\.weight$/.test(name)), names);

await page.click("#asking button");
await page.waitForFunction(() => document.querySelector("#answer").textContent !== "", null, { timeout: 600000 });
if (picture) await writeFile(picture, await page.screenshot());

const gguf = await readFile(model ?? join(folder, "tiny.gguf"));
await page.setInputFiles("#model", { name: "half.gguf", mimeType: "", buffer: gguf.subarray(0, Math.min(gguf.length / 2, 4e7)) });
await page.click("#start");
await page.waitForSelector(".failed");
const refusal = await page.textContent("#state");
assert(refusal.startsWith("half.gguf") && refusal.includes("truncated or damaged") && !refusal.includes("\n"), refusal);

assert.deepEqual(told, []);
console.log(`${state} ${steps} steps in ${(Date.now() - start) / 1000} s, ${names.length} tensors; a damaged file: ${refusal}`);
await browser.close();
server.close();
