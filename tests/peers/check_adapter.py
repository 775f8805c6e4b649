"""Evaluates an adapter written by burn-qlora with transformers + bitsandbytes + peft.

usage: check_adapter.py CHECKPOINT ADAPTER TEXT SEQ_LEN ROWS

CHECKPOINT is a directory that `finetune quantize` wrote, ADAPTER one that `finetune train` wrote. Prints the mean
negative log-likelihood a token of the first ROWS rows of SEQ_LEN tokens of TEXT, as
`finetune eval --model CHECKPOINT --adapter ADAPTER --data TEXT --seq-len SEQ_LEN --max-rows ROWS --json` does.
"""

import json
import sys

import torch
import transformers
from exact_bitsandbytes import load
from peft import PeftModel

checkpoint, adapter, text, seq_len, rows = sys.argv[1:]
seq_len, rows = int(seq_len), int(rows)
model = PeftModel.from_pretrained(load(checkpoint), adapter).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
ids = tokenizer(open(text, encoding="utf-8").read(), return_tensors="pt").input_ids[0]
total, count = 0.0, 0
with torch.no_grad():
    for row in ids.split(seq_len)[:rows]:
        logits = model(row[None]).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum").item()
        count += len(row) - 1
print(json.dumps({"nll": total / count, "tokens": count}))
