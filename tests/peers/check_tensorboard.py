"""Holds the event files of a run to its record, as the package tensorboard reads them.

usage: check_tensorboard.py RUN        (pip install tensorboard)

RUN is a directory that `finetune train --tensorboard` wrote. Every step and every sample of RUN/metrics.jsonl and every
evaluation of RUN/evaluations.json must be there once, the numbers as f32, and nothing else.
"""

import json
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

CURVES = {
    "train/loss": ("loss",),
    "train/learning_rate": ("lr",),
    "train/grad_norm": ("grad_norm",),
    "train/tokens_per_second": ("tokens_per_second",),
    "memory/peak_rss_bytes": ("peak_rss_bytes",),
    "memory/peak_device_bytes": ("peak_device_bytes",),
    "eval/loss": ("evaluation", "nll"),
    "eval/perplexity": ("evaluation", "perplexity"),
}


def as_f32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def number(line, keys):
    kind = "evaluation" if keys[0] == "evaluation" else "loss"
    if kind not in line:
        return None
    for key in keys:
        line = line.get(key)
    return line


def markdown(sample):
    prompt, text = (sample[key].replace("\n", "\n    ") for key in ("prompt", "text"))
    return f"**prompt**\n\n    {prompt}\n\n**answer**\n\n    {text}"


def check_samples(events, lines):
    """Returns how many texts there are, each of which TensorBoard's plugin for texts shows as `add_text` writes them."""
    expected = {}
    for line in lines:
        for place, sample in enumerate(line.get("samples", []), 1):
            expected.setdefault(f"samples/{place}/text_summary", []).append((line["step"], markdown(sample)))
    tags = events.Tags()["tensors"]
    assert sorted(tags) == sorted(expected), (tags, list(expected))
    for tag, texts in expected.items():
        assert events.SummaryMetadata(tag).plugin_data.plugin_name == "text", tag
        read = [(event.step, tensor_util.make_ndarray(event.tensor_proto).tolist()) for event in events.Tensors(tag)]
        assert read == [(step, [text.encode()]) for step, text in texts], (tag, read, texts)
    return sum(map(len, expected.values()))


def main():
    run = pathlib.Path(sys.argv[1])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = run / "evaluations.json"
    if evaluations.exists():
        lines += json.loads(evaluations.read_text())["evaluations"]
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    expected = {}
    for tag, keys in CURVES.items():
        found = [(line["step"], number(line, keys)) for line in lines]
        found = [(step, as_f32(value)) for step, value in found if value is not None]
        if found:
            expected[tag] = found
    tags = events.Tags()["scalars"]
    assert sorted(tags) == sorted(expected), (tags, list(expected))
    for tag, curve in expected.items():
        read = [(event.step, event.value) for event in events.Scalars(tag)]
        assert read == curve, f"{tag}: {read} is not {curve}"
    texts = check_samples(events, lines)
    print(f"{sum(map(len, expected.values()))} numbers of {len(expected)} curves and {texts} samples, each once and as recorded")


main()
