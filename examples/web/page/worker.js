// Holds the model away from the page, which stays responsive while a step runs.
import init, { ComputeDevice, FineTuning } from "./qlora_web.js";

let session, where, left = 0;
const devices = {};
const ready = init();

// What the browser calls its GPU, if it has one and the program was built for it.
async function findGpu() {
  const adapter = ComputeDevice.gpu && await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return;
  const { vendor, architecture, description, isFallbackAdapter } = adapter.info;
  const name = description || [vendor, architecture].filter(Boolean).join(" ") || "of an unknown name";
  return isFallbackAdapter ? `${name}, in software` : name;
}

async function train(steps) {
  for (left = steps; left > 0; left--) {
    postMessage({ kind: "step", loss: await session.step() });
    // Between steps, so that a wish to stop is heard.
    await new Promise((resume) => setTimeout(resume));
  }
  const adapter = await session.adapter();
  const { config, weights } = adapter;
  adapter.free();
  postMessage({ kind: "done", config, weights, where }, [weights.buffer]);
}

const wishes = {
  async train({ name, gguf, text, device, context, rank, rate, steps }) {
    session?.free();
    session = undefined;
    // Each once: a GPU cannot be set up again.
    devices[device] ??= await ComputeDevice[device]();
    where = device === "gpu" ? `WebGPU (${await found})` : "the CPU";
    session = new FineTuning(name, new Uint8Array(gguf), text, context, rank, rate, devices[device]);
    postMessage({ kind: "opened", rows: session.rows(), trainable: session.trainable(), where });
    await train(steps);
  },
  async answer({ prompt, tokens }) { postMessage({ kind: "answer", text: await session.answer(prompt, tokens) }); },
};

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    postMessage({ kind: "failed", text: error.message ?? String(error) });
  }
}

const found = ready.then(findGpu);
// One wish after the other, for a session takes one at a time; that to stop is for the one that runs.
let last = guarded(async () => postMessage({ kind: "found", gpu: await found }));
onmessage = ({ data }) => {
  if (data.kind === "stop") left = 0;
  else last = last.then(() => guarded(() => wishes[data.kind](data)));
};
