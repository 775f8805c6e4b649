"""Records what gguf-py's dequantizer makes of random blocks of llama.cpp's formats.

usage: record_gguf_blocks.py gguf_blocks.safetensors
"""

import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

ROWS, COLUMNS = 3, 512
FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"]
# Where the f16 numbers of a block lie.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
}
# Zeros of both signs, the least and the largest magnitudes, and the neighbours of the least normal number.
EDGES = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF], np.uint16).view(np.float16)


def main() -> None:
    (output,) = map(pathlib.Path, sys.argv[1:])
    random = np.random.default_rng(16)
    tensors = {}
    for name in FORMATS:
        kind = GGMLQuantizationType[name]
        elements, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (ROWS * COLUMNS // elements, size), np.uint8)
        for at in HALVES.get(name, []):
            halves = random.normal(0, 0.05, len(blocks)).astype(np.float16)
            halves[: len(EDGES)] = random.permutation(EDGES)[: len(halves)]
            blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
        if name == "MXFP4":
            # All but the last exponents, whose values are beyond f32.
            blocks[:, 0] = np.append([0, 1, 2, 252], random.integers(0, 253, len(blocks) - 4))
        rows = blocks.reshape(ROWS, -1)
        tensors[f"{name}/blocks"] = rows
        tensors[f"{name}/values"] = dequantize(rows, kind)
    save_file(tensors, output)


if __name__ == "__main__":
    main()
