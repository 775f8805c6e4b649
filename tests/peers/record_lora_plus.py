"""Records a run with peft's LoRA+ optimizer: the groups that it makes, and what each step gives.

usage: record_lora_plus.py tests/fixtures

The base, the adapter at the start and the batches are those of tests/fixtures/qlora_curve. `lora_plus.json` beside them has the
settings, the learning rate, weight decay and number of parameters of each group of `create_loraplus_optimizer`, and the
loss and the norm of the gradients of each step.
"""

import json
import pathlib
import sys

import torch
from exact_bitsandbytes import load
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file

SETTINGS = {"steps": 8, "lr": 1e-3, "ratio": 16.0, "weight_decay": 0.01, "max_grad_norm": 0.3, "warmup_steps": 3}


def main():
    folder = pathlib.Path(sys.argv[1])
    curve = folder / "qlora_curve"
    base = load(str(folder / "tiny_llama_nf4"))
    model = PeftModel.from_pretrained(base, curve / "init_adapter", is_trainable=True).train()
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=SETTINGS["lr"], loraplus_lr_ratio=SETTINGS["ratio"],
        loraplus_weight_decay=SETTINGS["weight_decay"], betas=(0.9, 0.999), eps=1e-8)
    groups = [{"lr": group["lr"], "weight_decay": group["weight_decay"], "parameters": len(group["params"])}
              for group in optimizer.param_groups]
    warmup = SETTINGS["warmup_steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / warmup))
    batches = load_file(curve / "batches.safetensors")
    losses, norms = [], []
    for step in range(SETTINGS["steps"]):
        loss = model(input_ids=batches["input_ids"][step], labels=batches["labels"][step]).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in model.parameters() if p.requires_grad], SETTINGS["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
    recorded = {**SETTINGS, "groups": groups, "per_step": {"loss": losses, "grad_norm": norms}}
    (curve / "lora_plus.json").write_text(json.dumps(recorded, indent=1) + "\n")


main()
