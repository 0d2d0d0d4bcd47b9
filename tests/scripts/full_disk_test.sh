#!/usr/bin/env bash
# A disk that fills up while a checkpoint is saved: training goes on, the older checkpoint stays valid, and is resumed from.

source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
export OPENBLAS_NUM_THREADS=1

disk=$TMP/disk
mkdir "$disk"
if ! mount -t tmpfs -o size=20m weft-test "$disk" 2> /dev/null; then
  skip 'a full disk while saving' 'needs the right to mount a tmpfs (root)'
  finish
  exit
fi
trap 'umount "$disk"; rm -rf "$TMP"' EXIT

# One checkpoint of the tiny model is 8 MB: two fit, a third does not.
args=(configs/train/tiny.textproto --progress never --set checkpoint.every=4 --set checkpoint.keep=0)
train() { "$WEFT" train "${args[@]}" --run_dir "$disk/run" "$@"; }
steps() { grep -c '"step"' "$disk/run/metrics.jsonl"; }
newest() { find "$disk/run/checkpoints" -mindepth 1 -maxdepth 1 -name 'step-*' | sort | tail -1; }

check 'the run ends well' exits 0 train
check 'it says which saves failed, and why' grep -q 'step 12: no checkpoint was saved.*No space left on device' "$TMP/stderr"
check 'every step is in the metrics' same 20 "$(steps)"
check 'the checkpoints that fitted are there' same step-00000008 "$(basename "$(newest)")"
check 'nothing half-written is left' same 2 "$(find "$disk/run/checkpoints" -mindepth 1 -maxdepth 1 | wc -l)"
check 'the newest one verifies' "$WEFT" checkpoint verify "$(newest)"
check 'the next start resumes from it' exits 0 train
check 'and says so' grep -q 'resumed from .*step-00000008' "$TMP/stdout"
finish
