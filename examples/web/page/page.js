const $ = (id) => document.getElementById(id);
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
let losses = [];

function say(text, failed = false) {
  $("state").textContent = text;
  $("state").classList.toggle("failed", failed);
}

function busy(training) {
  $("start").disabled = training;
  $("stop").disabled = !training;
}

function draw() {
  const [width, height, edge] = [640, 240, 10];
  const top = Math.max(...losses), steps = Number($("steps").value);
  const x = (step) => edge + (width - 2 * edge) * step / Math.max(1, steps - 1);
  const y = (loss) => edge + (height - 2 * edge) * (1 - loss / top);
  $("curve").setAttribute("points", losses.map((loss, step) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" "));
}

function offer(id, content, type) {
  URL.revokeObjectURL($(id).href);
  $(id).href = URL.createObjectURL(new Blob([content], { type }));
}

const heard = {
  found({ gpu }) {
    $("gpu").textContent = gpu ? `WebGPU: ${gpu}` : "WebGPU: none found";
    $("gpu").disabled = !gpu;
    if (gpu) $("device").value = "gpu";
  },
  opened({ rows, trainable, where }) { say(`In 4 bits. Training ${trainable} parameters on ${rows} rows, on ${where}.`); },
  step({ loss }) {
    losses.push(loss);
    $("loss").textContent = loss.toFixed(4);
    $("step").textContent = losses.length;
    draw();
  },
  done({ config, weights, where }) {
    offer("config", config, "application/json");
    offer("weights", weights, "application/octet-stream");
    $("downloads").hidden = $("asking").hidden = false;
    busy(false);
    say(`Trained on ${where}: loss ${losses[0].toFixed(4)} at the first step, ${losses.at(-1).toFixed(4)} at the last.`);
  },
  answer({ text }) { $("answer").textContent = text; },
  failed({ text }) { busy(false); say(text, true); },
};

worker.onmessage = ({ data }) => heard[data.kind](data);
worker.onerror = (event) => heard.failed({ text: event.message ?? "The worker could not be started." });

$("settings").onsubmit = async (event) => {
  event.preventDefault();
  busy(true);
  losses = [];
  $("downloads").hidden = $("asking").hidden = true;
  say("Reading the model.");
  try {
    const file = $("model").files[0];
    const gguf = file ? await file.arrayBuffer() : await (await fetch("tiny.gguf")).arrayBuffer();
    const number = (id) => Number($(id).value);
    worker.postMessage({
      kind: "train", name: file?.name ?? "tiny.gguf", gguf, text: $("text").value, device: $("device").value,
      context: number("context"), rank: number("rank"), rate: number("rate"), steps: number("steps"),
    }, [gguf]);
  } catch (error) {
    heard.failed({ text: error.message });
  }
};
$("stop").onclick = () => worker.postMessage({ kind: "stop" });
$("asking").onsubmit = (event) => {
  event.preventDefault();
  worker.postMessage({ kind: "answer", prompt: $("prompt").value, tokens: 32 });
};
