#!/usr/bin/env bash
# A run that is killed with SIGKILL at 30 random moments: every next start goes on, and the end has the bits of an unbroken run.

source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
source scripts/common.sh
set +e

kills=30
seed=${WEFT_KILL_SEED:-$RANDOM}
RANDOM=$seed
echo "# seed $seed (WEFT_KILL_SEED)"

# Steps of 4 ms with a checkpoint after each: kills fall into steps, saves, renames, pruning and start-up alike.
args=(configs/train/tiny.textproto --set train.steps=400 --set train.global_batch=2 --set train.micro_batch=1
  --set train.sequence_length=16 --set model.layers=2 --set checkpoint.every=1 --set parallel.expert=2 --log_every 1000)
train() { "${MPIRUN[@]}" -n 2 "$WEFT" train "${args[@]}" --run_dir "$1"; }

# The figures of a run, without what the clock says, and the weights and moments at its end.
figures() {
  sed -E 's/"(step_ms|tokens_per_second|model_tflops|exposed_comm_frac)": [^,}]*,? ?//g' "$1/metrics.jsonl"
  cat "$1"/checkpoints/step-00000400/*.safetensors | sha256sum
}

unbroken() { train "$TMP/whole" && [[ -d $TMP/whole/checkpoints/step-00000400 ]]; }

broken() {
  local done_kills=0 status
  while ((done_kills < kills)); do
    setsid "${MPIRUN[@]}" -n 2 "$WEFT" train "${args[@]}" --run_dir "$TMP/broken" > "$TMP/out" 2>&1 &
    local job=$!
    sleep "0.$((RANDOM % 6 + 2))$((RANDOM % 10))"
    # whatever is alive: the ranks, or mpirun itself, which takes its ranks along
    if ((RANDOM % 2)); then pkill -KILL -f "weft train .*--run_dir $TMP/broken"; else kill -KILL "$job"; fi
    wait "$job" 2> /dev/null
    status=$?
    if ((status == 0)); then rm -rf "$TMP/broken"; continue; fi  # it was through: begin again
    ((status > 128 || status == 1)) || { echo "kill $done_kills: exit status $status" && cat "$TMP/out" && return 1; }
    for _ in {1..50}; do pgrep -f "weft train .*--run_dir $TMP/broken" > /dev/null || break; sleep 0.1; done
    done_kills=$((done_kills + 1))
  done
  echo "after $kills kills, newest: $(find "$TMP/broken/checkpoints" -maxdepth 1 -name 'step-*' | sort | tail -1)"
  train "$TMP/broken"
}

ranks_left() { ! pgrep -f "weft train .*--run_dir $TMP/broken"; }

check "an unbroken run ends" unbroken
check "a run killed $kills times still ends" broken
check "no rank is left behind" ranks_left
check "both have the same bits" same "$(figures "$TMP/whole")" "$(figures "$TMP/broken")"
finish
