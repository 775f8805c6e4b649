"""Records adapters that peft wrote, of kinds beside the plain one, and the logits that they give.

usage: record_adapters.py tests/fixtures

Each folder of tests/fixtures/adapters is a peft directory with a `reference.safetensors`: `input_ids` I64 [1, 12] and `logits`
F32 [1, 12, 512] of the base in f32 with the adapter on it, as `PeftModel.from_pretrained` reads it again. KINDS has the
base of each, and what it was made with.
"""

import pathlib
import shutil
import sys

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

KINDS = {
    # Patterns of which two fit one layer, in an order that matters; a bare name, a whole path, lookahead.
    "patterns": ("tiny_llama", dict(
        r=2, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj", "W_pack"],
        rank_pattern={"layers.1.self_attn.q_proj": 4, "q_proj": 1, r"layers\.(?!0)\d+\.mlp\..*": 3},
        alpha_pattern={"^model.layers.2.self_attn.v_proj": 9, "v_proj": 0.5})),
    # The second and third block, without one layer of them.
    "blocks": ("tiny_llama", dict(
        r=2, lora_alpha=4, target_modules=["k_proj", "up_proj"], layers_to_transform=[1, 2], layers_pattern="layers",
        exclude_modules=["2.mlp.up_proj"])),
    # A regular expression of Python's, blocks and layers left out by another.
    "regex": ("tiny_llama", dict(
        r=2, lora_alpha=4, target_modules=r"(?!.*layers\.1\.).*\.(q|o|gate)_proj", exclude_modules=r".*\.2\..*gate.*")),
    # An embedding of its own on a model whose head is the embedding: the head stays.
    "tied_embedding": ("tiny_llama_tied", dict(
        r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    # A head of its own on the same.
    "tied_head": ("tiny_llama_tied", dict(
        r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    # Factors on embedding and head, of another rank on the latter.
    "factored_head": ("tiny_llama", dict(
        r=2, lora_alpha=3, target_modules=["q_proj", "embed_tokens", "lm_head"], rank_pattern={"lm_head": 3})),
}


def base(fixtures, name):
    return transformers.AutoModelForCausalLM.from_pretrained(fixtures / name, dtype=torch.float32).eval()


def main():
    fixtures = pathlib.Path(sys.argv[1])
    ids = torch.arange(12)[None] * 37 % 509 + 3
    for seed, (name, (model, config)) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        net = get_peft_model(base(fixtures, model), LoraConfig(task_type="CAUSAL_LM", **config))
        for key, parameter in net.named_parameters():
            if "lora_" in key:
                parameter.data = torch.randn_like(parameter) * 0.25
            elif "modules_to_save" in key:
                # Half as precise, to be half as large.
                parameter.data = (parameter.data + torch.randn_like(parameter) * 0.3).bfloat16().float()
        folder = fixtures / "adapters" / name
        shutil.rmtree(folder, ignore_errors=True)
        net.save_pretrained(folder)
        (folder / "README.md").unlink()
        weights = folder / "adapter_model.safetensors"
        tensors = load_file(weights)
        for key in tensors:
            if "lora_" not in key:
                tensors[key] = tensors[key].bfloat16()
        if name == "factored_head":
            # peft adds the embedding's own weight, because it is a target; it is the model's.
            tensors = {key: value for key, value in tensors.items() if "lora_" in key}
        save_file(tensors, weights, metadata={"format": "pt"})
        with torch.no_grad():
            plain = base(fixtures, model)(ids).logits
            logits = PeftModel.from_pretrained(base(fixtures, model), folder).eval()(ids).logits
        save_file({"input_ids": ids, "logits": logits}, folder / "reference.safetensors")
        print(name, "moves the logits by", (logits - plain).abs().max().item(), "of", plain.std().item(), list(tensors)[:3])


main()
