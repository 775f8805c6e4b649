"""Records what transformers makes of awkward strings with SmolLM2's tokenizer.

usage: record_tokens.py SmolLM2-135M-Instruct.Q4_1.gguf smollm2_tokens.json

transformers 5.23 builds the tokenizer from the GGUF metadata, but ignores `tokenizer.ggml.pre = smollm` there and cuts
words as GPT-2 does. The model was trained with single digits cut off first, as its own tokenizer.json and llama.cpp
have it (a Digits pre-tokenizer before ByteLevel), so that is put in place before the recording: `ids`. What transformers
makes of the file as it is stands beside it as `ids_as_gpt2` where it differs: digits behind two or more blanks.
"""

import json
import pathlib
import sys

import tokenizers
import transformers
from tokenizers import pre_tokenizers

STRINGS = [
    "",
    " ",
    "Hello, world!",
    "The capital of France is",
    "  two leading,   three inner, trailing  ",
    "tabs\t\tand\ttab\n\n\nthree newlines\r\nwindows\n",
    "\n\n\n\n",
    "12345 3.14159 1,000,000 0x1F 2²",
    "list:\n\n1. one\n\n2. two\n   3 three",
    "col  42   7\t\t9",
    "naïve café ĀāĂă Straße ﬁ",
    "e\u0301 a\u0308\u0304 \u0928\u093f \u0e01\u0e33",
    "日本語のテスト。中文混合English한국어",
    "👩‍👩‍👧‍👦 🇪🇺 ❤️‍🔥 🤷🏽‍♀️ ☃",
    "مرحبا بالعالم שלום",
    "non\u00a0breaking\u2003em\u200bzero\ufeffbom",
    "don't I'LL we've they'd 'quoted' it''s",
    "fn main() {\n    let x: Vec<u8> = vec![0; 1 << 20];\n\tprintln!(\"{x:?}\");\n}\n",
    "if (a&&b||!c) return a->b[i++] != NULL ? x : y; // done",
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    " <|im_end|> <|endoftext|><|im_start|>x<|im_end|",
    "<repo_name>a/b<file_sep>c.py<gh_stars>12",
    "\u0000\u0001\u007f\u0080\u00ad",
    "a" * 100 + " " * 17 + "b",
    "MixedCASE snake_case kebab-case $100 50% #tag @user https://x.org/a?b=c&d=%20",
    "½ ⅷ ٣ ๔ 五 Ⅻ 10³",
]


def main() -> None:
    gguf, output = map(pathlib.Path, sys.argv[1:])
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    encode = lambda text: tokenizer(text)["input_ids"]
    as_gpt2 = [encode(text) for text in STRINGS]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    cases = []
    for text, gpt2 in zip(STRINGS, as_gpt2):
        ids = encode(text)
        case = {"text": text, "ids": ids, "decoded": tokenizer.decode(ids)}
        if gpt2 != ids:
            case["ids_as_gpt2"] = gpt2
        cases.append(case)
    record = {
        "made_by": "tests/peers/record_tokens.py",
        "model": gguf.name,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "cases": cases,
    }
    output.write_text(json.dumps(record, ensure_ascii=True, indent=1) + "\n")


main()
