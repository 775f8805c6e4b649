#!/usr/bin/env python3
"""Predicts the time of a training step on many devices: what docs/src/concepts/many-devices.md tells.

usage: tools/step_time.py            prints the tables of the page, as Markdown
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A LLaMA by its dimensions (Touvron et al., arXiv 2302.13971, table 2)."""

    name: str
    layers: int
    hidden: int
    ffn: int
    vocab: int = 32000

    def shapes(self):
        """The linear layers of a block, `[out, in]`."""
        return [(self.hidden, self.hidden)] * 4 + [(self.ffn, self.hidden)] * 2 + [(self.hidden, self.ffn)]

    def weights(self):
        return self.layers * sum(out * inner for out, inner in self.shapes())

    def adapters(self, rank):
        return self.layers * sum(rank * (out + inner) for out, inner in self.shapes())

    def flops(self, tokens, seq):
        """Of a step with checkpointed blocks: two forward passes and the gradients of inputs, for the weights have none.

        An element of a weight takes two operations for each token and pass. Causal attention takes half of two products of
        `seq` columns, three times and once more for the second half of its backward pass. Adapters are left out.
        """
        blocks = 3 * 2 * self.weights() * tokens
        attention = 4 * self.layers * 2 * self.hidden * seq * tokens
        head = 2 * 2 * self.vocab * self.hidden * tokens
        return blocks + attention + head


@dataclass(frozen=True)
class Device:
    """Peak operations a second in bf16 with dense operands, and bytes a second from the host, by the vendor's data sheet."""

    name: str
    flops: float
    host: float
    memory: float


@dataclass(frozen=True)
class Network:
    name: str
    bits: float

    def all_reduce(self, size, ranks, latency=20e-6):
        """Of a ring: 2 (n - 1) / n of the bytes through every link, in 2 (n - 1) messages (Thakur et al. 2005)."""
        if ranks == 1:
            return 0.0
        return 2 * (ranks - 1) / ranks * size / (self.bits / 8) + 2 * (ranks - 1) * latency


MODELS = [Model("7B", 32, 4096, 11008), Model("65B", 80, 8192, 22016)]
DEVICES = [
    Device("H100 SXM", 989e12, 64e9, 80e9),
    Device("RTX 4090", 165e12, 32e9, 24e9),
]
NETWORKS = [Network("10 Gb/s", 10e9), Network("100 Gb/s", 100e9), Network("400 Gb/s", 400e9)]
RANKS = [1, 8, 64, 1024]
# An assumption: the share of the peak that a step reaches, and that of the bus.
COMPUTED = 0.35
MOVED = 0.8
# NF4 with double quantization (QLoRA, section 3).
BYTES_OF_A_WEIGHT = 4.127 / 8
SEQ = 512
ROWS = 16


def compute(model, device):
    return model.flops(ROWS * SEQ, SEQ) / (device.flops * COMPUTED)


def paging(model, device, passes=3):
    """The time in which all weights come in from the host, in each pass of a step."""
    return passes * model.weights() * BYTES_OF_A_WEIGHT / (device.host * MOVED)


def seconds(value):
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def steps_table():
    print("| model, adapters | device | bytes added up | compute | " + " | ".join(f"{n.name}" for n in NETWORKS) + " |")
    print("| --- " * (4 + len(NETWORKS)) + "|")
    for model in MODELS:
        for rank, width in [(16, 4), (64, 4), (64, 2)]:
            size = model.adapters(rank) * width
            for device in DEVICES:
                own = compute(model, device)
                cells = [
                    " / ".join(f"{100 * own / (own + network.all_reduce(size, ranks)):.0f}" for ranks in RANKS[1:]) + " %"
                    for network in NETWORKS
                ]
                kind = "f32" if width == 4 else "bf16"
                print(
                    f"| {model.name}, r = {rank}, {kind} | {device.name} | {size / 1e6:.0f} MB | {seconds(own)} s | "
                    + " | ".join(cells)
                    + " |"
                )


def paging_table():
    print("| model | device | weights | compute | paging | tokens a device at which they are even |")
    print("| --- " * 6 + "|")
    for model in MODELS:
        for device in DEVICES:
            own, moved = compute(model, device), paging(model, device)
            even = ROWS * SEQ * moved / own
            weights = model.weights() * BYTES_OF_A_WEIGHT
            print(
                f"| {model.name} | {device.name} | {weights / 1e9:.1f} GB | {seconds(own)} s | {seconds(moved)} s | {even:.0f} |"
            )


if __name__ == "__main__":
    steps_table()
    print()
    paging_table()
