"""Records runs with peft's LoRA on the head beside a projection.

usage: record_head_adapters.py tests/fixtures

`head_adapters/{untied,tied,capped}` are of tiny_llama, of tiny_llama_tied and of families/gemma2, whose head is the embedding and whose
logits are capped: `init_adapter` with random factors, the batches, the gradients of the first step, loss and norm of each step
(`curve.json`), `final_adapter` at the end, and in `logits` those of the first row with it. `tied/saved` is the adapter at the end as
peft saves it by itself, with the embedding's own weight, in bf16 as the model's file has it; `untied/logits` has those of the model that
peft merged it into as well, and the head of that model. Merging into a head that is the embedding changes both in peft.
"""

import json
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

SETTINGS = {"steps": 10, "lr": 1e-2, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "max_grad_norm": 0.3,
            "warmup_steps": 0}
RUNS = {
    "untied": ("tiny_llama", dict(
        r=2, lora_alpha=4, target_modules=["q_proj", "lm_head"], rank_pattern={"lm_head": 3})),
    "tied": ("tiny_llama_tied", dict(r=2, lora_alpha=4, target_modules=["down_proj", "lm_head"], use_rslora=True)),
    "capped": ("families/gemma2", dict(r=2, lora_alpha=4, target_modules=["lm_head"])),
}
ROWS, SEQ = 2, 24


def base(folder, name):
    return AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32, attn_implementation="eager")


def record(folder, run, seed):
    name, config = RUNS[run]
    torch.manual_seed(seed)
    out = folder / "head_adapters" / run
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = get_peft_model(base(folder, name), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(out / "init_adapter", save_embedding_layers=False)
    ids = torch.randint(3, model.config.vocab_size, (SETTINGS["steps"], ROWS, SEQ))
    labels = ids.clone()
    labels[..., :5] = -100
    save_file({"input_ids": ids, "labels": labels}, out / "batches.safetensors")
    parameters = {key: p for key, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=SETTINGS["lr"], betas=SETTINGS["betas"], eps=SETTINGS["eps"],
                                  weight_decay=SETTINGS["weight_decay"])
    losses, norms = [], []
    for step in range(SETTINGS["steps"]):
        loss = model(input_ids=ids[step], labels=labels[step]).loss
        loss.backward()
        if step == 0:
            save_file({key: p.grad.clone() for key, p in parameters.items()}, out / "grads_step0.safetensors")
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), SETTINGS["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
    rates = [SETTINGS["lr"]] * SETTINGS["steps"]
    curve = {**SETTINGS, "per_step": {"loss": losses, "grad_norm": norms, "lr": rates}}
    (out / "curve.json").write_text(json.dumps(curve, indent=1) + "\n")
    model.save_pretrained(out / "final_adapter", save_embedding_layers=False)
    if run == "tied":
        model.save_pretrained(out / "saved")
        weights = out / "saved" / "adapter_model.safetensors"
        tensors = {key: value if "lora_" in key else value.bfloat16() for key, value in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
        print(sorted(tensors))
    row = ids[0, :1].contiguous()
    loaded = PeftModel.from_pretrained(base(folder, name), out / "final_adapter").eval()
    with torch.no_grad():
        plain = base(folder, name).eval()(row).logits[0]
        tensors = {"input_ids": row, "logits": loaded(row).logits[0].contiguous()}
        if run == "untied":
            merged = loaded.merge_and_unload()
            tensors["logits_merged"] = merged(row).logits[0].contiguous()
            tensors["head_merged"] = merged.lm_head.weight.detach().clone()
    save_file(tensors, out / "logits.safetensors")
    for readme in out.glob("*/README.md"):
        readme.unlink()
    print(run, losses, norms, "moves the logits by", (tensors["logits"] - plain).abs().max().item(), sorted(parameters))


def main():
    folder = pathlib.Path(sys.argv[1])
    for seed, run in enumerate(RUNS):
        record(folder, run, 4000 + seed)


main()
