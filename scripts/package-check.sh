#!/usr/bin/env bash
# Packs every crate that can be published, puts the packed crates in the place of their folders in a copy of the
# workspace, and compiles them there with their doctests: a package that lacks a file fails here. The check of `cargo
# package` itself would build Burn once more, in debug; this one shares what the tests have built.
#
# usage: scripts/package-check.sh [FEATURES]      FEATURES as for the other tests, so that Burn is not built anew
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || fail "there are uncommitted changes; packages are made of what is committed"

# For each package that can be published: name, version, folder. Then the target folder.
packages=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, os, sys
workspace = json.load(sys.stdin)
print(workspace["target_directory"])
for package in workspace["packages"]:
    folder = os.path.relpath(os.path.dirname(package["manifest_path"]), workspace["workspace_root"])
    print("unpublished" if package["publish"] == [] else "published", package["name"], package["version"], folder)
')
target=${packages%%$'\n'*}
copy=$target/package-check
excluded=()
while read -r state name _; do
  if [ "$state" = unpublished ]; then excluded+=(--exclude "$name"); fi
done < <(tail -n +2 <<<"$packages")

cargo package --workspace "${excluded[@]}" --no-verify --quiet

rm -rf "$copy"
# The copy goes again: what is built of it here is built of the workspace elsewhere, and as long as the copy's files are
# there, Cargo takes one for the other.
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy"
git archive HEAD | tar -x -C "$copy"
printf '\n[patch.crates-io]\n' >> "$copy/Cargo.toml"
while read -r state name version folder; do
  [ "$state" = published ] || continue
  rm -rf "${copy:?}/$folder"
  mkdir -p "$copy/$folder"
  tar -x -z --strip-components 1 -C "$copy/$folder" -f "$target/package/$name-$version.crate"
  for file in README.md LICENSE-MIT LICENSE-APACHE; do
    [ -s "$copy/$folder/$file" ] || fail "the package $name has no $file"
  done
  printf '%s = { path = "%s" }\n' "$name" "$folder" >> "$copy/Cargo.toml"
done < <(tail -n +2 <<<"$packages")
# Cargo tells by age whether a file has changed, and these are as old as the commit.
find "$copy" -type f -exec touch {} +

cd "$copy"
# Not `--locked`: the packages have lost their dependencies on what is not published, and so has their lock file.
CARGO_TARGET_DIR=$target cargo test --release --doc --workspace ${1:+--features "$1"}
