"""Records a run with peft's `trainable_token_indices`, with tokens that the vocabulary was extended by.

usage: record_trainable_tokens.py tests/fixtures

For tiny_llama_tied and tiny_llama, whose vocabulary gets three tokens: `trainable_tokens/{tied,untied}` has the adapter at the start,
with random factors and rows of these tokens and of token 7, the batches, the gradients of the first step, and loss and norm of
each step; `trained` is the adapter at the end as peft saves it by itself, with the embedding that was resized, and
`logits` are those of the first row with it.
"""

import json
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

SETTINGS = {"steps": 5, "lr": 1e-2, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "max_grad_norm": 0.3,
            "warmup_steps": 0}
NEW, ROWS, SEQ = 3, 2, 24


def base(folder, name):
    model = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32, attn_implementation="eager")
    model.resize_token_embeddings(model.config.vocab_size + NEW, mean_resizing=False)
    return model


def record(folder, name, tied):
    torch.manual_seed(2305)
    out = folder / "trainable_tokens" / ("tied" if tied else "untied")
    out.mkdir(parents=True, exist_ok=True)
    model = base(folder, name)
    vocab = model.config.vocab_size
    tokens = [7, *range(vocab - NEW, vocab)]
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM",
        trainable_token_indices=tokens if tied else {"embed_tokens": tokens, "lm_head": tokens})
    model = get_peft_model(model, config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(out / "init_adapter", save_embedding_layers=False)
    ids = torch.randint(3, vocab, (SETTINGS["steps"], ROWS, SEQ))
    ids[..., ::4] = torch.tensor(tokens)[torch.randint(0, len(tokens), ids[..., ::4].shape)]
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
            gradients = {key: p.grad.clone() for key, p in parameters.items()}
            save_file(gradients, out / "grads_step0.safetensors")
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), SETTINGS["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
    curve = {**SETTINGS, "tokens": tokens, "per_step": {"loss": losses, "grad_norm": norms}}
    (out / "curve.json").write_text(json.dumps(curve, indent=1) + "\n")
    model.save_pretrained(out / "trained")
    loaded = PeftModel.from_pretrained(base(folder, name), out / "trained").eval()
    with torch.no_grad():
        logits = loaded(ids[0, :1]).logits[0]
        assert (logits - model.eval()(ids[0, :1]).logits[0]).abs().max() < 1e-5
    save_file({"input_ids": ids[0, :1].contiguous(), "logits": logits.contiguous()}, out / "logits.safetensors")
    for readme in out.glob("*/README.md"):
        readme.unlink()
    print(out, losses, sorted(gradients))


def main():
    folder = pathlib.Path(sys.argv[1])
    record(folder, "tiny_llama_tied", True)
    record(folder, "tiny_llama", False)


main()
