#!/usr/bin/env bash
# Compiles every kernel that a CUDA device would be given, as a stock Burn does (CubeCL through LLVM to PTX), for three
# generations of devices and without one, assembles the PTX, and holds registers, spills, shared memory and instructions
# against kernels-cubecl/cuda-table.md. A kernel that got worse fails.
#
# usage: scripts/cuda-check.sh [--write] [CARGO ARGUMENTS]
#   --write            writes the table anew
#   CARGO ARGUMENTS    what to build the kernels' sources with; default -p qlora-cubecl --features cuda, which needs an LLVM:
#                      see scripts/stage-llvm.sh
set -euo pipefail
cd "$(dirname "$0")/.."

write=()
if [ "${1:-}" = --write ]; then write=(--write); shift; fi
if [ $# = 0 ]; then set -- -p qlora-cubecl --features cuda; fi

eval "$(scripts/cuda-toolchain.sh)"
cuda=$CUDA_HOME
# With it set Cargo would build CubeCL anew.
unset CUDA_HOME
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
target=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
# For what is run, not for what is built: libdevice is found by it.
export "CARGO_TARGET_${target}_RUNNER=env CUDA_PATH=$cuda"
cargo run --quiet --release "$@" --example cuda_sources -- "$sources"
CUDA_HOME=$cuda python3 scripts/cuda_table.py "$sources" kernels-cubecl/cuda-table.md "${write[@]}"
