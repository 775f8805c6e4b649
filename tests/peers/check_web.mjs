// Opens the page of examples/web in headless Chromium, trains there on WebGPU and on the CPU, and holds what it shows against what it
// hands out, and the two against each other.
//
// usage: node check_web.mjs FOLDER [--model MODEL.gguf] [--picture PNG] [--adapters FOLDER]
//        (apt install chromium nodejs; npm install playwright-core)
//
// FOLDER is what scripts/web.sh wrote. The page must load without a message on the console and ask for nothing but its own
// files; it must find Chromium's WebGPU adapter in software and choose it. On the CPU the loss that it shows must fall to half of the
// first, with a point of the curve for every step; the adapter that it hands out must be peft's two files; a prompt must be
// answered. On WebGPU, which takes seconds a step in software, the losses of a few steps, and the answer after them, must be those
// of the CPU. A damaged model must be refused in one line.
// A picture of the page is written where one is asked for, and the adapters into the folders cpu and gpu. CHROMIUM is the browser, /usr/bin/chromium without it.

import assert from "node:assert/strict";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const option = { type: "string" };
const { values: { model, picture, adapters }, positionals: [folder] } = parseArgs({
  allowPositionals: true, options: { model: option, picture: option, adapters: option },
});
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };
// Of a loss in nats a token; sums of f32 in other orders, of which every update makes more.
const tolerance = 1e-3;
const stepsOnBoth = 5;
const patience = { timeout: 1200000 };

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

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"],
});
const page = await browser.newPage({ viewport: { width: 800, height: 1000 } });
const told = [];
page.on("console", (message) => told.push(message.text()));
page.on("pageerror", (error) => told.push(error.message));
page.on("request", (request) => {
  const url = request.url();
  assert(url.startsWith(home) || url.startsWith(`blob:${home}`) || url.startsWith("data:"), url);
});
await page.goto(home);
await page.evaluate(() => {
  window.shown = [];
  const loss = document.querySelector("#loss");
  new MutationObserver(() => window.shown.push(Number(loss.textContent))).observe(loss, { childList: true });
});

async function downloaded(id) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(`#${id}`)]);
  return readFile(await download.path());
}

// Trains on a device as a visitor does, and returns the losses that were shown, the adapter's tensors and an answer.
async function trained(device, steps) {
  const start = Date.now();
  await page.fill("#steps", String(steps));
  await page.selectOption("#device", device);
  await page.evaluate(() => { window.shown = []; document.querySelector("#answer").textContent = ""; });
  await page.click("#start");
  await page.waitForFunction(() => /^Trained|failed/.test(document.querySelector("#state").textContent + document.querySelector("#state").className), null,
    patience);
  const seconds = (Date.now() - start) / 1000;
  const state = await page.textContent("#state");
  const [, where, first, last] = /^Trained on (.*): loss ([\d.]+) at the first step, ([\d.]+) at the last/.exec(state)
    ?? assert.fail(`${state} ${told.join("\n")}`);
  assert.equal(where.startsWith("WebGPU"), device === "gpu", where);
  assert.equal(await page.textContent("#loss"), last);
  assert.equal(Number(await page.textContent("#step")), steps);
  assert.equal((await page.getAttribute("#curve", "points")).split(" ").length, steps);
  const losses = await page.evaluate(() => window.shown);
  assert.equal(losses.length, steps);

  const config = JSON.parse(await downloaded("config"));
  assert.equal(config.peft_type, "LORA");
  const weights = await downloaded("weights");
  const header = JSON.parse(weights.subarray(8, 8 + Number(weights.readBigUInt64LE())));
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  assert(names.length > 0 && names.every((name) => /^base_model\.model\..*\.lora_[AB]\.weight$/.test(name)), names);

  if (adapters) {
    await mkdir(join(adapters, device), { recursive: true });
    await writeFile(join(adapters, device, "adapter_config.json"), JSON.stringify(config));
    await writeFile(join(adapters, device, "adapter_model.safetensors"), weights);
  }

  await page.click("#asking button");
  await page.waitForFunction(() => document.querySelector("#answer").textContent !== "", null, patience);
  const answer = await page.textContent("#answer");
  console.log(`${state} ${steps} steps in ${seconds} s, ${names.length} tensors`);
  return { losses, answer, names };
}

await page.waitForSelector("#gpu:not([disabled])", { state: "attached" });
assert.equal(await page.inputValue("#device"), "gpu");
assert.match(await page.textContent("#gpu"), /^WebGPU: .*swiftshader.*, in software$/i);
if (model) {
  await page.setInputFiles("#model", model);
} else {
  const { losses } = await trained("cpu", Number(await page.inputValue("#steps")));
  assert(losses.at(-1) < losses[0] / 2, losses);
}
const onCpu = await trained("cpu", stepsOnBoth);
const onGpu = await trained("gpu", stepsOnBoth);
assert(onGpu.losses.at(-1) < onGpu.losses[0], onGpu.losses);
if (picture) await writeFile(picture, await page.screenshot());
const distances = onCpu.losses.map((loss, step) => Math.abs(loss - onGpu.losses[step]));
const largest = Math.max(...distances);
assert(largest <= tolerance, `step ${distances.indexOf(largest) + 1} is off by ${largest}`);
assert.equal(onGpu.answer, onCpu.answer);
assert.deepEqual(onGpu.names, onCpu.names);

const gguf = await readFile(model ?? join(folder, "tiny.gguf"));
await page.setInputFiles("#model", { name: "half.gguf", mimeType: "", buffer: gguf.subarray(0, Math.min(gguf.length / 2, 4e7)) });
await page.click("#start");
await page.waitForSelector(".failed");
const refusal = await page.textContent("#state");
assert(refusal.startsWith("half.gguf") && refusal.includes("truncated or damaged") && !refusal.includes("\n"), refusal);

assert.deepEqual(told, []);
console.log(`losses on both within ${largest.toFixed(4)}; a damaged file: ${refusal}`);
await browser.close();
server.close();
