#!/usr/bin/env bash
# Builds the page of examples/web, which fine-tunes a model in the browser, into a folder that any web server can serve as it is.
# Rust's wasm32-unknown-unknown comes by rustup, and wasm-bindgen by cargo, once, into
# ${XDG_CACHE_HOME:-~/.cache}/burn-qlora/tools.
#
# usage: scripts/web.sh [--cpu] [FOLDER | --prepare]
#   FOLDER       without it the program is compiled and no more
#   --cpu        leaves WebGPU out: the page computes on the CPU alone
#   --prepare    fetches Rust's library for browsers, which fails where it cannot be had
set -euo pipefail
features=(--features wgpu)
if [ "${1:-}" = --cpu ]; then
  features=()
  shift
fi
out=${1:+$(realpath -m -- "$1")}
cd "$(dirname "$0")/.."

target=wasm32-unknown-unknown
# Not `rustup target list`, which other ways to install Rust do not have.
if [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then
  rustup target add "$target" >&2
fi
if [ "${1:-}" = --prepare ]; then exit; fi
# getrandom 0.3 takes the browser's random numbers by this, and the kernels their vectors of 128 bits.
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS='--cfg getrandom_backend="wasm_js" -C target-feature=+simd128'
cargo build --release --target "$target" --package qlora-web "${features[@]}"
if [ -z "$out" ]; then exit; fi

# Both halves of wasm-bindgen have to be of one version.
version=$(cargo metadata --offline --format-version 1 | grep -o '"name":"wasm-bindgen","version":"[^"]*"' | sed 's/.*:"//; s/"//')
tools=${XDG_CACHE_HOME:-$HOME/.cache}/burn-qlora/tools
if [ "$("$tools/bin/wasm-bindgen" --version 2>/dev/null)" != "wasm-bindgen $version" ]; then
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  CARGO_TARGET_DIR=$build cargo install wasm-bindgen-cli --quiet --version "$version" --root "$tools" >&2
fi

built=$(cargo metadata --offline --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$target/release
mkdir -p "$out"
"$tools/bin/wasm-bindgen" --target web --no-typescript --remove-name-section --out-dir "$out" "$built/qlora_web.wasm"
cp examples/web/page/* "$out"
cp tests/fixtures/families/qwen2/gguf/qwen2-f32.gguf "$out/tiny.gguf"
echo "the page is in $out: serve it with python3 -m http.server --directory $out, and open http://localhost:8000"
