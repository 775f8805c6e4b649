"""Records what `merge_and_unload` of peft makes of adapted weights.

usage: record_merges.py tests/fixtures

Writes `merged.safetensors` beside each adapter of CASES: the first rows of every weight of the f32 base that it changes, merged, by
the names transformers gives them.
"""

import pathlib
import sys

import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file

ROWS = 3

# The folders of adapters, and of their bases.
CASES = {
    "adapters/patterns": "tiny_llama",
    "adapters/factored_head": "tiny_llama",
    "families/phi3/adapter": "families/phi3",
    "families/gemma2/adapter": "families/gemma2",
}


def main():
    fixtures = pathlib.Path(sys.argv[1])
    for adapter, base in CASES.items():
        load = lambda: transformers.AutoModelForCausalLM.from_pretrained(fixtures / base, dtype=torch.float32)
        plain = load().state_dict()
        merged = PeftModel.from_pretrained(load(), fixtures / adapter).merge_and_unload().state_dict()
        changed = {name: value for name, value in merged.items() if not torch.equal(value, plain[name])}
        rows = {name: value[:ROWS].contiguous() for name, value in changed.items()}
        save_file(rows, fixtures / adapter / "merged.safetensors")
        moved = max((merged[name] - plain[name]).abs().max().item() for name in changed)
        print(adapter, len(rows), "weights, the largest change is", moved)


main()
