"""Loads a 4-bit checkpoint with transformers and bitsandbytes and compares it with another or with recorded logits.

usage: check_bitsandbytes.py DIRECTORY [LOGITS.safetensors]

Prints what was loaded and the greedy continuation of a prompt; with a file holding `input_ids` and `logits`, the largest
difference of the logits.
"""

import os
import sys

import torch
import transformers
from exact_bitsandbytes import load
from safetensors.torch import load_file


def main() -> None:
    directory = sys.argv[1]
    model = load(directory)
    kinds = {type(module).__name__ for module in model.model.layers.modules() if hasattr(module, "weight")}
    print("layers:", sorted(kinds))
    if len(sys.argv) > 2:
        recorded = load_file(sys.argv[2])
        with torch.no_grad():
            logits = model(recorded["input_ids"].long()).logits
        mask = recorded.get("attention_mask", torch.ones_like(recorded["input_ids"])).bool()
        print("max logit difference:", (logits - recorded["logits"])[mask].abs().max().item())
    if os.path.exists(os.path.join(directory, "tokenizer.json")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=8, do_sample=False)
        print("continuation:", repr(tokenizer.decode(out[0, ids.shape[1] :])))


main()
