#!/usr/bin/env bash
# weft train from outside: the same numbers in every layout, twice the same bits, resuming, stopping, and bad input.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OPENBLAS_NUM_THREADS=1

tiny=configs/train/tiny.textproto
short=(--set train.steps=6 --set train.validate_sequences=4)

# train RANKS RUN_DIR OPTION...: weft train of the tiny config on so many ranks.
train() {
  local ranks=$1 run=$2
  shift 2
  if ((ranks == 1)); then
    "$WEFT" train "$tiny" --progress never --run_dir "$run" "$@"
  else
    mpirun --oversubscribe --mca mpi_yield_when_idle 0 -n "$ranks" "$WEFT" train "$tiny" --progress never --run_dir "$run" "$@"
  fi
}

# values RUN_DIR KEY...: what metrics.jsonl has of them, one line a step.
values() {
  local file=$1/metrics.jsonl key
  shift
  for key in step "$@"; do sed -nE "s/.*\"$key\": ?([-+0-9.eE]+|null).*/\1/p" "$file" > "$TMP/column.$key"; done
  (cd "$TMP" && paste "${@/#/column.}" column.step)
}
keys=(loss grad_norm aux_loss z_loss lr)

# close RUN_A RUN_B [KEY...]: equal numbers of steps, and every value of the keys equal to 1e-10 relative.
close() {
  local names=("${@:3}")
  ((${#names[@]})) || names=("${keys[@]}")
  values "$1" "${names[@]}" > "$TMP/a.txt" && values "$2" "${names[@]}" > "$TMP/b.txt"
  paste "$TMP/a.txt" "$TMP/b.txt"
  [[ $(wc -l < "$TMP/a.txt") == "$(wc -l < "$TMP/b.txt")" && -s $TMP/a.txt ]] || return 1
  paste "$TMP/a.txt" "$TMP/b.txt" | awk '
    { n = NF / 2; for (i = 1; i <= n; i++) { d = $i - $(i + n); m = $i < 0 ? -$i : $i; if (d < 0) d = -d; if (!(d <= 1e-10 * m)) bad = 1 } }
    END { exit bad || NR == 0 }'
}
identical() { same "$(values "$1" "${keys[@]}")" "$(values "$2" "${keys[@]}")" && [[ -s $1/metrics.jsonl ]]; }

check 'one rank, twenty steps' train 1 "$TMP/one"
check 'metrics.jsonl begins with its schema' grep -q '^{"schema": 1' <(head -1 "$TMP/one/metrics.jsonl")
check 'metrics.jsonl has a line for each step' same 20 "$(values "$TMP/one" loss | wc -l)"
# shellcheck disable=SC2016  # awk's own fields
check 'the loss falls' awk 'NR == 1 { first = $1 } { last = $1 } END { exit !(last < first - 1) }' <(values "$TMP/one" loss)
check 'the run keeps the config it used' same "$("$WEFT" config print "$tiny")" "$("$WEFT" config print "$TMP/one/config.textproto")"

check 'F64 on one rank' train 1 "$TMP/f64" "${short[@]}" --set train.dtype=F64
# tcp_train RANKS RUN_DIR OPTION...: the same without MPI, on ranks that only the environment connects.
tcp_train() {
  local ranks=$1 run=$2 port=$((20000 + $$ % 10000)) rank pids=() status=0
  shift 2
  for ((rank = 0; rank < ranks; rank++)); do
    RANK=$rank WORLD_SIZE=$ranks MASTER_ADDR=localhost MASTER_PORT=$port \
      "$WEFT" train "$tiny" --progress never --run_dir "$run" "$@" &
    pids+=($!)
  done
  for rank in "${pids[@]}"; do wait "$rank" || status=$?; done
  return $status
}
check '4 ranks over TCP' tcp_train 4 "$TMP/tcp" "${short[@]}" --set train.dtype=F64 --set parallel.expert=2
check '4 ranks over TCP: the numbers of one rank' close "$TMP/f64" "$TMP/tcp"
check 'a bad config over TCP: every rank ends with its status' exits 2 tcp_train 2 "$TMP/bad" --set train.global_batch=15

if "$WEFT" version --json | grep -q '"mpi": true'; then
  for layout in '2 expert=2 zero=true 2' '2 expert=1 zero=false 4' '4 expert=2 zero=true 1' '8 expert=8 zero=true 2'; do
    read -r ranks expert zero micro <<< "$layout"
    name="$ranks ranks, $expert, $zero, micro_batch $micro"
    check "$name" train "$ranks" "$TMP/layout" "${short[@]}" --set train.dtype=F64 --set "parallel.$expert" --set "parallel.$zero" --set train.micro_batch="$micro" --resume none
    check "$name: the numbers of one rank" close "$TMP/f64" "$TMP/layout"
    rm -rf "$TMP/layout"
  done
  check '4 ranks over MPI' train 4 "$TMP/mpi" "${short[@]}" --set train.dtype=F64 --set parallel.expert=2
  check '4 ranks over MPI: the bits of TCP' identical "$TMP/tcp" "$TMP/mpi"
  check 'F64 on one rank, balance over all ranks' train 1 "$TMP/previous" "${short[@]}" --set train.dtype=F64 --set model.moe.balance_scope=GLOBAL_PREVIOUS
  for layout in '2 2 1 1 INLINE' '2 1 2 2 STREAMS' '4 2 2 4 STREAMS' '4 2 1 2 INLINE'; do
    read -r ranks heads ring expert executor <<< "$layout"
    name="$ranks ranks, sequences shared by $heads heads x $ring ring, expert=$expert, $executor"
    check "$name" train "$ranks" "$TMP/layout" "${short[@]}" --set train.dtype=F64 --set model.moe.balance_scope=GLOBAL_PREVIOUS --set parallel.expert="$expert" \
      --set parallel.sequence_heads="$heads" --set parallel.sequence_ring="$ring" --set schedule.executor="$executor" --resume none
    check "$name: the numbers of one rank" close "$TMP/previous" "$TMP/layout"
    check "$name: the validation of one rank" close "$TMP/previous" "$TMP/layout" val_loss
    rm -rf "$TMP/layout"
  done
  check 'two ranks' train 2 "$TMP/two" "${short[@]}" --set parallel.expert=2
  check 'two ranks again' train 2 "$TMP/again" "${short[@]}" --set parallel.expert=2
  check 'the same layout gives the same bits' identical "$TMP/two" "$TMP/again"
  check 'bad layouts are refused once' exits 2 mpirun --oversubscribe -n 3 "$WEFT" train "$tiny" --set parallel.expert=3 --run_dir "$TMP/bad"
  check 'with one error: line' same 1 "$(grep -c '^error: ' "$TMP/stderr")"
  check 'and no run folder' test ! -e "$TMP/bad"
else
  skip 'the same numbers on several ranks' 'this build has no MPI'
fi

# Stopping and resuming
saving=(--set checkpoint.every=5 --set checkpoint.keep=0)
check 'a run that saves' train 1 "$TMP/saved" "${saving[@]}"
check 'saving does not change the run' identical "$TMP/one" "$TMP/saved"
find "$TMP/saved/checkpoints" -mindepth 1 -maxdepth 1 | sort | tail -n +3 | xargs rm -rf
check 'a run resumed from step 10' train 1 "$TMP/saved" "${saving[@]}"
check 'resuming gives the bits of the unbroken run' identical "$TMP/one" "$TMP/saved"
newest=$(find "$TMP/saved/checkpoints" -mindepth 1 -maxdepth 1 | sort | tail -1)
find "$newest" -name '*.safetensors' | head -1 | while read -r file; do
  printf '\xff' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") / 2)) conv=notrunc status=none
done
check 'a run resumed beside a damaged checkpoint' exits 0 train 1 "$TMP/saved" "${saving[@]}"
check 'it says which one it refused' grep -q "$(basename "$newest")" "$TMP/stdout" "$TMP/stderr"
check 'falling back gives the bits of the unbroken run' identical "$TMP/one" "$TMP/saved"
stop_on_request() {
  local status=0
  train 1 "$TMP/stopped" "${saving[@]}" --set train.steps=5000 > "$TMP/stopped.log" 2>&1 &
  while [[ ! -s $TMP/stopped/metrics.jsonl ]] && kill -0 $!; do sleep 0.1; done
  sleep 0.3
  pkill -USR1 -P $! || kill -USR1 $!
  wait $! || status=$?
  cat "$TMP/stopped.log"
  same 75 "$status" && [[ -n $(find "$TMP/stopped/checkpoints" -mindepth 1 -maxdepth 1 -name 'step-*') ]]
}
check 'SIGUSR1 saves and stops with status 75' stop_on_request
check 'a time limit saves and stops with status 75' exits 75 "$WEFT" train "$tiny" --run_dir "$TMP/limit" "${saving[@]}" \
  --set train.steps=100000 --set train.time_limit_s=1
check 'a loss that is not finite stops with status 80' exits 80 "$WEFT" train "$tiny" --run_dir "$TMP/nan" --set train.optimizer.lr=1e30 \
  --set train.optimizer.clip_norm=0

# Bad input
refused() { exits "$1" "$WEFT" train "$tiny" --run_dir "$TMP/refused" "${@:3}" && cat "$TMP/stderr" && grep -q "^error: .*$2" "$TMP/stderr" && [[ ! -e $TMP/refused/checkpoints ]]; }
head -c 20000 configs/data/tiny.train.bin > "$TMP/cut.bin"
check 'data that is missing' refused 74 'none.bin' --set data.train="$TMP/none.bin"
check 'data that is truncated' refused 74 'cut.bin' --set data.train="$TMP/cut.bin"
check 'data outside the vocabulary' refused '2' 'vocab' --set model.vocab_size=100 --set data.end_of_text=-1
check 'a global batch that does not divide' refused 2 'train.global_batch' --set train.global_batch=15
check 'a missing config' exits 74 "$WEFT" train "$TMP/none.textproto"
check 'a missing checkpoint to start from' refused 74 'none' --init_from "$TMP/none"

finish
