"""Compares what llama.cpp makes of a model that was trained here with what finetune makes of it: loss and greedy answers.

usage: check_served.py FINETUNE SERVED.gguf ROWS.jsonl MODEL [ADAPTER [ADAPTER.gguf]]

SERVED.gguf is run by llama.cpp, with ADAPTER.gguf on it if it is given; MODEL by FINETUNE with `--quant none` and ADAPTER.
ROWS.jsonl has rows of `prompt` and `completion`. Prints both losses over the completions and their end, and how many of the
first answers, written greedily, are the same.
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
from llama_cpp_context import Context

ROWS, ANSWERS, TOKENS = 40, 10, 48


def losses(model, row):
    prompt = model.tokens(row["prompt"])
    ids = model.tokens(row["prompt"] + row["completion"]) + [model.eos]
    logits = model.logits(ids).astype(np.float64)[len(prompt) - 1 : -1]
    highest = logits.max(-1)
    of_all = highest + np.log(np.exp(logits - highest[:, None]).sum(-1))
    return of_all - logits[np.arange(len(logits)), ids[len(prompt) :]]


def answer(model, prompt):
    ids = model.tokens(prompt)
    logits, place, written = model.logits(ids), len(ids), []
    while len(written) < TOKENS and (token := int(logits[-1].argmax())) != model.eos:
        written.append(token)
        logits, place = model.logits([token], place), place + 1
    return model.text(written)


def main():
    finetune, served, rows, name, *adapters = sys.argv[1:]
    model = Context(served, *adapters[1:], length=512)
    with open(rows) as lines:
        rows = [json.loads(line) for line in lines][:ROWS]
    of_rows = np.concatenate([losses(model, row) for row in rows])
    flags = ["--model", name, "--quant", "none"] + (["--adapter", adapters[0]] if adapters else [])
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "rows.jsonl")
        with open(data, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        done = subprocess.run([finetune, "eval", *flags, "--data", data, "--json"], check=True, capture_output=True, text=True)
    ours = json.loads(done.stdout.splitlines()[-1])
    assert ours["tokens"] == len(of_rows), f"{ours['tokens']} tokens here, {len(of_rows)} there"
    print(f"loss {ours['nll']:.6f}, in llama.cpp {of_rows.mean():.6f}, of {len(of_rows)} tokens")
    same = 0
    for row in rows[:ANSWERS]:
        write = [finetune, "generate", *flags, "--prompt", row["prompt"], "--max-tokens", str(TOKENS), "--temperature", "0"]
        here = subprocess.run(write, check=True, capture_output=True, text=True).stdout.removesuffix("\n")
        there = answer(model, row["prompt"])
        same += here == there
        if here != there:
            print(f"here  {here}\nthere {there}")
    print(f"{same} of {len(rows[:ANSWERS])} answers the same")


main()
