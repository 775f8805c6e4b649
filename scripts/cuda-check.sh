#!/usr/bin/env bash
# Compiles every kernel that a CUDA device would be given, as a stock Burn does (CubeCL through LLVM to PTX), for three
# generations of devices and without one, assembles the PTX, has the software CUDA device run a block of each kernel, and holds
# registers, spills, shared memory, instructions and what the block did against kernels-cubecl/cuda-table.md. A kernel that got
# worse fails. From the same counts it predicts the time of LLaMA-7B's products; kernels-cubecl/ROOFLINE.md must say that.
#
# usage: scripts/cuda-check.sh [--write | --only WORDS] [CARGO ARGUMENTS]
#   --write            writes table and roofline anew
#   --only WORDS       prints the rows of the calls in whose names all of the words are, which commas separate, such as
#                      'x · Wᵀ,m 16,f16,sm_90', and checks nothing
#   CARGO ARGUMENTS    what to build the kernels' sources with; default -p qlora-cubecl --features cuda, which needs an LLVM:
#                      see scripts/stage-llvm.sh
set -euo pipefail
cd "$(dirname "$0")/.."

write=() words=()
if [ "${1:-}" = --write ]; then write=(--write); shift; fi
if [ "${1:-}" = --only ]; then IFS=, read -ra words <<<"$2"; shift 2; fi
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
cargo run --quiet --release "$@" --example cuda_sources -- "$sources" "${words[@]}"
cargo run --quiet --release -p ptx-device --bin ptx-counters -- "$sources"
if [ ${#words[@]} != 0 ]; then
  CUDA_HOME=$cuda python3 scripts/cuda_table.py "$sources" kernels-cubecl/cuda-table.md --print
  exit
fi
CUDA_HOME=$cuda python3 scripts/cuda_table.py "$sources" kernels-cubecl/cuda-table.md "${write[@]}"
python3 scripts/cuda_roofline.py "$sources" kernels-cubecl/ROOFLINE.md "${write[@]}"
