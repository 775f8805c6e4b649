"""transformers + bitsandbytes in f32 on the CPU, with two faults of bitsandbytes 0.50.2 kept out.

On CPUs with AVX-512 it computes in bf16 whatever the compute dtype, and its fast decoder is wrong where the row length
is a multiple of 16 but not of the block (see tests/fixtures/README.md).
"""

import bitsandbytes.nn.modules as bnb_modules
import torch
import transformers
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

bnb_modules.has_avx512bf16 = lambda: False


def dequantize(packed, absmax, blocksize, quant_type, shape, dtype):
    from bitsandbytes.functional import get_4bit_type

    code = get_4bit_type(quant_type, device=packed.device)
    flat = packed.view(torch.uint8).reshape(-1)
    return _dequantize_4bit_compute(flat, absmax, code, blocksize, shape, dtype)


LIBRARY = torch.library.Library("bitsandbytes", "IMPL")
LIBRARY.impl("dequantize_4bit", dequantize, "CPU", allow_override=True)


def load(directory):
    """The model of a 4-bit checkpoint; what is not quantized in it becomes f32, which transformers leaves undone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.float()
    return model
