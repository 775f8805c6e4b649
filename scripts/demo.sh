#!/usr/bin/env bash
# Teaches SmolLM2-135M-Instruct to turn spending notes into JSON records, on the CPU and in NF4, and shows
# what it did before and after.
#
# usage: scripts/demo.sh
#
# scripts/fetch-smollm2.sh brings the model. DEVICE names another device than the CPU, FEATURES the cargo
# features that bring it: FEATURES=wgpu DEVICE=wgpu. FINETUNE names a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

data=examples/demo-records/data
device=${DEVICE:-flex}

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

say "Fetch SmolLM2-135M-Instruct"
model=$(scripts/fetch-smollm2.sh)

finetune=${FINETUNE:-}
if [ -z "$finetune" ]; then
  say "Build finetune"
  cargo build --release -p finetune --bin finetune ${FEATURES:+--features "$FEATURES"}
  target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  finetune=$target/release/finetune
fi
started=$SECONDS

run=$(mktemp -d "${TMPDIR:-/tmp}/burn-qlora-demo.XXXXXX")
common=(--model "$model" --device "$device" --quant nf4)
prompt='Write as JSON: Sofia paid 34 euros for a train ticket on Friday.'

# The value of a number in a line of JSON: value NAME LINE.
value() { printf '%s\n' "$2" | sed -n "s/.*\"$1\":\([-+.0-9e]*\).*/\1/p"; }
measure() {
  "$finetune" eval "${common[@]}" "$@" --data $data/records-held-out.jsonl --seq-len 128 --exact-match --json | tail -n 1
}
sample() { "$finetune" generate "${common[@]}" "$@" --prompt "$prompt"$'\n' --max-tokens 60 | tr '\n' ' '; }

say "Before: the model as it is"
before=$(measure)
sample_before=$(sample)

say "Train"
printf '{"prompt": "%s\\n"}\n' "$prompt" > "$run/prompts.jsonl"
"$finetune" train "${common[@]}" --data $data/records-train.jsonl --output "$run/adapter" \
  --eval-data $data/records-held-out.jsonl --eval-every 20 --sample-prompts "$run/prompts.jsonl" \
  --seq-len 128 --rank 16 --batch-size 8 --epochs 1 --lr 2e-3 --schedule cosine --warmup-steps 4 \
  --max-grad-norm 1 --log-json "$run/log.jsonl"

say "After: with the adapter"
after=$(measure --adapter "$run/adapter")
sample_after=$(sample --adapter "$run/adapter")

grep '"loss"' "$run/log.jsonl" > "$run/steps.jsonl"
first=$(head -n 1 "$run/steps.jsonl")
last=$(tail -n 1 "$run/steps.jsonl")
speed=$(sed 's/.*"tokens_per_second":\([.0-9]*\).*/\1/' "$run/steps.jsonl" | sort -n |
  awk '{ v[NR] = $1 } END { printf "%.0f", v[int((NR + 1) / 2)] }')
percent() { awk -v x="$(value exact_match "$1")" 'BEGIN { printf "%.0f %%", 100 * x }'; }
short() { printf '%.4f' "$(value "$1" "$2")"; }

say "Before and after, on $(value exact_match_rows "$after") held-out notes with unseen names"
printf '%-22s %-14s %s\n' '' before after
printf '%-22s %-14s %s\n' 'exact match' "$(percent "$before")" "$(percent "$after")"
printf '%-22s %-14s %s\n' 'held-out loss' "$(short nll "$before")" "$(short nll "$after")"
printf '%-22s %-14s %s\n' 'training loss' "$(short loss "$first")" "$(short loss "$last")"
printf '\n%-22s %s tokens/s (median step), peak memory %s MB, %s s for everything\n' 'training' \
  "$speed" "$(($(value peak_rss_bytes "$last") / 1000000))" $((SECONDS - started))
printf '%-22s %s\n' note "${prompt#*: }"
printf '%-22s %s\n' 'answer before' "$sample_before"
printf '%-22s %s\n' 'answer after' "$sample_after"
printf '%-22s %s\n' adapter "$run/adapter"
printf '%-22s %s\n' report "$run/adapter/report.html"

awk -v b="$(value exact_match "$before")" -v a="$(value exact_match "$after")" 'BEGIN { exit !(b <= 0.10 && a >= 0.90) }' ||
  fail "the demo should go from at most 10 % to at least 90 %"
