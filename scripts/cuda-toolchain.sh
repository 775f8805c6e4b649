#!/usr/bin/env bash
# Brings NVIDIA's assembler and disassembler of PTX (ptxas, nvdisasm) and the functions that kernels need (libdevice) from their
# Python packages. They are for devices that need not be there; no driver is installed.
#
# usage: eval "$(scripts/cuda-toolchain.sh)"      sets CUDA_HOME
set -euo pipefail

# The table of kernels is of these versions: another assembler allots other registers.
packages=(
  nvidia-cuda-nvcc==13.5.37 nvidia-nvvm==13.5.37 nvidia-cuda-runtime==13.5.37 nvidia-cuda-nvdisasm==13.5.37
)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/burn-qlora/cuda-13.5.37

if [ ! -d "$folder" ]; then
  mkdir -p "$(dirname "$folder")"
  work=$(mktemp -d "$folder.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  if ! python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-cache-dir \
    --target "$work" "${packages[@]}" >&2; then
    echo "error: pip cannot install ${packages[*]}" >&2
    exit 1
  fi
  chmod +x "$work"/nvidia/cu13/bin/* "$work"/nvidia/cu13/nvvm/bin/*
  mv "$work" "$folder"
fi
printf 'export CUDA_HOME=%q\n' "$folder/nvidia/cu13"
