"""Runs GGUF files that `finetune export --to gguf` wrote with llama.cpp and compares their logits with recorded ones.

usage: check_gguf.py FILE.gguf RECORDING.safetensors TOLERANCE [ADAPTER.gguf] ...

The recording has `long_input_ids` and `long_logits_tail`. llama.cpp comes through the package llama-cpp-python, built by
`pip install llama-cpp-python` (it needs a C++ compiler; LLAMA_CPP_LIB_PATH names a folder with another libllama). Beside the logits
every tensor is decoded by gguf-py, to see that it can. Fails where a logit is further away than TOLERANCE.
"""

import ctypes
import sys

import gguf
import llama_cpp.llama_cpp as llama
import numpy as np
from safetensors.numpy import load_file


def logits(path, ids, adapter):
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"{path}: llama.cpp does not load it")
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 64
    # As exact as it can be: keys and values in f32, in the plain order.
    params.type_k = params.type_v = llama.GGML_TYPE_F32
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_threads = params.n_threads_batch = 1
    context = llama.llama_init_from_model(model, params)
    if adapter:
        lora = llama.llama_adapter_lora_init(model, adapter.encode())
        if not lora:
            raise SystemExit(f"{adapter}: llama.cpp does not load it")
        adapters = (ctypes.c_void_p * 1)(lora)
        scales = (ctypes.c_float * 1)(1.0)
        if llama.llama_set_adapters_lora(context, adapters, 1, scales) != 0:
            raise SystemExit(f"{adapter}: llama.cpp does not put it on")
    batch = llama.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for at, token in enumerate(ids):
        batch.token[at], batch.pos[at] = int(token), at
        batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, 0, 1
    if llama.llama_decode(context, batch) != 0:
        raise SystemExit(f"{path}: llama.cpp does not compute it")
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, at), (vocabulary,)).copy() for at in range(len(ids))]
    return np.stack(rows)


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
        found = logits(path, recorded["long_input_ids"].flatten(), adapter)[-len(expected):]
        difference = np.abs(found - expected).max()
        same = (found.argmax(-1) == expected.argmax(-1)).all()
        print(path, adapter or "", "largest difference", difference, "of the same best tokens:", same)
        failed |= difference > float(tolerance)
    sys.exit(failed)


llama.llama_backend_init()
main()
