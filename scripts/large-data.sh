#!/usr/bin/env bash
# Trains on a small and on a large file of generated rows and compares the peaks of resident memory, which are to lie within
# 100 MB of each other.
#
# usage: scripts/large-data.sh MODEL [MB of the large file, 2000 by default]
#        FINETUNE=path/to/finetune runs another binary than target/release/finetune
set -euo pipefail
cd "$(dirname "$0")/.."

model=$1
large=${2:-2000}
finetune=${FINETUNE:-target/release/finetune}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# rows MB: that many MB of rows, of words drawn by a fixed seed
rows() {
  awk -v bytes="$(($1 * 1000000))" 'BEGIN {
    srand(7)
    for (i = 0; i < 3000; i++) {
      word[i] = ""
      for (n = 1 + int(rand() * 9); n > 0; n--) word[i] = word[i] substr("etaoinshrdlucmfw", 1 + int(rand() * 16), 1)
    }
    for (size = 0; size < bytes; size += length(line) + 1) {
      line = "{\"prompt\": \""
      for (n = 3 + int(rand() * 40); n > 0; n--) line = line word[int(rand() * 3000)] " "
      line = line "\", \"completion\": \""
      for (n = 3 + int(rand() * 40); n > 0; n--) line = line word[int(rand() * 3000)] " "
      line = line "\"}"
      print line
    }
  }'
}

# peak MB: the peak of a run of some steps on so much data, in MB
peak() {
  rows "$1" >"$dir/rows.jsonl"
  rm -rf "$dir/run" "$dir/log.jsonl"
  "$finetune" train --model "$model" --data "$dir/rows.jsonl" --truncate --steps 4 --batch-size 1 \
    --output "$dir/run" --log-json "$dir/log.jsonl" >&2
  tail -n 1 "$dir/log.jsonl" | sed -n 's/.*"peak_rss_bytes":\([0-9]*\).*/\1/p' | awk '{ print int($1 / 1000000) }'
}

small=$(peak 2)
big=$(peak "$large")
echo "peak of resident memory: $small MB on 2 MB of rows, $big MB on $large MB"
((big <= small + 100))
