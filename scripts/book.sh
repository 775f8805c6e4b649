#!/usr/bin/env bash
# Builds the book into target/book, without a warning, and checks every link and anchor in its pages and in the Markdown
# files of the repository. Addresses outside are not fetched. mdBook comes by cargo, once, into
# ${XDG_CACHE_HOME:-~/.cache}/burn-qlora/tools.
#
# usage: scripts/book.sh
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.5.4
tools=${XDG_CACHE_HOME:-$HOME/.cache}/burn-qlora/tools
mdbook=$tools/bin/mdbook

if [ "$("$mdbook" --version 2>/dev/null)" != "mdbook v$version" ]; then
  # A target folder of its own, which is of no use afterwards.
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  CARGO_TARGET_DIR=$build cargo install mdbook --quiet --locked --version "$version" --root "$tools" >&2
fi

target=$(cargo metadata --offline --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
log=$("$mdbook" build docs --dest-dir "$target/book" 2>&1) || { printf '%s\n' "$log" >&2; exit 1; }
if grep -E '\b(WARN|ERROR)\b' <<<"$log" >&2; then
  echo "error: the book does not build cleanly" >&2
  exit 1
fi
python3 scripts/check_links.py "$target/book"
