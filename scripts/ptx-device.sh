#!/usr/bin/env bash
# Builds the software CUDA device (tools/ptx-device) and puts it where a program looks for the driver, with the library of functions
# that kernels need beside it (libdevice, from NVIDIA's Python package).
#
# usage: eval "$(scripts/ptx-device.sh)"      sets what `cargo test` and `cargo run` then start programs with; QLORA_SOFTWARE_CUDA
#                                             tells tests that the device is not a fast one
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
# By a runner, for Cargo would build anew what it has built without CUDA_PATH. What Cargo puts into LD_LIBRARY_PATH stays there: tests
# of macros need the compiler's libraries.
cat >"$folder/with-device" <<END
#!/bin/sh
export QLORA_SOFTWARE_CUDA=1 CUDA_PATH='$CUDA_HOME' LD_LIBRARY_PATH='$folder'"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "\$@"
END
chmod +x "$folder/with-device"
target=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
printf 'export CARGO_TARGET_%s_RUNNER=%q\n' "$target" "$folder/with-device"
