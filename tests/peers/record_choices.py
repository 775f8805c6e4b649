"""Records what lm-evaluation-harness makes of questions with choices: tokens, log-likelihoods and metrics.

usage: record_choices.py tests/fixtures
(with lm_eval 0.4.13 beside the other peers)

tests/fixtures/choices gets
- `tokenizer.json`: byte-level BPE of at most 512 tokens, whose merges reach over spaces, with a token at the beginning of texts;
- `mmlu.jsonl`, `arc.jsonl`, `hellaswag.jsonl`, `plain.jsonl`: questions in the published shapes and in the plain one, and
  `*_shots.jsonl`, examples for them;
- `recorded.json`: for each case its files, the number of examples and of tokens that a model takes, the tokens and
  log-likelihoods of each choice, and the metrics with their standard errors.

The tasks are the harness's own (mmlu, arc_easy, hellaswag) but for where their rows and examples come from; `plain` is
one of its multiple-choice tasks without a delimiter. The model is tiny_llama in f32.
"""

import json
import pathlib
import random
import sys
import tempfile

import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

WORDS = ("the a of in sky sea river stone café naïve red blue far near old new question answer is was makes takes "
         "water heat light plant animal because which what").split()
SUBJECTS = ["anatomy", "us_foreign_policy"]
METRICS = ["acc", "acc_norm", "acc_bytes"]
TASKS = pathlib.Path(lm_eval.__file__).parent / "tasks"


def text(rng, least, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def mmlu(rng, subject):
    return {"question": rng.choice(["", " ", "\n"]) + text(rng, 3, 9) + rng.choice(["?", "? ", ""]),
            "subject": subject, "choices": [text(rng, 1, 3) for _ in range(4)], "answer": rng.randrange(4)}


def arc(rng):
    labels = rng.choice(["ABCD", "1234", "ABC", "ABCDE"])
    return {"id": "x", "question": text(rng, 3, 9) + rng.choice(["?", "? ", ""]),
            "choices": {"text": [text(rng, 1, 5) for _ in labels], "label": list(labels)}, "answerKey": rng.choice(labels)}


def hellaswag(rng):
    first = text(rng, 2, 6) + rng.choice([".", " [title] how", " [step] so [x]"])
    second = rng.choice([text(rng, 1, 3), "", "THEN he"])
    return {"ind": 1, "activity_label": text(rng, 1, 2), "ctx_a": first, "ctx_b": second, "ctx": first + " " + second,
            "endings": [text(rng, 2, 7) + rng.choice(["", ". [title] it", "  ", " [step]"]) for _ in range(4)],
            "label": str(rng.randrange(4))}


def plain(rng):
    count = rng.randint(2, 5)
    return {"prompt": text(rng, 2, 6) + rng.choice(["", " ", "  ", ":"]),
            "choices": [rng.choice(["", " "]) + text(rng, 1, 4) for _ in range(count)], "answer": rng.randrange(count)}


def tokenizer(folder):
    rng = random.Random(1)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<s>", "</s>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    texts = [text(rng, 5, 30) + "?\nAnswer: A\n\nQuestion:  " for _ in range(200)]
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))])
    bpe.save(str(folder / "tokenizer.json"))
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>",
                                                eos_token="</s>")


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def task(folder, name, base, rows, shots, **others):
    """Writes a task of the harness with other rows."""
    for split, found in (("test", rows), ("shots", shots)):
        write(folder / f"{name}_{split}.jsonl", found)
    files = {split: str(folder / f"{name}_{split}.jsonl") for split in ("test", "shots")}
    config = {"task": name, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files},
              "training_split": None, "validation_split": None, "test_split": "test", "fewshot_split": "shots",
              "metric_list": [{"metric": metric} for metric in METRICS], **others}
    if base:
        config["include"] = str(TASKS / base)
    (folder / f"{name}.yaml").write_text(json.dumps(config))
    return name


def group(folder, rows, shots):
    """Writes the two subjects as a group of tasks, as `mmlu` is one."""
    of = lambda rows, subject: [row for row in rows if row["subject"] == subject]
    names = [task(folder, f"recorded_{subject}", f"mmlu/default/mmlu_{subject}.yaml", of(rows, subject),
                  of(shots, subject)) for subject in SUBJECTS]
    config = {"group": "recorded_mmlu", "task": names,
              "aggregate_metric_list": [{"metric": metric, "weight_by_size": True} for metric in METRICS]}
    (folder / "recorded_mmlu.yaml").write_text(json.dumps(config))
    return "recorded_mmlu", names


def metrics(found):
    return {key: found[f"{key},none"] for metric in METRICS for key in (metric, f"{metric}_stderr")}


def record(folder, model, tokens, name, file, shots, max_length):
    rows, examples = read(folder / f"{file}.jsonl"), read(folder / f"{file}_shots.jsonl")
    with tempfile.TemporaryDirectory() as tasks:
        tasks = pathlib.Path(tasks)
        if file == "mmlu":
            asked, names = group(tasks, rows, examples)
        else:
            base = {"arc": "arc/arc_easy.yaml", "hellaswag": "hellaswag/hellaswag.yaml"}.get(file)
            others = {} if base else {
                "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "choices",
                "doc_to_target": "answer", "target_delimiter": "", "fewshot_config": {"sampler": "first_n"}}
            asked = task(tasks, f"recorded_{file}", base, rows, examples, **others)
            names = [asked]
        lm = HFLM(pretrained=model, tokenizer=tokens, batch_size=1, max_length=max_length, device="cpu")
        found = lm_eval.simple_evaluate(
            model=lm, tasks=[asked], num_fewshot=shots, log_samples=True, bootstrap_iters=1, random_seed=0,
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False))
    results = {**found["results"], **found.get("groups", {})}
    by_row = {}
    for subject in names:
        places = [place for place, row in enumerate(rows) if file != "mmlu" or subject == f"recorded_{row['subject']}"]
        for sample in found["samples"][subject]:
            pairs = [tuple(argument) for argument in arguments(sample)]
            encoded = [lm._encode_pair(*pair) for pair in pairs]
            by_row[places[sample["doc_id"]]] = {
                "context": pairs[0][0],
                "context_ids": encoded[0][0],
                "continuation_ids": [continuation for _, continuation in encoded],
                "log_likelihoods": [float(response[0][0]) for response in sample["resps"]],
            }
    return {"name": name, "file": file, "shots": shots, "max_len": max_length, "rows": [by_row[place] for place in range(len(rows))],
            "metrics": metrics(results[asked]),
            "subjects": {subject.removeprefix("recorded_"): metrics(results[subject]) for subject in names if file == "mmlu"}}


def arguments(sample):
    """Returns context and continuation of each request of a sample."""
    found = sample["arguments"]
    if isinstance(found, dict):
        return [(each["arg_0"], each["arg_1"]) for each in found.values()]
    return found


def main(fixtures):
    torch.set_num_threads(1)
    folder = fixtures / "choices"
    folder.mkdir(exist_ok=True)
    tokens = tokenizer(folder)
    rng = random.Random(7)
    write(folder / "mmlu.jsonl", [mmlu(rng, SUBJECTS[place % 5 // 3]) for place in range(12)])
    write(folder / "mmlu_shots.jsonl", [mmlu(rng, SUBJECTS[place % 2]) for place in range(6)])
    # More examples than Python's sample keeps in a list, and fewer.
    for name, row, examples in (("arc", arc, 30), ("hellaswag", hellaswag, 5), ("plain", plain, 3)):
        write(folder / f"{name}.jsonl", [row(rng) for _ in range(10)])
        write(folder / f"{name}_shots.jsonl", [row(rng) for _ in range(examples)])
    model = transformers.AutoModelForCausalLM.from_pretrained(fixtures / "tiny_llama", dtype=torch.float32,
                                                             attn_implementation="eager").eval()
    cases = [record(folder, model, tokens, *case) for case in (
        ("mmlu", "mmlu", 2, 512), ("arc", "arc", 0, 512), ("arc_shots", "arc", 3, 512), ("hellaswag", "hellaswag", 1, 512), ("plain", "plain", 1, 512),
        ("arc_cut", "arc", 0, 16))]
    (folder / "recorded.json").write_text(json.dumps(cases, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
