#!/usr/bin/env bash
# Kills training runs at random moments (200 unless said otherwise), in loading, training, evaluating and saving, goes on
# with them, and compares adapter, moments, step log and the names of all files with those of a run that is left alone.
# The suite does the same with 5.
#
# usage: scripts/kill-test.sh [KILLS]
set -euo pipefail
cd "$(dirname "$0")/.."
KILLS=${1:-200} cargo test --release -p finetune --test finetune_commands -- --ignored --nocapture kills::
