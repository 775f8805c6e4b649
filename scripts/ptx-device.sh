#!/usr/bin/env bash
# Builds the software CUDA device (tools/ptx-device) and puts it where a program looks for the driver, with the library of functions
# that kernels need beside it (libdevice, from NVIDIA's Python package).
#
# usage: eval "$(scripts/ptx-device.sh)"      sets LD_LIBRARY_PATH and CUDA_PATH for programs with the feature `cuda`
set -euo pipefail
cd "$(dirname "$0")/.."

eval "$(scripts/cuda-toolchain.sh)"
cargo build --quiet --release -p ptx-device >&2
built=${CARGO_TARGET_DIR:-target}/release/libptx_device.so
folder=$(dirname "$(realpath "$built")")/ptx-device
mkdir -p "$folder"
# Programs ask for either name.
ln -sf "$(realpath "$built")" "$folder/libcuda.so.1"
ln -sf libcuda.so.1 "$folder/libcuda.so"
printf 'export LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n' "$folder"
printf 'export CUDA_PATH=%q\n' "$CUDA_HOME"
