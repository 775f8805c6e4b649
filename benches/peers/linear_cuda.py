"""Times of bitsandbytes' NF4 linear layer on a GPU, in ms, as one JSON object a shape, in the words of the example `linear`.

usage: python linear_cuda.py M,K,N …

Medians of 15 runs, each waited for. Forward + backward is from ones to the input's gradient: the weight is frozen. Needs torch with CUDA
and bitsandbytes; the first line names their versions.
"""

import json
import sys
import time


def median(torch, run, runs=15):
    run(), run()
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[runs // 2] * 1e3


def measure(torch, bnb, m, k, n):
    torch.manual_seed(0)
    weight = torch.randn(n, k, device="cuda") * 0.02
    options = dict(blocksize=64, quant_type="nf4", compress_statistics=True)
    packed, state = bnb.functional.quantize_4bit(weight, **options)
    figures = {
        "quantize": median(torch, lambda: bnb.functional.quantize_4bit(weight, **options)),
        "dequantize": median(torch, lambda: bnb.functional.dequantize_4bit(packed, state)),
    }
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        layer = bnb.nn.Linear4bit(k, n, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True)
        layer.weight = bnb.nn.Params4bit(weight.to(dtype), requires_grad=False, quant_type="nf4", compress_statistics=True)
        layer = layer.to("cuda").train()
        x = torch.randn(m, k, dtype=dtype, device="cuda")
        with torch.no_grad():
            figures[f"forward_{name}"] = median(torch, lambda: layer(x))
        x, ones = x.requires_grad_(True), torch.ones(m, n, dtype=dtype, device="cuda")
        figures[f"forward_backward_{name}"] = median(torch, lambda: layer(x).backward(ones))
    return figures


def main():
    import bitsandbytes as bnb
    import torch

    if not torch.cuda.is_available():
        sys.exit("this torch has no CUDA device")
    print(f"bitsandbytes {bnb.__version__}, torch {torch.__version__}, {torch.cuda.get_device_name()}")
    for shape in sys.argv[1:]:
        m, k, n = map(int, shape.split(","))
        figures = {name: round(ms, 4) for name, ms in measure(torch, bnb, m, k, n).items()}
        print(json.dumps({"m": m, "k": k, "n": n, **figures}))


if __name__ == "__main__":
    main()
