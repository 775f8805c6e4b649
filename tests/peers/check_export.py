"""Loads directories that `finetune export --to hf` wrote with transformers and compares their logits with recorded ones.

usage: check_export.py DIRECTORY RECORDING.safetensors IDS LOGITS ...

IDS and LOGITS are tensors of the recording; where there are fewer logits than tokens, they are those of the last. Four arguments
a directory. Fails where transformers finds a tensor missing or left over, or a logit is 1e-4 or more away.
"""

import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file

transformers.utils.logging.disable_progress_bar()


def check(directory, recording, ids, logits):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    odd = {kind: names for kind, names in info.items() if names}
    recorded = load_file(recording)
    expected = recorded[logits]
    with torch.no_grad():
        found = model.eval()(recorded[ids].long()).logits.flatten()[-expected.numel():]
    mask = torch.ones_like(found).bool()
    if "attention_mask" in recorded and ids == "input_ids":
        mask = recorded["attention_mask"].bool()[..., None].expand_as(expected).flatten()
    difference = (found - expected.flatten())[mask].abs().max().item()
    tokens = 0
    if (pathlib.Path(directory) / "tokenizer.json").exists():
        tokens = len(transformers.AutoTokenizer.from_pretrained(directory))
    print(directory, "largest difference", difference, "tokens", tokens, "ends at", model.generation_config.eos_token_id, odd or "")
    return difference < 1e-4 and not odd


def main():
    arguments = sys.argv[1:]
    cases = [arguments[at:at + 4] for at in range(0, len(arguments), 4)]
    sys.exit(not all([check(*case) for case in cases]))


main()
