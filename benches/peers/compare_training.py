"""Training steps of burn-qlora beside those of transformers + bitsandbytes + peft on the CPU, in one run.

usage: python compare_training.py FINETUNE MODEL_DIR TEXT [--steps 7] [--rank 16] [--shapes 4x256 1x1024] [--compile]

FINETUNE is the binary, MODEL_DIR a Hugging Face directory, TEXT a plain text long enough for all steps. Needs torch,
bitsandbytes, peft and transformers. Every program has a process of its own, all cores and the same batches: consecutive
runs of tokens, all linear layers adapted, alpha twice the rank, AdamW at a constant rate. Tokens/s are of the median step
without the first; memory is the process's peak. --compile adds the peer under torch.compile, which takes minutes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peer(args):
    """Trains here and prints one JSON object."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    if args.dtype == "float32":
        # bitsandbytes 0.50 takes its bf16 kernel for every dtype where the processor has one.
        import bitsandbytes.nn.modules

        bitsandbytes.nn.modules.has_avx512bf16 = lambda: False
    dtype = getattr(torch, args.dtype)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=dtype, quantization_config=nf4, device_map={"": "cpu"}, attn_implementation="sdpa"
    )
    lora = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=2e-4, weight_decay=0.0)
    model.train()
    if args.compile:
        model = torch.compile(model)
    with open(args.text) as text:
        ids = AutoTokenizer.from_pretrained(args.model)(text.read(), return_tensors="pt").input_ids[0]
    batch, seq = args.shape
    times, losses = [], []
    for step in range(args.steps):
        at = step * batch * seq % max(1, len(ids) - batch * seq)
        x = ids[at : at + batch * seq].view(batch, seq)
        start = time.perf_counter()
        loss = model(input_ids=x, labels=x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
        losses.append(loss.item())
    print(
        json.dumps(
            {
                "tokens_per_second": batch * seq / statistics.median(times[1:]),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "first_loss": losses[0],
            }
        )
    )


def ours(args, dtype, batch, seq):
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log.jsonl")
        command = [args.finetune, "train", "--model", args.model, "--data", args.text, "--no-shuffle"]
        command += ["--output", os.path.join(folder, "run"), "--log-json", log, "--compute-dtype", dtype]
        command += ["--rank", args.rank, "--alpha", 2 * args.rank, "--batch-size", batch, "--seq-len", seq]
        command += ["--steps", args.steps]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        with open(log) as lines:
            steps = [json.loads(line) for line in lines]
    return {
        "tokens_per_second": statistics.median(step["tokens_per_second"] for step in steps[1:]),
        "peak_bytes": max(step["peak_rss_bytes"] for step in steps),
        "first_loss": steps[0]["loss"],
    }


def peer_in_its_process(args, dtype, batch, seq, compile):
    command = [sys.executable, __file__, args.finetune, args.model, args.text, "--peer", dtype]
    command += ["--shapes", f"{batch}x{seq}", "--steps", str(args.steps), "--rank", str(args.rank)]
    command += ["--compile"] if compile else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(args):
    for shape in args.shapes:
        batch, seq = map(int, shape.split("x"))
        print(f"\nbatch {batch} x {seq}, rank {args.rank}")
        print(f"{'':24} {'tokens/s':>9} {'GB':>6} {'first loss':>11}   burn-qlora bf16 is", flush=True)
        best = ours(args, "bf16", batch, seq)
        runs = [("burn-qlora bf16", lambda: best)]
        for dtype in ("int8", "f32"):
            runs.append((f"burn-qlora {dtype}", lambda dtype=dtype: ours(args, dtype, batch, seq)))
        for dtype in ("float32", "bfloat16"):
            runs.append((f"peer {dtype}", lambda dtype=dtype: peer_in_its_process(args, dtype, batch, seq, False)))
        if args.compile:
            compiled = lambda: peer_in_its_process(args, "bfloat16", batch, seq, True)
            runs.append(("peer bfloat16, compiled", compiled))
        for name, measure in runs:
            run = measure()
            speed = best["tokens_per_second"] / run["tokens_per_second"]
            memory = best["peak_bytes"] / run["peak_bytes"]
            ratio = "" if run is best else f"   {speed:.2f} x as fast in {memory:.0%} of the memory"
            print(
                f"{name:24} {run['tokens_per_second']:9.0f} {run['peak_bytes'] / 1e9:6.2f}"
                f" {run['first_loss']:11.4f}{ratio}",
                flush=True,
            )


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("finetune")
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--steps", type=int, default=7)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--shapes", nargs="+", default=["4x256", "1x1024"])
parser.add_argument("--compile", action="store_true")
parser.add_argument("--peer", dest="dtype", help=argparse.SUPPRESS)
arguments = parser.parse_args()
if arguments.dtype:
    arguments.shape = tuple(map(int, arguments.shapes[0].split("x")))
    peer(arguments)
else:
    compare(arguments)
