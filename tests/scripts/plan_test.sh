#!/usr/bin/env bash
# weft plan, and training under every policy and under plan files, from outside.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OPENBLAS_NUM_THREADS=1

tiny=configs/train/tiny.textproto
layout=(--set train.dtype=F64 --set train.steps=3 --set train.validate_sequences=2 --set parallel.expert=2)
policies=(sequential tutel tutel_improved pipemoe_lina fsmoe_no_iio fsmoe flowmoe weft)

# train RANKS RUN_DIR OPTION...
train() {
  local ranks=$1 run=$2
  shift 2
  mpirun --oversubscribe --mca mpi_yield_when_idle 0 -n "$ranks" "$WEFT" train "$tiny" --progress never --run_dir "$run" "${layout[@]}" "$@"
}

# close RUN_A RUN_B: losses and gradient norms equal to 1e-10 relative.
figures() { grep -oE '"(loss|grad_norm)": ?[-+0-9.eE]+' "$1/metrics.jsonl" | sed 's/.*: *//'; }
close() {
  paste <(figures "$1") <(figures "$2") | awk '
    NF != 2 { bad = 1 }
    { d = $1 - $2; m = $1 < 0 ? -$1 : $1; if (d < 0) d = -d; if (!(d <= 1e-10 * m)) bad = 1 }
    END { exit bad || NR == 0 }'
}

check 'weft plan prints a table' "$WEFT" plan "$tiny" --ranks 4 --set parallel.expert=2
"$WEFT" plan "$tiny" --ranks 4 "${layout[@]}" --json --out "$TMP/plan.textproto" > "$TMP/plan.json" 2> /dev/null
for policy in "${policies[@]}"; do check "the plans of all policies: $policy" grep -q "\"$policy\": {" "$TMP/plan.json"; done
check 'and why one was chosen' grep -q '"reasons"' "$TMP/plan.json"
check 'the plan is written' grep -q 'made_for: "ranks = 4"' "$TMP/plan.textproto"
check 'with the peak of the fullest rank' grep -q '^peak_memory_bytes: [1-9]' "$TMP/plan.textproto"
check 'a policy that is not there' exits 2 "$WEFT" plan "$tiny" --policy weftt
check 'names the nearest' grep -q 'did you mean weft' "$TMP/stderr"
check 'a memory limit that nothing fits' exits 2 "$WEFT" plan "$tiny" --ranks 4 --set schedule.memory_limit_mib=0.5
check 'says what the smallest plan needs' grep -q 'the smallest' "$TMP/stderr"

# figure KEY: what the JSON in $TMP/dry.json has of it.
figure() { sed -nE "s/.*\"$1\": \"?([^\",]*)\"?,?\$/\1/p" "$TMP/dry.json" | head -1; }
dry_run() { "$WEFT" train "$tiny" --dry_run --json "${layout[@]}" "$@" > "$TMP/dry.json"; }
check 'a dry run under a plan file' dry_run --ranks 4 --set schedule.plan="$TMP/plan.textproto"
check 'shows that plan' same "$(sed -n 's/^policy: "\(.*\)"/\1/p' "$TMP/plan.textproto")" "$(figure policy)"
check 'which is not that of the config' test sequential != "$(figure policy)"
check 'and its time' same "$(sed -nE 's/.*"predicted_ms": ([0-9.e]+),?/\1/p' "$TMP/plan.json" | sort -g | head -1)" "$(figure predicted_ms)"
check 'a dry run on other ranks than the plan was made for' exits 2 dry_run --ranks 2 --set schedule.plan="$TMP/plan.textproto"
check 'says what does not fit' grep -q 'ranks = 4, and this is ranks = 2' "$TMP/stderr"
check 'a dry run of a plan above the memory limit' exits 2 dry_run --ranks 4 --set schedule.plan="$TMP/plan.textproto" --set schedule.memory_limit_mib=0.5
check 'says so as training does' grep -q 'more than the 524288 of schedule.memory_limit_mib' "$TMP/stderr"
check 'a plan for two nodes' "$WEFT" plan "$tiny" --ranks 4 --ranks_per_node 2 "${layout[@]}" --out "$TMP/nodes.textproto"
check 'is not one for one' exits 2 dry_run --ranks 4 --set schedule.plan="$TMP/nodes.textproto"
check 'but for two' dry_run --ranks 4 --ranks_per_node 2 --set schedule.plan="$TMP/nodes.textproto"
check 'a plan overrides train.recompute' exits 0 dry_run --ranks 4 --set schedule.plan="$TMP/plan.textproto" --set train.recompute=FULL
check 'and says so' grep -q 'warning: the plan overrides train.recompute, which is full: it has none' "$TMP/stderr"
padding=(--set model.moe.capacity_factor=1.25 --set model.moe.gate=gshard)
check 'a plan that pads' "$WEFT" plan "$tiny" --ranks 4 "${layout[@]}" "${padding[@]}" --set schedule.pad_capacity=ALWAYS --out "$TMP/padded.textproto"
check 'overrides schedule.pad_capacity' exits 0 dry_run --ranks 4 "${padding[@]}" --set schedule.pad_capacity=NEVER --set schedule.plan="$TMP/padded.textproto"
check 'and says so' grep -q 'warning: the plan overrides schedule.pad_capacity = NEVER: it pads' "$TMP/stderr"
check 'but not when it is as asked for' exits 0 dry_run --ranks 4 "${padding[@]}" --set schedule.pad_capacity=ALWAYS --set schedule.plan="$TMP/padded.textproto"
check 'then it says nothing' same 0 "$(grep -c warning "$TMP/stderr")"

check 'the step of a config on a cluster that is not there' "$WEFT" simulate --config "$tiny" --set parallel.expert=8 --set train.global_batch=64 \
  --nodes 4 --gpus_per_node 4 --cluster configs/clusters/h100_nvlink_ib400.textproto
check 'has memory and time for worst-case routing' grep -q '^worst case' <("$WEFT" simulate --config "$tiny" --set parallel.expert=4 --nodes 2 \
  --gpus_per_node 2 --policy fsmoe)

if "$WEFT" version --json | grep -q '"mpi": true'; then
  check 'four ranks, the config as it stands' train 4 "$TMP/base"
  for policy in "${policies[@]}"; do
    check "training under $policy" train 4 "$TMP/$policy" --set schedule.policy="${policy^^}"
    check "$policy: the same numbers" close "$TMP/base" "$TMP/$policy"
  done
  check 'training under a plan file' train 4 "$TMP/file" --set schedule.plan="$TMP/plan.textproto"
  check 'the same numbers' close "$TMP/base" "$TMP/file"
  check 'training under a plan with another recompute' exits 0 train 4 "$TMP/recompute" --set schedule.plan="$TMP/plan.textproto" --set train.recompute=FULL
  check 'says so once' same 1 "$(grep -c 'the plan overrides train.recompute' "$TMP/stderr")"
  check 'the run keeps the plan' same "$(grep digest "$TMP/plan.textproto")" "$(grep digest "$TMP/file/plan.textproto")"
  check 'a plan for other ranks is refused' exits 2 train 2 "$TMP/refused" --set schedule.plan="$TMP/plan.textproto"
  check 'with the difference' grep -q 'ranks = 4, and this is ranks = 2' "$TMP/stderr"
  check 'once' same 1 "$(grep -c '^error:' "$TMP/stderr")"
  check 'a plan for another model is refused' exits 2 train 4 "$TMP/refused" --set model.layers=2 --set schedule.plan="$TMP/plan.textproto"
  check 'with the model in words' grep -q 'model.layers = 4, and this is model.layers = 2' "$TMP/stderr"
  limit() { echo $(($(sed -n 's/^peak_memory_bytes: //p' "$TMP/plan.textproto") $1)) | awk '{ printf "%.6f", $1 / 1048576 }'; }
  check 'a plan that just fits the memory' train 4 "$TMP/fits" --set schedule.plan="$TMP/plan.textproto" --set schedule.memory_limit_mib="$(limit +64)"
  check 'its limit and peak are kept' grep -q '^memory_limit_bytes: [1-9]' "$TMP/fits/plan.textproto"
  check 'a plan that needs more memory than the job has' exits 2 train 4 "$TMP/refused" --set schedule.plan="$TMP/plan.textproto" \
    --set schedule.memory_limit_mib="$(limit -64)"
  check 'with both figures and the rank' grep -qE 'needs [0-9]+ bytes on rank [0-3], more than the [0-9]+ of' "$TMP/stderr"
  check 'by one error' same 1 "$(grep -c '^error:' "$TMP/stderr")"
  sed 's/^issue_order: \[0, 1/issue_order: [1, 0/' "$TMP/plan.textproto" > "$TMP/edited.textproto"
  check 'a plan edited by hand is refused' exits 2 train 4 "$TMP/refused" --set schedule.plan="$TMP/edited.textproto"
  check 'by its digest' grep -q 'digest' "$TMP/stderr"
  check 'a memory limit that nothing fits ends every rank' exits 2 train 4 "$TMP/refused" --set schedule.policy=WEFT --set schedule.memory_limit_mib=0.5
else
  skip 'training under every policy' 'this build has no MPI'
fi
finish
