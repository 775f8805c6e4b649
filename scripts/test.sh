#!/usr/bin/env bash
# Checks formatting, lints and documentation, then runs the whole test suite on Flex (pure Rust,
# CPU) and on wgpu. Where no Vulkan device answers, Mesa's software Vulkan is installed first.
#
# usage: scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-vulkan.sh
# The tests of a real model skip themselves where it is not.
scripts/fetch-smollm2.sh || echo "the tests on SmolLM2-135M-Instruct will be skipped" >&2

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --features finetune/wgpu,qlora-tests/wgpu -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --features finetune/wgpu,qlora-tests/wgpu
step cargo test --release --workspace --features finetune/wgpu,qlora-tests/wgpu
