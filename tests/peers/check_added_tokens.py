"""Evaluates an adapter with tokens of its own, written by `finetune train --add-tokens`, with transformers + peft.

usage: check_added_tokens.py MODEL ADAPTER TEXT SEQ_LEN ROWS [MERGED]

MODEL is a Hugging Face directory in 16 or 32 bits, on which ADAPTER was trained with `--quant none`. The tokenizer is the one beside the
adapter, and the model is resized to it. Prints the mean negative log-likelihood a token of the first ROWS rows of SEQ_LEN tokens
of TEXT, as `finetune eval --quant none --model MODEL --adapter ADAPTER --data TEXT --seq-len SEQ_LEN --max-rows ROWS --json` does, and
that of MERGED, which `finetune export --to hf --dtype f32` made of both; and the tokens that the tokenizer has beyond MODEL's.
"""

import json
import sys

import torch
import transformers
from peft import PeftModel


def load(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager")


def nll(model, tokenizer, text, seq_len, rows):
    ids = tokenizer(open(text, encoding="utf-8").read(), return_tensors="pt").input_ids[0]
    total, count = 0.0, 0
    with torch.no_grad():
        for row in ids.split(seq_len)[:rows]:
            logits = model.eval()(row[None]).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum").item()
            count += len(row) - 1
    return {"nll": total / count, "tokens": count}


def main():
    directory, adapter, text, seq_len, rows, *merged = sys.argv[1:]
    seq_len, rows = int(seq_len), int(rows)
    tokenizer = transformers.AutoTokenizer.from_pretrained(adapter)
    model = load(directory)
    added = [tokenizer.convert_ids_to_tokens(token)
             for token in range(len(transformers.AutoTokenizer.from_pretrained(directory)), len(tokenizer))]
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer))
    model = PeftModel.from_pretrained(model, adapter)
    print(json.dumps({**nll(model, tokenizer, text, seq_len, rows), "added": added}))
    for directory in merged:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        print(json.dumps(nll(load(directory), tokenizer, text, seq_len, rows)))


main()
