"""One NF4 linear layer of burn-qlora beside bitsandbytes' on the CPU, in one run.

LINEAR is the example: cargo build --release -p qlora-benches --example linear, with --features cpu for CubeCL's CPU runtime
(--device cpu). Needs torch and bitsandbytes. For each shape M,K,N both measure quantizing (blocks of 64, double
quantization), decoding, the forward pass and forward + backward from ones to the input's gradient, in f32 and bf16 where
the device has it, with all cores, in a process of their own, one after the other. Medians in ms.
"""

import argparse
import json
import os
import subprocess
import sys
import time

SHAPES = ["1,576,1536", "1,2048,2048", "8,2048,2048", "64,2048,2048", "256,576,1536", "512,2048,2048", "1024,576,1536"]
FIGURES = ["quantize", "quantize_checked", "dequantize"] + [f"{what}_{dtype}" for what in ("forward", "forward_backward") for dtype in ("f32", "bf16")]


def median(run, runs=15):
    run(), run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[runs // 2] * 1e3


def peer(shape):
    """Measures bitsandbytes here and prints one JSON object."""
    import bitsandbytes as bnb
    import bitsandbytes.nn.modules
    import torch
    from bitsandbytes import functional

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    m, k, n = map(int, shape.split(","))
    weight = torch.randn(n, k) * 0.02
    options = dict(blocksize=64, quant_type="nf4", compress_statistics=True)
    packed, state = functional.quantize_4bit(weight, **options)
    figures = {
        "quantize": median(lambda: functional.quantize_4bit(weight, **options)),
        "dequantize": median(lambda: functional.dequantize_4bit(packed, state)),
    }
    # It does not look whether values are finite; ours does so in `quantize_checked`.
    figures["quantize_checked"] = figures["quantize"]
    bf16_kernel = bitsandbytes.nn.modules.has_avx512bf16
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        # bitsandbytes 0.50 takes its bf16 kernel for every dtype where the processor has one.
        bitsandbytes.nn.modules.has_avx512bf16 = bf16_kernel if name == "bf16" else lambda: False
        layer = bnb.nn.Linear4bit(k, n, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True)
        layer.weight = bnb.nn.Params4bit(weight.to(dtype), requires_grad=False, quant_type="nf4", compress_statistics=True)
        layer = layer.to("cpu").train()
        x = torch.randn(m, k, dtype=dtype)
        with torch.no_grad():
            figures[f"forward_{name}"] = median(lambda: layer(x))
        x, ones = x.requires_grad_(True), torch.ones(m, n, dtype=dtype)
        figures[f"forward_backward_{name}"] = median(lambda: layer(x).backward(ones))
    print(json.dumps(figures))


def last_line(command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(linear, shapes, device):
    print(f"{'m, k, n':16}{'':18}{'burn-qlora':>12}{'bitsandbytes':>14}{'ratio':>9}")
    for shape in shapes:
        ours = last_line([linear, "--device", device, shape])
        theirs = last_line([sys.executable, __file__, linear, shape, "--peer"])
        for figure in filter(ours.get, FIGURES):
            ratio = theirs[figure] / ours[figure]
            print(f"{shape:16}{figure:18}{ours[figure]:12.3f}{theirs[figure]:14.3f}{ratio:8.2f}x", flush=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("linear")
parser.add_argument("shapes", nargs="*", default=SHAPES)
parser.add_argument("--device", default="flex")
parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
arguments = parser.parse_args()
if arguments.peer:
    peer(arguments.shapes[0])
else:
    compare(arguments.linear, arguments.shapes, arguments.device)
