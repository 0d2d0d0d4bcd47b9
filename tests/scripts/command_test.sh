#!/usr/bin/env bash
# The weft command from outside: exit statuses, one error: and one hint: line, the same error of many ranks once.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# complains STATUS TEXT ARGUMENT...: weft ends with STATUS; standard error is one error: line with TEXT and one hint: line.
complains() {
  local status=$1 text=$2
  exits "$status" "$WEFT" "${@:3}" || return 1
  cat "$TMP/stderr"
  [[ $(grep -c '' "$TMP/stderr") == 2 && $(head -1 "$TMP/stderr") == "error: "*"$text"* && $(tail -1 "$TMP/stderr") == "hint: "* ]] ||
    { echo "expected: $text" && return 1; }
  [[ ! -s $TMP/stdout ]] || { echo "something on standard output:" && cat "$TMP/stdout" && return 1; }
}

# says TEXT ARGUMENT...: weft succeeds, prints TEXT on standard output and nothing on standard error.
says() {
  exits 0 "$WEFT" "${@:2}" && cat "$TMP/stdout" "$TMP/stderr" && grep -qF -- "$1" "$TMP/stdout" && [[ ! -s $TMP/stderr ]]
}

# no_gpu_for ARGUMENT...: weft bench refuses the GPU that is not there, in one error: and one hint: line behind what is logged.
no_gpu_for() {
  local -a launch=()
  if [[ $1 == allreduce ]]; then launch=(mpirun --oversubscribe -n 2); fi
  exits 1 "${launch[@]}" "$WEFT" bench "$@" --device CUDA
  cat "$TMP/stderr"
  [[ $(grep -c '^error: --device = CUDA: ' "$TMP/stderr") == 1 && $(grep -c '^hint: set --device to AUTO or CPU' "$TMP/stderr") == 1 ]]
}

tiny=configs/train/tiny.textproto
check 'version' says 'weft 0.' version
check 'version as JSON' says '"version": "0.' version --json
check 'help' says 'Exit status: 0 done' --help
check 'help of a subcommand' says '--set' config print --help
check 'no subcommand' complains 2 'A subcommand is required'
check 'an unknown subcommand' complains 2 "no command 'verson'" verson
check 'the nearest subcommand is named' grep -q 'did you mean weft version' "$TMP/stderr"
check 'an unknown option' complains 2 '--jsn' version --jsn

check 'a number that must be above 0' complains 2 "--trace: '0' is not a number above 0" train x --trace 0
check 'one that is not negative' complains 2 "--top: '-1' is not a number from 0 on" data inspect x --top -1
check 'one that is a number' complains 2 "'x' is not a number" train x --trace x
check 'bench on an unknown device' complains 2 '--device: gpu not in {AUTO,CPU,CUDA}' bench kernels --device gpu
small_step=(bench train --device CPU --layers 1 --model_dim 32 --head_dim 16 --expert_hidden_dim 32 --batch 1 --sequence_length 16 --steps 2)
check 'bench train' says 'launch gap   ' "${small_step[@]}" --gemm_side 64
check 'bench train in BF16, with capacity' says '"dtype": "BF16"' "${small_step[@]}" --gemm_side 64 --dtype BF16 --capacity_factor 1.25 --json
check 'bench train in an unknown type' complains 2 '--dtype: F16 not in {F32,F64,BF16}' "${small_step[@]}" --dtype F16
check 'bench train with a negative capacity' complains 2 "--capacity_factor: '-1' is not a number from 0 on" "${small_step[@]}" --capacity_factor -1
check 'bench train padded to no capacity' complains 2 '--pad_capacity without a capacity' "${small_step[@]}" --pad_capacity
small_kernels=(bench kernels --tokens 32 --model_dim 64 --expert_hidden_dim 64 --vocab_size 64 --repeats 1)
check 'bench kernels' says 'grouped_linear_forward' "${small_kernels[@]}" --device CPU --dtype F64
check 'bench kernels in BF16' says 'narrow' "${small_kernels[@]}" --device CPU --dtype BF16
check 'bench kernels as JSON' says '"share_of_floor": ' "${small_kernels[@]}" --device CPU --json
check 'bench kernels with odd heads' complains 2 'no multiple of --head_dim 48' "${small_kernels[@]}" --device CPU --head_dim 48
if ! "$WEFT" doctor --no_probe --json 2> /dev/null | grep -q '"GPU 0"'; then
  check 'bench kernels on a GPU that is not there' exits 1 "$WEFT" "${small_kernels[@]}" --device CUDA
  check 'it says so' grep -q '^error: --device = CUDA: ' "$TMP/stderr"
  check 'nor bench train' no_gpu_for train
  check 'nor bench policies' no_gpu_for policies "$tiny"
  check 'nor bench observability' no_gpu_for observability "$tiny"
  if "$WEFT" version --json | grep -q '"mpi": true'; then
    check 'nor bench allreduce' no_gpu_for allreduce
  else
    skip 'nor bench allreduce' 'this build has no MPI'
  fi
fi

cp "$WEFT" "$TMP/weft-alone"
alone() { (cd / && exits 0 "$TMP/weft-alone" "$@") && cat "$TMP/stdout" && grep -q 'costs from nominal CPU' "$TMP/stdout"; }
check 'a binary on its own has the nominal costs' alone train "$PWD/$tiny" --dry_run
check 'and plans with them' alone plan "$PWD/$tiny" --policy sequential
check 'config print' says 'model_dim: 64' config print "$tiny"
check 'config print with --set' says 'dtype: F64' config print "$tiny" --set train.dtype=F64 --set model.layers=3
check 'config print for ranks' says 'expert: 4' config print "$tiny" --set parallel.expert=4 --ranks 8
"$WEFT" config print "$tiny" > "$TMP/printed.textproto"
check 'what config print prints is a config that prints the same' \
  same "$(cat "$TMP/printed.textproto")" "$("$WEFT" config print "$TMP/printed.textproto")"
check 'config explain' says 'train.steps = 100' config explain train.steps
check 'config explain as JSON' says '"path": "train.steps"' config explain train.steps --json
check 'config explain of an unknown field' complains 2 "no field 'train.stpes'" config explain train.stpes

check 'a missing config' complains 74 "$TMP/none.textproto" config print "$TMP/none.textproto"
printf 'train {\n  stpes: 5\n}\n' > "$TMP/unknown.textproto"
check 'an unknown field' complains 2 "unknown.textproto:2:3: unknown field 'stpes'" config print "$TMP/unknown.textproto"
printf 'train { steps: 5 steps: 6 }\n' > "$TMP/twice.textproto"
check 'a repeated field' complains 2 "twice.textproto:1:18: field 'steps' is given twice" config print "$TMP/twice.textproto"
printf 'train { steps: "5" }\n' > "$TMP/type.textproto"
check 'a wrong type' complains 2 'type.textproto:1:16: Expected integer' config print "$TMP/type.textproto"
yes 'model {' 2> /dev/null | head -100000 > "$TMP/bomb.textproto"
check 'a nesting bomb' complains 2 'bomb.textproto:2:1' config print "$TMP/bomb.textproto"
check 'a bad --set' complains 2 "'x' is not a whole number" config print --set train.steps=x
check 'experts not divisible by EP' complains 2 'parallel.expert = 3: must divide model.moe.experts = 8' config print "$tiny" --set parallel.expert=3 --ranks 3 \
  --set train.global_batch=18
check 'ranks not divisible by EP' complains 2 'parallel.expert = 4: must divide the number of ranks, 2' config print "$tiny" --set parallel.expert=4 --ranks 2
check 'global_batch not a multiple' complains 2 'train.global_batch = 15' config print "$tiny" --set train.global_batch=15 --ranks 2
check 'several problems in one line' complains 2 '2 problems' config print "$tiny" --set train.global_batch=15 --set model.moe.top_k=9 --ranks 2

# one_error_from_ranks: four ranks with the same bad config say so once, and the exit status comes through.
one_error_from_ranks() {
  exits 2 mpirun --oversubscribe -n 4 "$WEFT" config print "$TMP/unknown.textproto" || return 1
  cat "$TMP/stderr"
  [[ $(grep -c '^error: ' "$TMP/stderr") == 1 && $(grep -c '^hint: ' "$TMP/stderr") == 1 ]] && ! grep -q '^error: rank' "$TMP/stderr"
}
# lone_error: only rank 3 fails; it names itself.
lone_error() {
  # shellcheck disable=SC2016  # expands on each rank
  exits 2 mpirun --oversubscribe -n 4 bash -c 'test "$OMPI_COMM_WORLD_RANK" != 3 || exec "$0" config print "$1"' "$WEFT" "$TMP/unknown.textproto" || return 1
  cat "$TMP/stderr"
  [[ $(grep -c '^error: rank 3: ' "$TMP/stderr") == 1 ]]
}
if "$WEFT" version --json | grep -q '"mpi": true'; then
  check 'the same error of four ranks is shown once' one_error_from_ranks
  check 'a rank that is alone with its error names itself' lone_error
else
  skip 'the same error of four ranks is shown once' 'this build has no MPI'
  skip 'a rank that is alone with its error names itself' 'this build has no MPI'
fi

finish
