"""Loads a 4-bit checkpoint with transformers and bitsandbytes and compares it with another or with recorded logits.

usage: check_bitsandbytes.py DIRECTORY [LOGITS.safetensors]

Prints what was loaded and the greedy continuation of a prompt; with a file holding `input_ids` and `logits`, the largest
difference of the logits. Two faults of bitsandbytes 0.50.2 on CPUs with AVX-512 are kept out: its bf16 path, and its
fast decoder where the row length is a multiple of 16 but not of the block (see tests/fixtures/README.md).
"""

import os
import sys

import bitsandbytes.nn.modules as bnb_modules
import torch
import transformers
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import load_file

bnb_modules.has_avx512bf16 = lambda: False


def dequantize(packed, absmax, blocksize, quant_type, shape, dtype):
    from bitsandbytes.functional import get_4bit_type

    code = get_4bit_type(quant_type, device=packed.device)
    flat = packed.view(torch.uint8).reshape(-1)
    return _dequantize_4bit_compute(flat, absmax, code, blocksize, shape, dtype)


LIBRARY = torch.library.Library("bitsandbytes", "IMPL")
LIBRARY.impl("dequantize_4bit", dequantize, "CPU", allow_override=True)


def main() -> None:
    directory = sys.argv[1]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    # transformers leaves what is not quantized in the checkpoint's type; the recordings are in f32.
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.float()
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
