#!/usr/bin/env bash
# Makes mistakes in the kernels' compiled code, one at a time, and fails where the tests pass all the same: what the software
# CUDA device does not see and no test notices would be no proof.
#
# usage: eval "$(scripts/ptx-device.sh)"
#        scripts/ptx-mutations.sh [CARGO ARGUMENTS]     what to build the suite with; default -p qlora-cubecl --features cuda
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# = 0 ]; then set -- -p qlora-cubecl --features cuda; fi
suite=(cargo test --quiet --release "$@" --test kernels --)

# What is wrong, the text and what it becomes, the tests that must notice, the compute capability.
mutations=(
  'a block does not wait for its warps|bar.sync=>// bar.sync|products_match_the_recording|80'
  'a warp does not wait for its lanes|bar.warp.sync=>// bar.warp.sync|half_precision_is_multiplied|80'
  'a matrix is loaded untransposed|.trans=>|half_precision_is_multiplied|80'
  'a matrix is stored transposed|stmatrix.sync.aligned.m8n8.x2=>stmatrix.sync.aligned.m8n8.x2.trans|half_precision_is_multiplied|90'
  'a sum over lanes goes another way|shfl.sync.bfly=>shfl.sync.up|every_format_is_multiplied|80'
  'a loop runs once more|setp.lt.u32=>setp.le.u32|words_have_the_bits|80'
  'a bound is one too wide|setp.ge.u32=>setp.gt.u32|decoded_values_have_the_bits|80'
  'an index is not held within its rows|min.u32=>max.u32|half_precision_is_multiplied|80'
  'the greatest score is the least|max.f32=>min.f32|windows_match|80'
  'brain floats are taken for halves|row.col.f32.bf16.bf16.f32=>row.col.f32.f16.f16.f32|half_precision_is_multiplied|120'
  'a nibble is shifted too far|shr.u32=>shl.b32|decoded_values_have_the_bits|80'
)

missed=0
for mutation in "${mutations[@]}"; do
  IFS='|' read -r what text noticed capability <<<"$mutation"
  if ! PTX_DEVICE_SM=$capability "${suite[@]}" "cuda::$noticed" >/dev/null 2>&1; then
    echo "error: cuda::$noticed fails without a mutation" >&2
    exit 1
  fi
  if PTX_DEVICE_SM=$capability PTX_DEVICE_MUTATE=$text "${suite[@]}" "cuda::$noticed" >/dev/null 2>&1; then
    printf 'missed: %s (%s)\n' "$what" "$text"
    missed=$((missed + 1))
  else
    printf 'caught: %s\n' "$what"
  fi
done
[ $missed = 0 ]
