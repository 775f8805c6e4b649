#!/usr/bin/env bash
# Runs the suites of crates/nf4 and kernels-cpu on 64-bit Arm, whose NEON kernels no other test reaches: on an Arm machine as it is, elsewhere
# in QEMU's emulator, which tells whether results are right and nothing of their speed. On Debian and Ubuntu it installs
# the emulator and a linker where they are missing.
#
# usage: scripts/test-arm.sh [--prepare]      --prepare only makes sure that everything needed is there
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
packages=(qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross)

native() { case $(uname -m) in aarch64 | arm64) ;; *) false ;; esac }

prepare() {
  if ! command -v qemu-aarch64 >/dev/null || ! command -v aarch64-linux-gnu-gcc >/dev/null ||
    [ ! -e /usr/aarch64-linux-gnu/lib/libc.so.6 ]; then
    scripts/apt-install.sh "${packages[@]}" >&2
  fi
  # Not `rustup target list`, which other ways to install Rust do not have.
  if [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then
    rustup target add "$target" >&2
  fi
}

case ${1:-} in
  --prepare) native || prepare ;;
  '')
    if native; then
      cargo test --release -p nf4 -p qlora-cpu
    else
      prepare
      export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
      export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
      # For tests that run themselves again.
      export TEST_EMULATOR=$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER
      cargo test --release -p nf4 -p qlora-cpu --target "$target"
    fi
    ;;
  *) echo "usage: scripts/test-arm.sh [--prepare]" >&2; exit 2 ;;
esac
