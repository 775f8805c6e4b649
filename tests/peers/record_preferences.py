"""Records what TRL makes of preferences: tokens, values, gradients and ten steps of DPO, ORPO and KTO.

usage: record_preferences.py tests/fixtures
(with trl 1.16.0 and datasets beside the other peers)

tests/fixtures/preferences gets
- `pairs.jsonl`, `labelled.jsonl`: 40 rows each, which the runs take four at a time in their order, and `tokens.json`, what
  TRL's `_prepare_dataset` makes of them;
- `shapes.json`: rows of the published shapes with their `prompt`, `chosen`, `rejected` and `completion` tokens by the
  same, and the chat template they are shown by;
- `{dpo,orpo,kto}.json`: the settings, `first`, the metrics of the first four rows under peft_adapter (the reference is that
  adapter switched off), and `per_step`, those of ten steps from qlora_curve/init_adapter (the loss before the update);
- `{dpo,orpo,kto}_grads.safetensors`: the gradients that belong to `first`, unclipped.

The base is tiny_llama_nf4 in f32, the tokenizer that of chat_masks: a token a byte.
"""

import json
import pathlib
import random
import sys
import tempfile
import uuid

import datasets
import torch
import transformers
from exact_bitsandbytes import load
from peft import PeftModel
from safetensors.torch import save_file
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

# What a map of a data set is cached by; some of what it closes over cannot be pickled.
datasets.fingerprint.Hasher.hash = classmethod(lambda cls, value: uuid.uuid4().hex)

STEPS = 10
ROWS = 4
LR = 2e-3
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
METRICS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
           "nll_loss", "log_odds_ratio", "log_odds_chosen", "kl"]
WORDS = "we he is in go so the sun sky sea was red blue far and near old new one two ten".split()


def text(rng, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, most)))


def pairs(rng):
    return [{"prompt": text(rng, 5) + ":", "chosen": " " + text(rng, 6), "rejected": " " + text(rng, 6)}
            for _ in range(STEPS * ROWS)]


def labelled(rng):
    return [{"prompt": text(rng, 5) + ":", "completion": " " + text(rng, 6), "label": rng.random() < 0.6}
            for _ in range(STEPS * ROWS)]


def turn(role, content):
    return {"role": role, "content": content}


def shapes():
    asked = [turn("user", "What colour?")]
    blue, green = [turn("assistant", "It is blue.")], [turn("assistant", "Green.")]
    system = [turn("system", "Be brief."), *asked, turn("assistant", "Of what?"), turn("user", "The sky.")]
    return {
        "pairs": [
            {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello there.", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"},
            {"prompt": asked, "chosen": blue, "rejected": green},
            {"chosen": asked + blue, "rejected": asked + green},
            {"chosen": system + blue, "rejected": system + green},
            {"prompt": system, "chosen": blue + [turn("user", "Sure?"), turn("assistant", "Yes.")], "rejected": green},
        ],
        "labelled": [
            {"prompt": "The sky is", "completion": " blue.", "label": True},
            {"prompt": asked, "completion": green, "label": False},
        ],
    }


def tokenizer(fixtures):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(fixtures / "chat_masks" / "tokenizer.json"), eos_token="</s>", pad_token="<pad>",
        chat_template=TEMPLATE)


def settings(config, folder, **others):
    return config(
        output_dir=folder, per_device_train_batch_size=ROWS, max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant",
        max_grad_norm=0.3, optim="adamw_torch", weight_decay=0.0, logging_steps=1, save_strategy="no", report_to=[],
        bf16=False, fp16=False, gradient_checkpointing=False, use_cpu=True, train_sampling_strategy="sequential",
        max_length=128, beta=0.1, disable_tqdm=True, dataloader_pin_memory=False, seed=0, **others)


def recorded(trainer_class):
    class Recorded(trainer_class):
        """Keeps losses with all their digits."""

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            self.__dict__.setdefault("losses", []).append(loss.item())
            return loss

    return Recorded


def trainer(kind, fixtures, adapter, rows, folder):
    base = load(fixtures / "tiny_llama_nf4")
    # TRL casts the adapters of a model that says so to bf16.
    base.is_loaded_in_4bit = False
    model = PeftModel.from_pretrained(base, fixtures / adapter, is_trainable=True)
    trainer_class, config, others = {
        "dpo": (DPOTrainer, DPOConfig, {}),
        "orpo": (ORPOTrainer, ORPOConfig, {}),
        "kto": (KTOTrainer, KTOConfig, {"desirable_weight": 1.0, "undesirable_weight": 1.5}),
    }[kind]
    made = recorded(trainer_class)(
        model=model, args=settings(config, folder, **others), train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(fixtures))
    assert all(parameter.dtype == torch.float32 for parameter in made.model.parameters() if parameter.requires_grad)
    return made


def metrics(kept):
    return {name: kept[name] for name in METRICS if name in kept}


def first(kind, fixtures, rows, folder):
    """The loss and gradients of the first rows, against the adapter switched off."""
    made = trainer(kind, fixtures, "peft_adapter", rows[:ROWS], folder)
    model = made.model
    batch = next(iter(made.get_train_dataloader()))
    if kind != "orpo":
        # A copy of a given adapter is TRL's reference; here it is the adapter switched off.
        with torch.no_grad():
            from trl.trainer import dpo_trainer, kto_trainer
            import contextlib

            @contextlib.contextmanager
            def switched_off(model, adapter_name=None):
                with model.disable_adapter():
                    yield

            dpo_trainer.use_adapter = kto_trainer.use_adapter = switched_off
            logps = made.compute_ref_log_probs(model, batch)
        names = {"dpo": ["ref_chosen_logps", "ref_rejected_logps"], "kto": ["ref_logps", "ref_KL_logps"]}[kind]
        batch.update(zip(names, logps))
        made.precompute_ref_logps = True
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".default." in name)
    if kind == "orpo":
        loss, found = made.get_batch_loss_metrics(model, batch)
    else:
        model.train()
        loss = made._compute_loss(model, batch, False)
        found = {name: values[-1] for name, values in made._metrics["train"].items()}
    loss.backward()
    gradients = {
        "grad." + name.replace(".default", ""): parameter.grad.clone()
        for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    save_file(gradients, fixtures / "preferences" / f"{kind}_grads.safetensors")
    result = {"loss": loss.item(), **metrics(found)}
    if kind != "orpo":
        result["reference"] = {name: batch[name].tolist() for name in names}
    return result


def curve(kind, fixtures, rows, folder):
    made = trainer(kind, fixtures, "qlora_curve/init_adapter", rows, folder)
    made.train()
    steps = [entry for entry in made.state.log_history if "grad_norm" in entry]
    kept = [{"loss": loss, "grad_norm": entry["grad_norm"], **metrics(entry)} for loss, entry in zip(made.losses, steps)]
    assert len(kept) == STEPS
    return kept


def prepared(fixtures, folder):
    made = shapes()
    results = {"template": TEMPLATE}
    for kind, name in (("dpo", "pairs"), ("kto", "labelled")):
        results[name] = []
        for row in made[name]:
            found = trainer(kind, fixtures, "peft_adapter", [row, row], folder).train_dataset[0]
            results[name].append({"row": row, **tokens(found)})
    return results


def tokens(found):
    return {key.removesuffix("_ids"): found[key]
            for key in ("prompt_ids", "chosen_ids", "rejected_ids", "completion_ids") if key in found}


def main():
    fixtures = pathlib.Path(sys.argv[1])
    folder = fixtures / "preferences"
    folder.mkdir(exist_ok=True)
    rng = random.Random(0)
    rows = {"pairs": pairs(rng), "labelled": labelled(rng)}
    for name, made in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    with tempfile.TemporaryDirectory() as scratch:
        (folder / "shapes.json").write_text(json.dumps(prepared(fixtures, scratch), indent=1) + "\n")
        found = {name: [tokens(row) for row in trainer(kind, fixtures, "peft_adapter", rows[name], scratch).train_dataset]
                 for name, kind in (("pairs", "dpo"), ("labelled", "kto"))}
        (folder / "tokens.json").write_text(json.dumps(found) + "\n")
        for kind in ("dpo", "orpo", "kto"):
            data = rows["labelled" if kind == "kto" else "pairs"]
            result = {
                "rows": ROWS, "steps": STEPS, "lr": LR, "max_grad_norm": 0.3, "beta": 0.1,
                "per_step": curve(kind, fixtures, data, scratch),
                "first": first(kind, fixtures, data, scratch),
            }
            if kind == "kto":
                result |= {"desirable_weight": 1.0, "undesirable_weight": 1.5}
            (folder / f"{kind}.json").write_text(json.dumps(result, indent=1) + "\n")
            print(kind, result["first"], [step["loss"] for step in result["per_step"]])


main()
