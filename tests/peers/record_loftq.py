"""Records adapters that peft's LoftQ set, and the losses they start at.

usage: record_loftq.py tests/fixtures [rounds]

tests/fixtures/loftq is a peft directory of rank 8 on all linear layers of tiny_llama_nf4, which is tiny_llama in NF4 with double
quantization, whose factors `replace_lora_weights_loftq` has set. `reference.safetensors` has, beside `input_ids` I64
[4, 32], the mean losses of these tokens `loss_dense`, `loss_nf4` and `loss_loftq` F32 [1], and for each layer PATH
`error.PATH` F32 [2]: the norms of W - NF4(W) and of W - NF4(W) - B·A.

`rounds.safetensors` has what peft's `loftq_init` makes of the same weights in five rounds, without double quantization: for each layer PATH
`error.PATH` F32 [2], the norms of W - Q and of W - Q - B·A, for the first round's Q and the last's, and of two layers the last Q,
`weight.PATH` F32, and `product.PATH` F32, B·A.

The scale is 1: peft leaves it out of the factors. peft decomposes on "cuda" alone; here that is the CPU.
"""

import pathlib
import shutil
import sys

import torch
import bitsandbytes
import transformers
from bitsandbytes import functional
from exact_bitsandbytes import load
from peft import LoraConfig, PeftModel, get_peft_model, replace_lora_weights_loftq
from peft.utils.loftq_utils import loftq_init
from safetensors.torch import load_file, save_file

RANK, ROUNDS = 8, 5


def on_the_cpu(method):
    def moved(tensor, *args, **kwargs):
        args = ["cpu" if arg == "cuda" else arg for arg in args]
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return method(tensor, *args, **kwargs)

    return moved


def loss(model, ids):
    with torch.no_grad():
        return model(ids, labels=ids).loss.float().reshape(1)


def record_rounds(weights, paths, folder):
    bitsandbytes.nn.Params4bit.to = on_the_cpu(bitsandbytes.nn.Params4bit.to)
    recorded = {}
    for path in paths:
        weight = weights[path + ".weight"].float()
        first, *_ = loftq_init(weight, 4, RANK, 1)
        kept, a, b = loftq_init(weight, 4, RANK, ROUNDS)
        recorded["error." + path] = torch.stack([(weight - first).norm(), (weight - kept - b @ a).norm()])
        if path.startswith("model.layers.1.") and path.endswith(("k_proj", "down_proj")):
            recorded["weight." + path], recorded["product." + path] = kept, (b @ a).contiguous()
    save_file(recorded, folder / "rounds.safetensors")


def main():
    fixtures = pathlib.Path(sys.argv[1])
    base = fixtures / "tiny_llama"
    four_bits = fixtures / "tiny_llama_nf4"
    folder = fixtures / "loftq"
    if sys.argv[2:] == ["rounds"]:
        weights = load_file(base / "model.safetensors")
        paths = [name.removesuffix(".weight") for name in weights if "_proj." in name]
        torch.Tensor.to = on_the_cpu(torch.Tensor.to)
        return record_rounds(weights, paths, folder)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    ids = torch.arange(4 * 32).reshape(4, 32) * 37 % 509 + 3

    dense = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    reference = {"input_ids": ids, "loss_dense": loss(dense, ids)}
    model = load(four_bits)
    reference["loss_nf4"] = loss(model, ids)
    model = get_peft_model(model, LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=RANK, target_modules="all-linear"))
    torch.Tensor.to = on_the_cpu(torch.Tensor.to)
    replace_lora_weights_loftq(model, model_path=str(base / "model.safetensors"))
    reference["loss_loftq"] = loss(model, ids)
    weights = load_file(base / "model.safetensors")
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or not hasattr(module, "base_layer"):
            continue
        path = name.removeprefix("base_model.model.")
        layer = module.base_layer.weight
        kept = functional.dequantize_4bit(layer.data, layer.quant_state).float()
        error = weights[path + ".weight"].float() - kept
        product = module.lora_B["default"].weight @ module.lora_A["default"].weight
        reference["error." + path] = torch.stack([error.norm(), (error - product).norm()]).detach()
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    save_file(reference, folder / "reference.safetensors")
    record_rounds(weights, [name.removeprefix("error.") for name in reference if name.startswith("error.")], folder)
    again = PeftModel.from_pretrained(load(four_bits), folder).eval()
    print({key: value.item() for key, value in reference.items() if key.startswith("loss")}, "read again:", loss(again, ids).item())


main()
