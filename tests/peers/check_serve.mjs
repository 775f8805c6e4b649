// Opens the chat page of `finetune serve` in headless Chromium, asks both sides a question, and holds what they show against the API.
//
// usage: node check_serve.mjs ADDRESS [--question TEXT] [--picture PNG]
//        (apt install chromium nodejs; npm install playwright-core)
//
// ADDRESS is that of a server with an adapter, without a key. The page must load without a message on the console and ask for nothing
// from elsewhere; each side must show the greedy answer that its model gives without a stream, and the tokens that it used. A
// model that is not there must be told of in one line. A picture of the page is written where one is asked for. CHROMIUM is the browser,
// /usr/bin/chromium without it.

import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const option = { type: "string" };
const { values: { question = "What is the capital of France?", picture }, positionals: [address] } = parseArgs({
  allowPositionals: true, options: { question: option, picture: option },
});
const home = new URL("/", address).href;
const mostTokens = 36;
const patience = { timeout: 240000 };

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1120, height: 540 } });
const told = [];
page.on("console", (message) => told.push(message.text()));
page.on("pageerror", (error) => told.push(error.message));
page.on("request", (request) => assert(request.url().startsWith(home), request.url()));
await page.goto(home);
await page.waitForSelector("section");
assert(await page.isHidden("#key"), "no key is asked for where none is needed");
await page.fill("#tokens", String(mostTokens));

async function ask(text) {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
  await page.waitForFunction(() => document.querySelector("#send").textContent === "Send", null, patience);
}

const models = await page.$$eval("section select", (all) => all.map((model) => model.value));
assert.equal(models.length, 2, "the base and an adapter stand side by side");
await ask(question);
const shown = await page.$$eval("section", (all) => all.map((side) => ({
  answer: side.querySelector(".assistant").textContent,
  used: side.querySelector(".told").textContent,
})));
for (const [side, model] of models.entries()) {
  const response = await fetch(`${home}v1/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content: question }], temperature: 0, max_tokens: mostTokens }),
  });
  const { choices: [choice], usage } = await response.json();
  assert.equal(shown[side].answer, choice.message.content);
  assert(shown[side].used.startsWith(`${usage.completion_tokens} tokens`), shown[side].used);
  console.log(`${model}: ${JSON.stringify(choice.message.content)}`);
}
if (picture) await page.screenshot({ path: picture });
assert.deepEqual(told, []);

await page.$eval("section select", (select) => select.append(new Option("gone", "gone", false, true)));
await ask(question);
assert.match(await page.textContent("section .error"), /^there is no model "gone" here/);
await browser.close();
