#!/usr/bin/env bash
# Proves on a GPU, in one go, what is otherwise shown on a device in software: results, memory, times. Writes a report.
#
# usage: scripts/gpu-check.sh build OUT [--link] [CARGO ARGUMENTS]
#          builds for CUDA, and puts programs, recordings and libdevice into the folder OUT, stripped, and into OUT.tar.zst (at most
#          60 MiB; `zstd -d --long=30 -c OUT.tar.zst | tar -x` unpacks it). Other CARGO ARGUMENTS build something else. --link
#          makes links to what was built and no archive.
#        OUT/gpu-check.sh run [--report FILE] [--model MODEL] [--python PYTHON] [--short] [--timed DEVICE]
#          runs it, on the first CUDA device, without network. --model: times training steps of it as well. --python: has torch and
#          bitsandbytes, which are timed beside. --short: a part of it, a minute or two on the software device
#          (scripts/ptx-device.sh). --timed: another device for what is timed, if the programs have it.
#
# Exit code: 0, all passed; 1, a check failed; 2, there is nothing to run it on.
set -euo pipefail

# What is built, the name of its program, and what it proves.
suites=(
  'kernels|every CubeCL kernel, against references in f64 and recordings of bitsandbytes'
  'burn_nf4|the 4-bit tensor and its LoRA layer, forward and backward'
  'burn_fused|norms, gates, RoPE, attention and the loss, forward and backward'
  'burn_paged|paged AdamW: the same bits at every budget, the bytes moved'
)
# Tests of each suite in a short run.
short=(
  'kernels|cuda::words_have_the_bits cuda::products_match_the_recording cuda::half_precision_is_multiplied'
  'burn_nf4|cuda::products_match_the_recording cuda::the_gradient_matches'
  'burn_fused|glu::the_named_ones_are_their_activations'
  'burn_paged|cuda::every_budget_gives_the_same_bits cuda::bytes_moved'
)
most_bytes=$((60 << 20))
shapes=(1,4096,4096 1,4096,11008 16,4096,4096 512,4096,4096 512,4096,11008 2048,4096,4096)

fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# Programs that cargo has just built, by name: NAME PATH.
programs() {
  python3 -c '
import json, sys
for line in sys.stdin:
    unit = json.loads(line) if line.startswith("{") else {}
    if unit.get("executable"):
        print(unit["target"]["name"], unit["executable"])'
}

build() {
  local out=${1:?usage: scripts/gpu-check.sh build OUT} link= arguments root name path
  shift
  if [ "${1:-}" = --link ]; then link=yes; shift; fi
  root=$(cd "$(dirname "$0")/.." && pwd)
  arguments=("$@")
  if [ $# = 0 ]; then
    arguments=(
      -p qlora-cubecl -p burn-nf4 -p burn-fused -p burn-paged -p qlora-tests -p qlora-benches -p finetune
      --features qlora-cubecl/cuda,qlora-benches/cuda,qlora-tests/software-cuda
    )
  fi
  local targets=(--test claims)
  for suite in "${suites[@]}"; do targets+=(--test "${suite%%|*}"); done
  mkdir -p "$out/bin"
  cp "$root/scripts/gpu-check.sh" "$root/benches/peers/linear_cuda.py" "$out/"
  git -C "$root" rev-parse HEAD >"$out/commit" 2>/dev/null || echo unknown >"$out/commit"
  {
    cargo test --release --no-run --message-format json --manifest-path "$root/Cargo.toml" "${arguments[@]}" "${targets[@]}"
    # With an example, features are those of the tests, so that nothing is built twice.
    cargo build --release --message-format json --manifest-path "$root/Cargo.toml" "${arguments[@]}" --bin finetune --example linear
  } >"$out/units.json"
  programs <"$out/units.json" >"$out/programs"
  rm "$out/units.json"
  while read -r name path; do
    if [ -n "$link" ]; then
      ln -sf "$path" "$out/bin/$name"
    else
      strip -o "$out/bin/$name" "$path"
    fi
  done <"$out/programs"
  rm "$out/programs"
  for name in claims kernels finetune linear; do [ -e "$out/bin/$name" ] || fail "cargo built no $name"; done
  # Links to what the working tree has already.
  rm -rf "$out/fixtures" "$out/cuda"
  eval "$("$root/scripts/cuda-toolchain.sh")"
  if [ -n "$link" ]; then
    ln -s "$root/tests/fixtures" "$out/fixtures"
    ln -s "$CUDA_HOME" "$out/cuda"
    return
  fi
  cp -r "$root/tests/fixtures" "$out/fixtures"
  # Of the many families, the one that the memory plan is held with.
  find "$out/fixtures/families" -mindepth 1 -maxdepth 1 ! -name gemma3 -exec rm -r {} +
  mkdir -p "$out/cuda/nvvm/libdevice"
  cp "$CUDA_HOME"/nvvm/libdevice/libdevice.10.bc "$out/cuda/nvvm/libdevice/"
  pack "$out"
  # What the curve goes through as well goes first.
  for name in burn_nf4 burn_fused burn_paged; do
    [ "$(stat -c %s "$out.tar.zst")" -gt "$most_bytes" ] || break
    printf 'left out of the bundle, which would be larger than 60 MiB: %s\n' "$name"
    rm "$out/bin/$name"
    pack "$out"
  done
  [ "$(stat -c %s "$out.tar.zst")" -le "$most_bytes" ] || fail "$out.tar.zst is larger than 60 MiB"
  printf '%s: %d MiB\n' "$out.tar.zst" $(($(stat -c %s "$out.tar.zst") >> 20))
}

# Packs a bundle. Its programs share most of their code, which a long window sees.
pack() {
  tar -C "$(dirname "$1")" -c "$(basename "$1")" | zstd -q -f -T0 -19 --long=30 -o "$1.tar.zst"
}

# Tells of the device, by the driver that programs will load.
device() {
  python3 - <<'PYTHON' 2>/dev/null || echo '- a CUDA driver that could not be asked (no python3?)'
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
number, name, memory = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGetName(name, 100, 0) == 0
cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
capability = []
for attribute in (75, 76):
    cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, 0)
    capability.append(str(number.value))
cuda.cuDriverGetVersion(ctypes.byref(number))
print(f"- device: {name.value.decode()}, compute capability {'.'.join(capability)}, {memory.value / 1e9:.1f} GB")
print(f"- driver: for CUDA {number.value // 1000}.{number.value % 1000 // 10}")
PYTHON
  if command -v nvidia-smi >/dev/null; then
    printf -- '- nvidia-smi: %s\n' "$(nvidia-smi --query-gpu=name,driver_version,vbios_version,clocks.max.sm --format=csv,noheader | head -1)"
  fi
  if [ -n "${QLORA_SOFTWARE_CUDA:-}" ]; then
    echo '- **a device in software: nothing here was run on a GPU, and no time says anything**'
  fi
}

run() {
  local here report=gpu-report.md model= python= short_run= timed=cuda
  here=$(cd "$(dirname "$0")" && pwd)
  [ -d "$here/bin" ] || fail "there are no programs in $here: build them (scripts/gpu-check.sh build OUT), and run OUT/gpu-check.sh"
  while [ $# -gt 0 ]; do
    case $1 in
      --short) short_run=yes ;;
      --report | --model | --python | --timed)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in --report) report=$2 ;; --model) model=$2 ;; --python) python=$2 ;; --timed) timed=$2 ;; esac
        shift
        ;;
      *) fail "there is no $1; see the beginning of $0" ;;
    esac
    shift
  done
  export QLORA_FIXTURES=$here/fixtures
  if [ -z "${CUDA_PATH:-}" ]; then export CUDA_PATH=$here/cuda; fi
  python3 -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null || fail "libcuda.so.1 cannot be loaded: there is no NVIDIA driver"

  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  failed=0
  : >"$work/checks"
  : >"$work/figures"
  : >"$work/failures"

  # outcome NAME OUTCOME WHAT: a line of the table.
  outcome() {
    printf '| %s | %s | %s |\n' "$1" "$2" "$3" >>"$work/checks"
    printf '%s: %s (%s)\n' "$1" "$2" "$3"
  }
  # failure NAME FILE: the end of what a check said.
  failure() {
    failed=1
    { printf '\n### %s\n\n```text\n' "$1"; tail -n 40 "$2"; printf '```\n'; } >>"$work/failures"
  }
  # check NAME WHAT COMMAND…: passes if the command does.
  check() {
    local name=$1 what=$2 began=$SECONDS
    shift 2
    if "$@" >"$work/said" 2>&1; then
      outcome "$name" passed "$what; $((SECONDS - began)) s"
    else
      outcome "$name" FAILED "$what; exit code $?"
      failure "$name" "$work/said"
    fi
  }

  parity
  refusals
  commands
  memory
  times

  {
    echo '# GPU check'
    echo
    device
    printf -- '- commit: %s\n- date: %s\n- system: %s\n' "$(cat "$here/commit")" "$(date -u +%Y-%m-%dT%H:%MZ)" "$(uname -srm)"
    printf '\n## Checks\n\n| check | outcome | what |\n| --- | --- | --- |\n'
    cat "$work/checks"
    if [ -s "$work/figures" ]; then printf '\n## Figures\n'; cat "$work/figures"; fi
    if [ -s "$work/failures" ]; then printf '\n## What failed said\n'; cat "$work/failures"; fi
  } >"$report"
  printf 'the report is in %s\n' "$report"
  return $failed
}

# tests NAME WHAT FILTERS…: runs tests of a suite, of which there must be some.
tests() {
  local name=$1 what=$2 began=$SECONDS code=0 passed
  shift 2
  "$here/bin/$name" "$@" >"$work/said" 2>&1 || code=$?
  passed=$(sed -n 's/.* \([0-9]*\) passed.*/\1/p' "$work/said" | tail -1)
  if [ $code = 0 ] && [ "${passed:-0}" != 0 ]; then
    outcome "$name" passed "$what; $passed tests, $((SECONDS - began)) s"
  else
    outcome "$name" FAILED "$what; ${passed:-0} tests passed, exit code $code"
    failure "$name" "$work/said"
  fi
}

parity() {
  local suite name filters chosen
  for suite in "${suites[@]}"; do
    name=${suite%%|*}
    if [ ! -e "$here/bin/$name" ]; then
      outcome "$name" 'left out' 'it is not in the bundle'
      continue
    fi
    filters=(cuda::)
    # Its tests go over all devices, without a name for each.
    if [ "$name" = burn_fused ]; then filters=(); fi
    if [ -n "$short_run" ]; then
      for chosen in "${short[@]}"; do [ "${chosen%%|*}" != "$name" ] || break; done
      read -ra filters <<<"${chosen#*|}"
    fi
    tests "$name" "${suite#*|}" "${filters[@]}"
  done
  if [ -n "$short_run" ]; then
    outcome curve 'left out' 'ten steps of a recorded training curve: a short run'
  else
    tests claims 'ten steps of a training curve recorded with peft, losses and gradient norms' software_cuda
  fi
}

# Whether finetune has a device; if not, why not is said.
has() { "$here/bin/finetune" plan --like llama-7b --seq-len 128 --device "$1" >"$work/said" 2>&1; }
why() { { grep -m 1 '^error: [^X]' "$work/said" || tail -n 1 "$work/said"; } | tr '|' ' ' | cut -c 1-200; }

refusals() {
  if ! has cuda; then
    outcome 'libdevice is missed' 'left out' "$(why)"
    return
  fi
  refused() {
    local code=0
    CUDA_PATH=/nowhere "$here/bin/finetune" plan --like llama-7b --device cuda || code=$?
    [ $code = 2 ]
  }
  check 'libdevice is missed' 'finetune refuses with exit code 2 before it reads anything' refused
  grep -q 'libdevice.10.bc.*is not in CUDA_PATH' "$work/said" || { outcome 'libdevice is missed' FAILED 'the line'; failure libdevice "$work/said"; }
}

# trained NAME MODEL FLAGS…: trains on the timed device and leaves the step log in $work/NAME.jsonl.
trained() {
  local name=$1 model=$2
  shift 2
  "$here/bin/finetune" train --device "$timed" --model "$model" --data "$work/text.txt" --output "$work/$name" \
    --log-json "$work/$name.jsonl" "$@"
}

# bytes NAME: a size that finetune has printed, "12.3 MB", as a number.
bytes() { awk -v name="$1" 'index($0, name) == 1 { n = split($0, w, " "); print w[n - 1] * (w[n] == "GB" ? 1e9 : w[n] == "MB" ? 1e6 : 1e3); exit }'; }

# field KEY: its values in the step log, one a line.
field() { sed -n "s/.*\"$1\":\([-0-9.e+]*\).*/\1/p"; }

# Trains a tiny model for three steps, evaluates it and has it write, on the device and on the CPU: the same but for the order of sums.
commands() {
  if ! has "$timed" || ! has flex; then
    outcome commands 'left out' "$(why)"
    return
  fi
  words
  local tiny=$QLORA_FIXTURES/families/gemma3 device
  for device in "$timed" flex; do
    check "commands on $device" 'finetune train, eval and generate' commands_on "$device" "$tiny"
  done
  if paste <(said_numbers "$timed") <(said_numbers flex) >"$work/said" && awk -v most=1e-3 '
      NF != 2 { off = 1 }
      { off_by = ($1 - $2) / $2; if (off_by < 0) off_by = -off_by; if (off_by > most) off = 1 }
      END { exit NR != 4 || off }' "$work/said" && grep -q '[a-z]' "$work/flex.written" && cmp -s "$work/$timed.written" "$work/flex.written"; then
    outcome 'commands, compared' passed 'three losses of training and that of eval within 1e-3 of the CPU, the same text'
  else
    outcome 'commands, compared' FAILED 'losses within 1e-3 of the CPU, the same text'
    failure 'commands, compared' "$work/said"
  fi
}

commands_on() {
  local device=$1 model=$2 run=$work/commands-$1
  "$here/bin/finetune" train --device "$device" --model "$model" --data "$work/text.txt" --output "$run" --log-json "$run.jsonl" \
    --steps 3 --batch-size 2 --seq-len 32 || return
  "$here/bin/finetune" eval --device "$device" --model "$model" --adapter "$run" --data "$work/few.txt" --seq-len 32 >"$work/$device.eval" || return
  "$here/bin/finetune" generate --device "$device" --model "$model" --adapter "$run" --prompt 'Hello, who are you?' --max-tokens 8 >"$work/$device.written"
}

# said_numbers DEVICE: the losses of its three steps and of its evaluation, one a line.
said_numbers() {
  field loss <"$work/commands-$1.jsonl"
  sed -n 's/^loss[^0-9]*\([0-9.]*\).*/\1/p' "$work/$1.eval" | head -1
}

# Words enough for the rows of every step.
words() {
  for _ in $(seq 3000); do echo 'the first word is followed by the next one and the last'; done >"$work/text.txt"
  head -n 20 "$work/text.txt" >"$work/few.txt"
}

memory() {
  if ! has "$timed"; then
    outcome memory 'left out' "$(why)"
    return
  fi
  words
  local setting flags planned measured
  local tiny=$QLORA_FIXTURES/families/gemma3
  local settings=('whole|--batch-size 8 --seq-len 256' 'paged|--batch-size 8 --seq-len 128 --rank 64 --optimizer paged-adamw --optimizer-budget 0')
  if [ -n "$short_run" ]; then settings=("${settings[0]}"); fi
  printf '\n### Memory: planned, and reserved by the device (two steps of a tiny Gemma 3)\n\n| setting | planned MB | reserved MB |\n| --- | --- | --- |\n' >>"$work/figures"
  for setting in "${settings[@]}"; do
    read -ra flags <<<"${setting#*|}"
    planned=$("$here/bin/finetune" plan --device "$timed" --model "$tiny" --data "$work/text.txt" "${flags[@]}" | bytes 'peak ')
    check "memory, ${setting%%|*}" "trains two steps" trained "memory-${setting%%|*}" "$tiny" --steps 2 "${flags[@]}"
    measured=$(field peak_device_bytes <"$work/memory-${setting%%|*}.jsonl" 2>/dev/null | tail -1)
    if [ -z "$measured" ]; then
      [ "$timed" = flex ] || outcome "memory, ${setting%%|*}" 'left out' 'the device does not tell'
      continue
    fi
    awk -v name="${setting%%|*}" -v planned="$planned" -v measured="$measured" \
      'BEGIN { printf "| %s | %.1f | %.1f |\n", name, planned / 1e6, measured / 1e6 }' >>"$work/figures"
    if awk -v planned="$planned" -v measured="$measured" 'BEGIN { off = measured / planned - 1; exit !(off < 0.1 && off > -0.1) }'; then
      outcome "memory, ${setting%%|*}" passed 'reserved within 10 % of the plan'
    else
      outcome "memory, ${setting%%|*}" FAILED "reserved $measured bytes, planned $planned"
      failed=1
    fi
  done
}

times() {
  local layer=("${shapes[@]}") dtype
  if [ -n "$short_run" ]; then layer=(2,64,96); fi
  if "$here/bin/linear" "${layer[@]}" --device "$timed" >"$work/ours" 2>"$work/said"; then
    outcome 'times of a layer' passed "on $timed"
    { printf '\n### A layer in NF4 on %s: median ms (M,K,N)\n\n```json\n' "$timed"; cat "$work/ours"; printf '```\n'; } >>"$work/figures"
    if [ -z "$python" ]; then
      outcome 'bitsandbytes beside' 'left out' 'no --python was given'
    elif "$python" "$here/linear_cuda.py" "${layer[@]}" >"$work/theirs" 2>"$work/said"; then
      outcome 'bitsandbytes beside' passed "$(head -1 "$work/theirs")"
      { printf '\n### The same by bitsandbytes\n\n```json\n'; cat "$work/theirs"; printf '```\n'; } >>"$work/figures"
    else
      outcome 'bitsandbytes beside' 'left out' "$(why)"
    fi
  else
    outcome 'times of a layer' 'left out' "$(why)"
  fi
  if [ -z "$model" ]; then
    outcome 'times of training steps' 'left out' 'no --model was given'
    return
  fi
  if ! has "$timed"; then
    outcome 'times of training steps' 'left out' "$(why)"
    return
  fi
  printf '\n### Training steps of %s on %s\n\n| dtype | tokens a second, median | peak on the device, MB |\n| --- | --- | --- |\n' "$model" "$timed" >>"$work/figures"
  for dtype in f32 bf16; do
    check "training in $dtype" 'seven steps, batch 4 x 256' trained "steps-$dtype" "$model" --steps 7 --batch-size 4 --seq-len 256 --compute-dtype "$dtype"
    # Without the first, in which kernels are compiled.
    printf '| %s | %s | %s |\n' "$dtype" \
      "$(field tokens_per_second <"$work/steps-$dtype.jsonl" 2>/dev/null | tail -n +2 | sort -n | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }')" \
      "$(field peak_device_bytes <"$work/steps-$dtype.jsonl" 2>/dev/null | tail -1 | awk '{ printf "%.0f", $1 / 1e6 }')" >>"$work/figures"
  done
}

case ${1:-} in
  build) shift; build "$@" ;;
  run) shift; run "$@" ;;
  *) sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
