"""Runs GGUF files that `finetune export --to gguf` wrote with llama.cpp and compares their logits with recorded ones.

usage: check_gguf.py FILE.gguf RECORDING.safetensors TOLERANCE [ADAPTER.gguf] ...

The recording has `long_input_ids` and `long_logits_tail`. Beside the logits every tensor is decoded by gguf-py, to see that it can.
Fails where a logit is further away than TOLERANCE.
"""

import sys

import gguf
import numpy as np
from llama_cpp_context import Context
from safetensors.numpy import load_file


def main():
    arguments, failed = sys.argv[1:], False
    while arguments:
        path, recording, tolerance = arguments[:3]
        arguments = arguments[3:]
        adapter = None
        if arguments and arguments[0].endswith(".gguf") and not (len(arguments) > 1 and arguments[1].endswith(".safetensors")):
            adapter, arguments = arguments[0], arguments[1:]
        for tensor in gguf.GGUFReader(path).tensors:
            gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        recorded = load_file(recording)
        expected = recorded["long_logits_tail"]
        found = Context(path, adapter).logits(recorded["long_input_ids"].flatten())[-len(expected):]
        difference = np.abs(found - expected).max()
        same = (found.argmax(-1) == expected.argmax(-1)).all()
        print(path, adapter or "", "largest difference", difference, "of the same best tokens:", same)
        failed |= difference > float(tolerance)
    sys.exit(failed)


main()
