#!/usr/bin/env bash
# Runs the whole test suite on CubeCL's CPU runtime, that of whole models and training runs included. It has a step of its own,
# which scripts/test.sh leaves out: all of Burn is built once more with `autotune`, without which Burn's own products do not fit
# that runtime, and tests run one at a time, as its threads spin while they wait.
#
# usage: scripts/test-cpu-runtime.sh [CARGO ARGUMENTS]
#   CARGO ARGUMENTS    what to test; default all that runs on a device
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# = 0 ]; then set -- --workspace --features qlora-tests/cpu,qlora-cubecl/cpu; fi

eval "$(scripts/stage-llvm.sh)"
QLORA_DEVICES=cpu cargo test --release --no-fail-fast "$@" -- --test-threads 1 --skip flex::
