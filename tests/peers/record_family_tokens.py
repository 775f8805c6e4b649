"""Records what transformers makes of awkward strings and of chats with the tokenizers of published models.

usage: record_family_tokens.py TOKENIZERS GEMMA.gguf family_tokens.json

TOKENIZERS is the folder that scripts/fetch-tokenizers.sh prints, GEMMA.gguf the file that scripts/fetch-gemma3.sh prints.

The tokenizers are opened as PreTrainedTokenizerFast from their tokenizer.json: AutoTokenizer of transformers 5 picks a class
by the model's type, which may rebuild the tokenizer. `ids` are with the special tokens that the tokenizer adds, `decoded` is the
whole of them again. A chat is rendered by the model's own template and encoded without adding more.

With the pieces, scores and types of the GGUF file SentencePiece's own library must give the same ids as transformers with Gemma's
tokenizer.json, but for control tokens, which it does not look for in a text. The model that it is given is of Gemma's kind: byte-pair
encoding, byte fallback, no dummy prefix, nothing normalized. llama.cpp gives user-defined pieces with real spaces, which
SentencePiece writes as U+2581.

Mistral's later tokenizers are recorded with Mistral's own library, which never looks for special tokens in a text: for the texts
that have some, nothing is recorded. Its conversation is encoded piece by piece there, and stands beside it as the chat template of
Mistral 7B Instruct v0.3 writes it.
"""

import json
import pathlib
import re
import sys

import gguf
import mistral_common
import sentencepiece
import tokenizers
import transformers
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import sentencepiece_model_pb2 as spm

STRINGS = [
    "",
    " ",
    "a",
    "Hello, world!",
    " Hello  world ",
    "The capital of France is",
    "  two leading,   three inner, four trailing    ",
    "tabs\t\tand\ttab\n\n\nthree newlines\r\nwindows\r\n\r\n",
    "\n",
    "\n\n\n\n",
    " \n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n",
    "\ttab first\n    four spaces\n        eight\n\t\tmixed \t end\t",
    "1 12 123 1234 12345 123456 1234567 12345678 3.14159 1,000,000 0x1F 2\u00b2 1e-5",
    "list:\n\n1. one\n\n2. two\n   3 three",
    "na\u00efve caf\u00e9 \u0100\u0101\u0102\u0103 Stra\u00dfe \ufb01",
    "nai\u0308ve cafe\u0301 A\u030a \u1e9b\u0323 \u0928\u093f \u0e01\u0e33 \uac01 \u1100\u1161\u11a8",
    "\u212b \u2126 \uf900 \u0344 \u0958",
    "C\u1eeda Vi\u1ec7t Ti\u1ebfng Vi\u1ec7t discards",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8\u3002\u4e2d\u6587\u6df7\u5408English\ud55c\uad6d\uc5b4 \u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e",
    "\U00020000\U0002a6d6 \U0001d49c\U0001d4b7 \U00010348",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1ea\U0001f1fa \u2764\ufe0f\u200d\U0001f525 \U0001f937\U0001f3fd\u200d\u2640\ufe0f \u2603 \U0001f44d\U0001f3ff",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0634\u064e\u0645\u0652\u0633 \u05e9\u05dc\u05d5\u05dd \u200fRTL\u200e \u0661\u0662\u0663\u0664",
    "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f",
    "non\u00a0breaking\u2003em\u3000wide\u200bzero\ufeffbom\u2028line\u0085next\u180emongolian\u00adsoft",
    "don't I'LL we've they'd IT'S 'quoted' it''s \u2019tis o\u2019clock 'Tis 's 'S 'Re 'vE",
    "camelCase PascalCase SHOUTING snake_case kebab-case $100 50% #tag @user",
    "https://x.org/a?b=c&d=%20#frag user@example.com C:\\path\\file",
    "fn main() {\n    let x: Vec<u8> = vec![0; 1 << 20];\n\tprintln!(\"{x:?}\");\n}\n",
    "if (a&&b||!c) return a->b[i++] != NULL ? x : y; // done",
    "def f(x):\n    return {k: v for k, v in x.items() if v is not None}\n\n\n",
    "$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$ \u2200x\u2208\u211d: \u2211\u1d62 x\u1d62\u00b2 \u2265 0",
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|end_of_text|>",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<eos><pad><unk><mask><unused7>",
    "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s><s> again</s>\u2581literal",
    " <|im_end|> <|endoftext|><|im_start|>x<|im_end| <tool_call>{}</tool_call> <|fim_prefix|>",
    "<b>bold</b><br/><table><tr><td>1</td></tr></table> [multimodal] <start_of_image>",
    "<0x0A><0xFF> \\u00e9 &amp; %0A",
    "\u0000\u0001\u007f\u0080\u001f\u001c",
    "broken \ufffd\ufffd surrogate \ufffd",
    "\ue000 private \U0010fffd last \ufdd0 non-character",
    "a" * 100 + " " * 17 + "b",
    "x" + " " * 40 + "y" + "\n" * 40 + "z" + "\t" * 40 + "!",
    "=" * 80 + "\n" + "-" * 33 + "\u2500" * 20 + "." * 9,
    "ha" * 150,
    "\u00bd \u2177 \u0663 \u0e54 \u4e94 \u216b 10\u00b3 \u2460\u2461 1\u20444",
    "Zalgo t\u0316\u0317\u0301\u0302e\u0303\u0304\u0305x\u0306t\u0307",
    "!!!!!! ?????? ...... ,,,, ;;; '''''' ``` \"\"\" ((())) [[[]]] {{{}}}",
    "\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f (many) \u2705 \U0001f999\U0001f999 3 33 333 3333 3.3 3..3 3...3",
    "donaudampfschifffahrtsgesellschaftskapit\u00e4n pneumonoultramicroscopicsilicovolcanoconiosis",
]

CHATS = [
    [
        {"role": "system", "content": "You are terse.\nAnswer in one line."},
        {"role": "user", "content": "Hi! What's 2 + 2?"},
        {"role": "assistant", "content": "It's 4."},
        {"role": "user", "content": "  And in\n\n\u65e5\u672c\u8a9e, please \U0001f64f  "},
    ],
    [
        {"role": "user", "content": "Write `print(\"hi\")` in Rust."},
        {"role": "assistant", "content": "```rust\nprintln!(\"hi\");\n```\n"},
        {"role": "user", "content": "Na\u00efve <b>caf\u00e9</b> & it's 'quoted'?"},
        {"role": "assistant", "content": "  Yes:\n1. cafe\u0301\n2. 12345  "},
    ],
]

MODELS = ["qwen3", "llama3_1", "mistral", "gemma3", "gpt4o"]


def of_transformers(folder: pathlib.Path) -> dict:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(key)}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **named)
    tokenizer.chat_template = config.get("chat_template")
    record = {"ids": [], "decoded": [], "chats": []}
    for text in STRINGS:
        ids = tokenizer(text)["input_ids"]
        record["ids"].append(ids)
        record["decoded"].append(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    for number, chat in enumerate(CHATS if tokenizer.chat_template else []):
        for prompt in (False, True):
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            record["chats"].append({"chat": number, "generation_prompt": prompt, "text": text, "ids": ids})
    return record


def check_sentencepiece(path: pathlib.Path, recorded: list) -> None:
    fields = gguf.GGUFReader(path).fields
    texts, scores, kinds = (
        fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type")
    )
    model = spm.ModelProto()
    piece = spm.ModelProto.SentencePiece
    for text, score, kind in zip(texts, scores, kinds):
        if text == "<unk>":
            kind = piece.UNKNOWN
        if kind == piece.USER_DEFINED:
            text = text.replace(" ", "\u2581")
        model.pieces.add(piece=text, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = spm.TrainerSpec.BPE
    trainer.byte_fallback = True
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 3, 2, 1, 0
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    bos = [fields["tokenizer.ggml.bos_token_id"].contents()]
    control = [text for text, kind in zip(texts, kinds) if kind == piece.CONTROL]
    for text, ids in zip(STRINGS, recorded):
        if not any(token in text for token in control):
            assert bos + processor.encode(text) == ids, text


def of_tekken(path: pathlib.Path) -> dict:
    tokenizer = Tekkenizer.from_file(path)
    plain = lambda text: not any(token in text for token in ("<unk>", "<s>", "</s>"))
    return {"ids": [tokenizer.encode(text, bos=True, eos=False) if plain(text) else None for text in STRINGS]}


def of_mistral_v3() -> dict:
    chat = [
        ("user", "Hi there, it's 12:30."),
        ("assistant", "Hello\nyou!"),
        ("user", "Na\u00efve  caf\u00e9?\n\n\u65e5\u672c\u8a9e"),
        ("assistant", "```rust\nfn main() {}\n```"),
        ("user", "[brackets] and <tags>"),
    ]
    roles = {"user": UserMessage, "assistant": AssistantMessage}
    request = ChatCompletionRequest(messages=[roles[role](content=content) for role, content in chat])
    turns = {"user": "[INST] {}[/INST]", "assistant": " {}</s>"}
    return {
        "text": "<s>" + "".join(turns[role].format(content) for role, content in chat),
        "ids": MistralTokenizer.v3().encode_chat_completion(request).tokens,
    }


def main() -> None:
    folder, gemma, output = map(pathlib.Path, sys.argv[1:])
    record = {
        "made_by": "tests/peers/record_family_tokens.py",
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "sentencepiece": sentencepiece.__version__,
        "mistral_common": mistral_common.__version__,
        "strings": STRINGS,
        "chats": CHATS,
        "models": {name: of_transformers(folder / name) for name in MODELS},
    }
    record["tekken"] = of_tekken(folder / "tekken" / "tekken.json")
    record["mistral_v3"] = of_mistral_v3()
    check_sentencepiece(gemma, record["models"]["gemma3"]["ids"])
    text = json.dumps(record, ensure_ascii=True, indent=1)
    # A list of ids stays on one line.
    text = re.sub(r"\[[\s\d,]+\]", lambda ids: re.sub(r"\s+", " ", ids[0]).replace("[ ", "[").replace(" ]", "]"), text)
    output.write_text(text + "\n")


main()
