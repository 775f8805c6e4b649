"""A model in llama.cpp's own library, as exact as it computes: keys and values in f32, attention in the plain order.

llama.cpp comes through the package llama-cpp-python, built by `pip install llama-cpp-python` (it needs a C++ compiler;
LLAMA_CPP_LIB_PATH names a folder with another libllama).
"""

import ctypes

import llama_cpp.llama_cpp as llama
import numpy as np

llama.llama_backend_init()


@llama.llama_log_callback
def _silent(level, text, user_data):
    pass


class Context:
    """Logits of the GGUF file `path`, with the GGUF adapter `adapter` on it if there is one, over up to `length` tokens."""

    def __init__(self, path, adapter=None, length=64):
        llama.llama_log_set(_silent, None)
        self.model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp does not load it")
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = length
        params.type_k = params.type_v = llama.GGML_TYPE_F32
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = 1
        self.context = llama.llama_init_from_model(self.model, params)
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.eos = llama.llama_vocab_eos(self.vocab)
        if adapter:
            self._put_on(adapter)

    def _put_on(self, adapter):
        lora = llama.llama_adapter_lora_init(self.model, adapter.encode())
        if not lora:
            raise SystemExit(f"{adapter}: llama.cpp does not load it")
        adapters = (ctypes.c_void_p * 1)(ctypes.cast(lora, ctypes.c_void_p))
        pointer = ctypes.cast(adapters, llama.llama_set_adapters_lora.argtypes[1])
        if llama.llama_set_adapters_lora(self.context, pointer, 1, (ctypes.c_float * 1)(1.0)) != 0:
            raise SystemExit(f"{adapter}: llama.cpp does not put it on")

    def tokens(self, text):
        """Returns the ids of `text`, special tokens read as such."""
        data = text.encode()
        ids = (llama.llama_token * (len(data) + 8))()
        count = llama.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, True)
        return list(ids[:count])

    def text(self, ids):
        """Returns what `ids` stand for."""
        pieces = b""
        for token in ids:
            piece = ctypes.create_string_buffer(256)
            length = llama.llama_token_to_piece(self.vocab, token, piece, len(piece), 0, True)
            pieces += piece.raw[:length]
        return pieces.decode(errors="replace")

    def logits(self, ids, start=0):
        """Returns the logits after each of `ids`, the first of which is at place `start`: at 0 a new text begins."""
        if start == 0:
            llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        batch = llama.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for at, token in enumerate(ids):
            batch.token[at], batch.pos[at] = int(token), start + at
            batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, 0, 1
        if llama.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama.cpp does not compute it")
        size = llama.llama_vocab_n_tokens(self.vocab)
        rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(self.context, at), (size,)).copy() for at in range(len(ids))]
        llama.llama_batch_free(batch)
        return np.stack(rows)
