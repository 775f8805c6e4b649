"""Records what transformers' logits processors make of logits, in the order in which its `generate` applies them.

usage: record_sampling.py sampling.json
"""

import json
import pathlib
import sys

import torch
import transformers

PROMPT = [3, 7, 7, 11, 0]
SETTINGS = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"min_p": 0.1},
    {"min_p": 0.02, "temperature": 2.0},
    {"min_p": 1.0},
    {"min_p": 0.0},
    {"top_k": 7, "top_p": 0.9, "min_p": 0.05, "temperature": 1.5},
    {"repetition_penalty": 1.2, "temperature": 0.6, "top_k": 9, "top_p": 0.95, "min_p": 0.2},
    {"repetition_penalty": 2.5, "top_p": 0.6},
]


class Model(transformers.GenerationMixin):
    config = transformers.LlamaConfig()


def processors(setting: dict) -> transformers.LogitsProcessorList:
    config = transformers.GenerationConfig(do_sample=True, **{"top_k": 0, "top_p": 1.0, "temperature": 1.0} | setting)
    config._eos_token_tensor = None
    return Model()._get_logits_processor(config, input_ids_seq_length=len(PROMPT), device="cpu")


def main() -> None:
    (output,) = map(pathlib.Path, sys.argv[1:])
    torch.manual_seed(14)
    cases = []
    for setting in SETTINGS:
        logits = torch.randn(1, 16) * 2.5
        scores = processors(setting)(torch.tensor([PROMPT]), logits.clone())
        cases.append(
            {
                "setting": setting,
                "logits": logits[0].tolist(),
                "probabilities": torch.softmax(scores[0], -1).tolist(),
                "greedy": int(scores[0].argmax()),
            }
        )
    text = json.dumps({"transformers": transformers.__version__, "prompt": PROMPT, "cases": cases}, indent=1)
    output.write_text(text + "\n")


if __name__ == "__main__":
    main()
