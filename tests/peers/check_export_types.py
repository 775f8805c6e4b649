"""Compares the blocks that finetune writes with llama.cpp's dequantizers and quantizers, type by type.

usage: check_export_types.py FINETUNE [LIBGGML]

Writes a model of random weights (rows of 512; normal, with a value in a hundred ten times as large), exports it to GGUF in each type,
and prints for each: whether gguf-py's dequantizer gives the very values that finetune reads back from the file (`export --to hf --dtype
f32`), the error of the weights, |W - read| / |W|, and that of the same weights in gguf-py's own quantizer, where it has one, and in
ggml's, if LIBGGML names a libggml-base.so (a folder `lib` of llama-cpp-python has one; without an importance matrix, as
llama-quantize by default). Ends with 1 where values differ, or an error is more than a tenth above ggml's or gguf-py's.
"""

import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

TYPES = ["Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K"]
WIDTH, VOCAB = 512, 320


def write_model(folder):
    random = np.random.default_rng(5)

    def weights(*shape):
        values = random.normal(0, 0.02, shape)
        values[random.random(shape) < 0.01] *= 10
        return values.astype(np.float32)

    layer = "model.layers.0."
    matrices = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    norms = ["model.norm", layer + "input_layernorm", layer + "post_attention_layernorm"]
    tensors = {f"{layer}{name}.weight": weights(WIDTH, WIDTH) for name in matrices}
    tensors |= {f"{name}.weight": np.ones(WIDTH, np.float32) for name in norms}
    tensors |= {f"{name}.weight": weights(VOCAB, WIDTH) for name in ["model.embed_tokens", "lm_head"]}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": WIDTH,
        "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "vocab_size": VOCAB, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    return tensors


def tokenizer():
    """Of bytes, as GPT-2 spells them, and one merge."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = [chr(byte) for byte in shown] + [chr(256 + at) for at in range(len(hidden))]
    special, merges = ["<s>", "</s>"], [["\u0120", "t"]]
    added = [
        {"id": at, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for at, text in enumerate(special)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
        "decoder": byte_level, "truncation": None, "padding": None,
        "model": {"type": "BPE", "vocab": {text: at for at, text in enumerate([*special, *letters, *map("".join, merges)])}, "merges": merges},
    }


def ggml_quantizer(path):
    ggml = ctypes.CDLL(path)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_row_size.restype = ctypes.c_size_t
    ggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantized(values, kind):
        rows, width = values.shape
        blocks = np.zeros((rows, ggml.ggml_row_size(kind, width)), np.uint8)
        written = ggml.ggml_quantize_chunk(kind, values.ctypes.data, blocks.ctypes.data, 0, rows, width, None)
        assert written == blocks.nbytes
        return blocks

    return quantized


def main():
    finetune, *ggml = sys.argv[1:]
    quantizers = {"gguf-py": lambda values, kind: quantize(values, GGMLQuantizationType(kind))}
    if ggml:
        quantizers["ggml"] = ggml_quantizer(*ggml)
    failed = False
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        source = place / "model"
        source.mkdir()
        weights = write_model(source)

        def export(model, to, dtype, output):
            flags = ["--model", model, "--to", to, "--dtype", dtype, "--output", output]
            subprocess.run([finetune, "export", *flags], check=True, capture_output=True)

        for name in TYPES:
            file, back = place / f"{name}.gguf", place / f"{name}-back"
            export(source, "gguf", name.lower(), file)
            export(file, "hf", "f32", back)
            ours = load_file(back / "model.safetensors")
            kind = GGMLQuantizationType[name]
            norms = {"finetune": 0.0, **{other: 0.0 for other in quantizers}}
            total, equal = 0.0, True
            for tensor in GGUFReader(file).tensors:
                path = f"model.layers.0.mlp.{tensor.name.removeprefix('blk.0.ffn_').removesuffix('.weight')}_proj.weight"
                # Of the other matrices rows are in another order, or they have another type.
                if path not in weights:
                    continue
                assert tensor.tensor_type == kind
                read, original = dequantize(tensor.data, kind), weights[path]
                equal &= np.array_equal(read.view(np.uint32), ours[path].view(np.uint32))
                total += np.square(original, dtype=np.float64).sum()
                norms["finetune"] += np.square(original - read, dtype=np.float64).sum()
                for other, quantizer in quantizers.items():
                    try:
                        theirs = dequantize(quantizer(original, kind), kind)
                    except NotImplementedError:
                        theirs = np.full_like(original, np.nan)
                    norms[other] += np.square(original - theirs, dtype=np.float64).sum()
            errors = {who: np.sqrt(norm / total) for who, norm in norms.items()}
            worst = np.nanmin([error for who, error in errors.items() if who != "finetune"] + [np.inf])
            bad = not equal or errors["finetune"] > 1.1 * worst
            failed |= bad
            shown = ", ".join(f"{who} {100 * error:.3f} %" for who, error in errors.items() if not np.isnan(error))
            print(f"{name}: {'the same values' if equal else 'OTHER VALUES'}; {shown}{' FAILED' if bad else ''}")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
