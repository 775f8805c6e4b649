#!/usr/bin/env bash
# Gives every parser damaged and hostile files for a while, one target after the other.
#
# usage: scripts/fuzz.sh SECONDS [CARGO ARGUMENTS]     seconds for each target; what to build with, default -p qlora-fuzz
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=$1
shift
if [ $# = 0 ]; then set -- -p qlora-fuzz; fi
# Whichever comes first ends a target: the time.
export BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000)) BOLERO_RANDOM_ITERATIONS=1000000000
cargo test --release "$@" --test fuzz -- --test-threads "$(nproc)" --nocapture
