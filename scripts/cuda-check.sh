#!/usr/bin/env bash
# Compiles every kernel that a CUDA device would be given, for three generations of devices and without one, and holds
# registers, spills, shared memory and instructions against kernels-cubecl/cuda-table.md. A kernel that got worse fails.
#
# usage: scripts/cuda-check.sh [--write] [CARGO ARGUMENTS]
#   --write            writes the table anew
#   CARGO ARGUMENTS    what to build the kernels' sources with; default -p qlora-cubecl
set -euo pipefail
cd "$(dirname "$0")/.."

write=()
if [ "${1:-}" = --write ]; then write=(--write); shift; fi
if [ $# = 0 ]; then set -- -p qlora-cubecl; fi

toolchain=$(scripts/cuda-toolchain.sh)
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
cargo run --quiet --release "$@" --example cuda_sources -- "$sources"
# Behind the build: with CUDA_HOME set Cargo would build CubeCL anew.
eval "$toolchain"
python3 scripts/cuda_table.py "$sources" kernels-cubecl/cuda-table.md "${write[@]}"
