#!/usr/bin/env bash
# Checks formatting, lints and documentation, then runs the whole test suite on Flex (pure Rust, CPU) and on wgpu, that of
# the kernels, of the 4-bit tensor, of the fused operations and of the paged optimizer also on CubeCL's CPU runtime and, with a part
# of the training curve, as CUDA code on a device in software, gives every parser damaged files, builds the book, compiles the page
# that trains in a browser, checks the packages, compiles the kernels for CUDA, and runs those with NEON in an emulator. Where no
# Vulkan device answers, Mesa's software Vulkan is installed first, and Open MPI where there is no MPI. What needs MPI, LLVM,
# NVIDIA's compilers, the emulator, Rust's library for browsers or a real model is left out, saying so, where its package cannot
# be had.
#
# usage: scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."

tested=finetune/wgpu,qlora-cubecl/wgpu,qlora-tests/wgpu,qlora-web/wgpu
# A backend without kernels, for the default bodies of the operations.
tested+=,burn-nf4/ndarray,burn-fused/ndarray,burn-paged/ndarray,qlora-tests/composed
left_out=()

scripts/install-vulkan.sh
if scripts/test-mpi.sh --prepare; then
  tested+=,finetune/mpi
  mpi=yes
else
  left_out+=("processes that train together: there is no MPI")
fi
if llvm=$(scripts/stage-llvm.sh); then
  eval "$llvm"
  # The rest on that runtime is scripts/test-cpu-runtime.sh.
  tested+=,qlora-cubecl/cpu,burn-nf4/cpu,burn-fused/cpu,burn-paged/cpu
  checked=$tested,qlora-tests/cpu,qlora-tests/cuda
  if scripts/cuda-toolchain.sh >/dev/null; then
    # With the products between the tensor's and the optimizer's also the training curve, alone of the claims.
    tested+=,qlora-cubecl/cuda,burn-nf4/cuda,burn-fused/cuda,burn-paged/cuda,qlora-tests/software-cuda
    device=$(scripts/ptx-device.sh)
    eval "$device"
  else
    left_out+=("CUDA code on the software device: there is no libdevice")
  fi
else
  checked=$tested
  left_out+=("CubeCL's CPU runtime and the feature cuda: there is no LLVM")
fi

step() { printf '\n== %s\n' "$*"; "$@"; }

checked+=,qlora-cubecl/autotune

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --features "$checked" -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --features "$checked"
# The memory of LLaMA-7B's layer is not asked of the software device: it would compute the layer for hours.
step cargo test --release --workspace --features "$tested" -- \
  --skip cuda::take_their_operands_and_their_results --skip cuda::of_a_layer_take_no_copies_of_their_operands
# The same binary again, for what waits a minute.
if [ -n "${mpi:-}" ]; then
  step cargo test --release --workspace --features "$tested" --test finetune_commands -- --ignored mpi::
fi
if [ -n "${device:-}" ]; then
  # The test run above was compute capability 80.
  for capability in 90 120; do
    PTX_DEVICE_SM=$capability step cargo test --release --workspace --features "$tested" --test kernels -- cuda::
  done
  step scripts/ptx-mutations.sh --workspace --features "$tested"
  # What whoever has a GPU runs there. What is timed is on wgpu, to see that it can be.
  check=$(mktemp -d)
  step scripts/gpu-check.sh build "$check" --link --workspace --features "$tested,qlora-benches/wgpu"
  read -ra runner <<<"$(env | sed -n 's/^CARGO_TARGET_.*_RUNNER=//p')"
  step "${runner[@]}" "$check/gpu-check.sh" run --short --timed wgpu --report "$check/report.md"
  rm -rf "$check"
fi
# The same binaries again: what is ignored because it needs a real model, which stands in modules of that name.
if scripts/fetch-smollm2.sh; then
  step cargo test --release --workspace --features "$tested" --test burn_qlora_llama --test finetune_commands -- \
    --ignored smollm2::
else
  left_out+=("the tests on SmolLM2-135M-Instruct: it cannot be fetched")
fi
if scripts/fetch-gemma3.sh; then
  step cargo test --release --workspace --features "$tested" --test burn_qlora_llama --test finetune_commands -- \
    --ignored gemma3::
else
  left_out+=("the tests on Gemma 3 270M: it cannot be fetched")
fi
if scripts/fetch-tokenizers.sh; then
  step cargo test --release --workspace --features "$tested" --test burn_qlora_llama --test claims -- \
    --ignored family_tokenizers:: chat_templates_match_transformers::
else
  left_out+=("the tokenizers of published models: they cannot be fetched")
fi
# A second of each is part of the test run above.
step scripts/fuzz.sh 20 --workspace --features "$tested"
step scripts/book.sh
if scripts/web.sh --prepare; then
  # With WebGPU a third more packages are compiled, all of CubeCL among them: that is for who changes the page.
  step scripts/web.sh --cpu
else
  left_out+=("the page that trains in a browser: Rust's wasm32-unknown-unknown cannot be had")
fi
if [ -z "$(git status --porcelain)" ]; then
  step scripts/package-check.sh "$tested"
else
  left_out+=("the packages: there are uncommitted changes")
fi
# Apart, for with this feature on, what kernel multiplies depends on what the machine has measured.
step cargo test --release --workspace --features "$tested,qlora-cubecl/autotune" --test kernels_autotune -- --skip cuda::
# In a build of its own, in debug: a device that the crates were built without, and graphs that are recorded and run on another backend.
step cargo test -p burn-qlora --features ndarray,capture,router --test unserved_devices --test routed
if [ -n "${device:-}" ]; then
  step scripts/cuda-check.sh --features "$tested"
else
  left_out+=("the kernels' registers and instructions as CUDA code: there is no compiler for it")
fi
if scripts/test-arm.sh --prepare; then
  step scripts/test-arm.sh
else
  left_out+=("the NEON kernels: there is no emulator or compiler for Arm")
fi

for what in "${left_out[@]}"; do printf 'left out: %s\n' "$what" >&2; done
