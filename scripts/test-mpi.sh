#!/usr/bin/env bash
# Trains in processes that mpirun starts, on the test models: what one process does, the same bits each time, ranks that die at
# random moments, a rank that hangs. The short ones of these tests are part of `cargo test` with the feature finetune/mpi.
#
# usage: scripts/test-mpi.sh --prepare           installs MPI and libclang on Debian and Ubuntu where they are missing
#        scripts/test-mpi.sh [CARGO ARGUMENTS]   runs all of the tests, of a build with these arguments
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(libopenmpi-dev openmpi-bin libclang-dev)

# The compiler wrapper and the launcher, and the library that bindgen reads headers with.
is_there() {
  command -v mpicc >/dev/null && command -v mpirun >/dev/null || return 1
  compgen -G "${LIBCLANG_PATH:-/nowhere}/libclang*" >/dev/null || compgen -G '/usr/lib/llvm*/lib/libclang*.so*' >/dev/null ||
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libclang.*\.so'
}

if [ "${1:-}" = --prepare ]; then
  if is_there; then exit 0; fi
  echo "there is no MPI, or no libclang to build for it; installing ${packages[*]}" >&2
  scripts/apt-install.sh "${packages[@]}" || exit 1
  is_there || { echo "error: there is no MPI, even after installing ${packages[*]}" >&2; exit 1; }
  exit 0
fi

if [ $# = 0 ]; then set -- --package finetune --features mpi; fi
cargo test --release "$@" --test finetune_commands -- --include-ignored mpi::
