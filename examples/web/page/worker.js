// Holds the model away from the page, which stays responsive while a step runs.
import init, { FineTuning } from "./qlora_web.js";

let session, left = 0;
const ready = init();

function train() {
  if (left-- <= 0) {
    const adapter = session.adapter();
    const { config, weights } = adapter;
    adapter.free();
    postMessage({ kind: "done", config, weights }, [weights.buffer]);
    return;
  }
  postMessage({ kind: "step", loss: session.step() });
  // Between steps, so that a wish to stop is heard.
  setTimeout(guarded(train));
}

const guarded = (work) => async (...given) => {
  try {
    await work(...given);
  } catch (error) {
    postMessage({ kind: "failed", text: error.message ?? String(error) });
  }
};

const wishes = {
  async train({ name, gguf, text, context, rank, rate, steps }) {
    await ready;
    session?.free();
    session = undefined;
    session = new FineTuning(name, new Uint8Array(gguf), text, context, rank, rate);
    left = steps;
    postMessage({ kind: "opened", rows: session.rows(), trainable: session.trainable() });
    train();
  },
  stop() { left = 0; },
  answer({ prompt, tokens }) { postMessage({ kind: "answer", text: session.answer(prompt, tokens) }); },
};

onmessage = guarded(({ data }) => wishes[data.kind](data));
