"""Predicts the time of LLaMA-7B's products from what the software CUDA device counted, and holds it against a page.

    python3 scripts/cuda_roofline.py SOURCES PAGE [--write]

SOURCES is the folder of `cuda_sources` with what `ptx-counters` counted, PAGE the committed Markdown page. A page that is not what
the counters say fails; `--write` writes it anew. It is a model: nothing here was run on a GPU.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card can do, from its data sheet; `l2` and `mma_share` are assumptions, which the page says."""

    name: str
    multiprocessors: int
    clock: float
    dram: float
    tensor: float
    l2: float
    # Of the tensor cores' peak, what `mma.sync` reaches at most.
    mma_share: float
    # The most rows of `x` for which bitsandbytes multiplies without decoding the weight first.
    fused_rows: int


CARDS = {
    89: Card("RTX 4090", 128, 2.52e9, 1008e9, 165.2e12, 5e12, 1.0, 512),
    90: Card("H100 SXM5", 132, 1.83e9, 3350e9, 989.4e12, 5e12, 0.62, 64),
}

# Operations of `mma.m16n8k16`.
PRODUCT = 2 * 16 * 8 * 16

# Warp instructions that a multiprocessor issues a clock: one a partition.
ISSUED = 4


@dataclasses.dataclass(frozen=True)
class Peer:
    """One of bitsandbytes' fused kernels as counted once: instructions and wavefronts a `mma`, or instructions a 32 weights."""

    rows: int
    instructions: float
    wavefronts: float | None


# By the most rows: SIMT, 32 × 64 × 128, 128 × 128 × 64.
PEERS = {1: Peer(1, 9.7, None), 16: Peer(32, 20.7, 11.0), 512: Peer(128, 7.1, 3.25)}

# The projections of a decoder layer of LLaMA-7B: shape, and how many there are.
LAYER = {(4096, 4096): 4, (11008, 4096): 2, (4096, 11008): 1}

INTRODUCTION = """\
# Roofline of the products with 4-bit weights

Written by `scripts/cuda-check.sh --write` from counters. **A model: nothing here was run on a GPU, and no figure is a measured
time.** The software CUDA device (`tools/ptx-device`) runs one block of each launch of a product in f16 with NF4 weights and
double-quantized scales, as CubeCL compiles it for the card, and counts; what it counts is multiplied by the blocks of the grid, the
multiprocessor with most of them deciding. Each bound is the time that one resource would take if nothing else took any:

- *memory*: the packed weight with its scales, `x` and `y`, each once, by the bandwidth of the card's memory;
- *L2*: every sector that a warp asks for, by the bandwidth of the L2 cache, as if the L1 cache held nothing; at 1 row, where `x`
  is asked for again and again and fits the L1 cache, the weight once and `x` once a block;
- *shared*: wavefronts of shared memory, one a clock and multiprocessor;
- *issue*: instructions of warps (PTX, not SASS), four a clock and multiprocessor;
- *tensor*: operations of the matrix instructions executed, by the card's peak.

*Predicted* is the largest of them, which is what a kernel takes at the least. How much of one resource waits for another is not
in the model: with few blocks on a multiprocessor a kernel stays well above it. At 1 row launches, which take some 3 µs each,
are not in it either.

| card | source | multiprocessors, clock | memory | f16 tensor cores, sums in f32 |
| --- | --- | --- | --- | --- |
| RTX 4090 | NVIDIA Ada GPU Architecture, appendix A | 128, 2.52 GHz | 1008 GB/s | 165.2 TFLOP/s |
| H100 SXM5 | NVIDIA H100 Tensor Core GPU Architecture; data sheet | 132, 1.83 GHz | 3350 GB/s | 989.4 TFLOP/s |

Assumptions, for NVIDIA publishes neither: 5 TB/s from either card's L2 cache; and that `mma.sync`, which CubeCL has, reaches
62 % of the H100's peak (Luo et al. 2024, arXiv 2402.13499, on an H800), which only `wgmma` reaches in full.

Beside them bitsandbytes 0.50.2. *Dense*: it decodes the weight into memory and multiplies by cuBLAS; scales decoded, packed
weight read, dense weight written and read again, then the product at the data sheet's peak of tensor cores or memory,
whichever is slower, which flatters it. *Fused*: its `gemm_4bit`, which it takes forward for up to 64 rows on an H100 and some 512 on
cards with GDDR memory, by the same bounds but the L2 cache's, which flatters it too; its instructions and wavefronts were counted once, from its source as nvcc compiles
it, on the software device's predecessor (a `mma` takes 20.7 and 11.0 in the tile for 16 rows, 7.1 and 3.25 in that of 128; at 1 row
32 weights take 9.7 instructions). Backward it always decodes.
"""


def weight_bytes(elements):
    """Codes, 8-bit scales and theirs."""
    return elements / 2 + elements / 64 + 4 * elements / (64 * 256)


def dense_scales_bytes(elements):
    """bitsandbytes' scales: 8-bit ones read, and written and read as f32."""
    return elements / 64 + 2 * 4 * elements / 64


def bounds(card, call, launches, counters):
    """Seconds by resource."""
    (out, into), rows = call["case"]["shape"], call["case"]["rows"]
    seconds = dict.fromkeys(("memory", "L2", "shared", "issue", "tensor"), 0.0)
    activations = 2 * rows * (out + into)
    weight = weight_bytes(out * into)
    seconds["memory"] = (weight + activations) / card.dram
    for number in call["launches"]:
        blocks, counted = math.prod(launches[number]["grid"]), counters[number]
        most = -(-blocks // card.multiprocessors)
        sectors = sum(counted[f"global_{way}"]["cost"] for way in ("loads", "stores"))
        wavefronts = sum(counted[f"shared_{way}"]["cost"] for way in ("loads", "stores"))
        requested = 32 * sectors * blocks
        if rows == 1:
            read = 2 * rows * (into if call["case"]["operation"] == "x · Wᵀ" else out)
            requested = min(requested, weight + blocks * read)
        seconds["L2"] += requested / card.l2
        seconds["shared"] += most * wavefronts / card.clock
        seconds["issue"] += most * counted["warp_instructions"] / ISSUED / card.clock
        tensor = card.tensor * card.mma_share / card.multiprocessors
        seconds["tensor"] += most * counted["matrix_products"] * PRODUCT / tensor
    return seconds


def dense(card, call):
    """bitsandbytes' way by cuBLAS."""
    (out, into), rows = call["case"]["shape"], call["case"]["rows"]
    elements = out * into
    decoding = (elements / 2 + dense_scales_bytes(elements) + 2 * elements) / card.dram
    memory = (2 * elements + 2 * rows * (out + into)) / card.dram
    return decoding + max(memory, 2 * rows * elements / card.tensor)


def fused(card, call):
    """bitsandbytes' fused kernel, where it takes one."""
    (out, into), rows = call["case"]["shape"], call["case"]["rows"]
    if rows > card.fused_rows or call["case"]["operation"] != "x · Wᵀ":
        return None
    peer, elements = PEERS[rows], out * into
    traffic = elements / 2 + dense_scales_bytes(elements) + 2 * rows * (out + into)
    seconds = [traffic / card.dram]
    rate = card.multiprocessors * card.clock
    if peer.wavefronts is None:
        seconds.append(peer.instructions * elements / 32 / 32 / ISSUED / rate)
    else:
        products = -(-rows // peer.rows) * peer.rows * elements / (16 * 8 * 16)
        seconds.append(products * peer.instructions / ISSUED / rate)
        seconds.append(products * peer.wavefronts / rate)
        seconds.append(products * PRODUCT / (card.tensor * card.mma_share))
    return max(seconds)


def micro(seconds):
    if seconds is None:
        return "–"
    value = seconds * 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def page(folder):
    calls, launches, counters = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("calls", "launches", "counters")
    )
    lines = [INTRODUCTION]
    totals = {}
    for version, card in CARDS.items():
        own = [call for call in calls if call["architecture"] == version]
        if not own:
            raise RuntimeError(f"{folder}: no call was compiled for sm_{version}")
        lines.append(f"## {card.name}\n\nIn µs.\n")
        names = ["memory", "L2", "shared", "issue", "tensor"]
        headings = ["product", "weight", "m", *names, "bound by", "predicted", "bitsandbytes, fused", "dense"]
        lines.append(f"| {' | '.join(headings)} |")
        lines.append("| --- | --- " + "| ---: " * 6 + "| --- " + "| ---: " * 3 + "|")
        for call in own:
            case = call["case"]
            (out, into), rows = case["shape"], case["rows"]
            seconds = bounds(card, call, launches, counters)
            bound = max(seconds, key=seconds.get)
            times = [seconds[bound], fused(card, call), dense(card, call)]
            cells = [case["operation"], f"{out} × {into}", str(rows), *(micro(seconds[name]) for name in names)]
            lines.append(f"| {' | '.join([*cells, bound, *map(micro, times)])} |")
            count = LAYER[out, into]
            total = totals.setdefault((card.name, case["operation"], rows), [0.0, 0.0, 0.0])
            for place, time in enumerate(times):
                total[place] = None if time is None or total[place] is None else total[place] + count * time
        lines.append("")
    lines.append("## A decoder layer of LLaMA-7B: its seven projections, in µs\n")
    headings = ["card", "product", "m", "predicted", "bitsandbytes, fused", "dense", "of bitsandbytes' faster"]
    lines.append(f"| {' | '.join(headings)} |")
    lines.append("| --- | --- " + "| ---: " * 5 + "|")
    for (name, operation, rows), times in totals.items():
        faster = min(time for time in times[1:] if time is not None)
        cells = [name, operation, str(rows), *map(micro, times), f"{times[0] / faster:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=pathlib.Path)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--write", action="store_true", help="write the page anew")
    arguments = parser.parse_args()
    try:
        predicted = page(arguments.sources)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    if arguments.write:
        arguments.page.write_text(predicted)
        print(f"{arguments.page} written")
    elif not arguments.page.exists() or arguments.page.read_text() != predicted:
        sys.exit(f"error: {arguments.page} is not what the counters say; scripts/cuda-check.sh --write writes it anew")


if __name__ == "__main__":
    main()
