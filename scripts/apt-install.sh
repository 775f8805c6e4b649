#!/usr/bin/env bash
# Installs packages on Debian and Ubuntu; without root, through sudo.
#
# usage: scripts/apt-install.sh PACKAGE...
set -euo pipefail

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

if ! command -v apt-get >/dev/null; then
  echo "error: there is no apt-get to install $* with" >&2
  exit 1
fi
if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
  echo "error: installing $* needs root; run: apt-get install $*" >&2
  exit 1
fi
as_root apt-get update -qq
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
