#!/usr/bin/env bash
# scripts/vcluster: several nodes on one machine, and a step whose streams overlap on their links.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OPENBLAS_NUM_THREADS=1

shape=(--nodes 2 --ranks_per_node 2 --intra 500mbit --inter 100mbit)
cluster() { scripts/vcluster "${shape[@]}" -- "$@"; }
namespaces() { ip netns list 2> /dev/null | grep -c "^weft-vc$1-"; }
gone() { # gone PID: its namespaces go within ten seconds
  local i
  for i in {1..100}; do
    [[ $(namespaces "$1") == 0 ]] && return 0
    sleep 0.1
  done
  ip netns list
  return 1
}

check 'no command is refused' exits 2 scripts/vcluster --nodes 2 --ranks_per_node 2 --intra 1gbit --inter 1gbit
check 'a rate that is none is refused' exits 2 scripts/vcluster --nodes 2 --ranks_per_node 2 --intra fast --inter 1gbit -- true
check 'by its name' grep -q "'fast' is no rate" "$TMP/stderr"
for rate in 0gbit 0.0mbit .bit 1.2.3mbit 999bit; do
  check "so is $rate" exits 2 scripts/vcluster --nodes 2 --ranks_per_node 2 --intra 1gbit --inter $rate -- true
  check 'by its name' grep -q "'$rate' is no rate" "$TMP/stderr"
done
check 'a delay that is none is refused' exits 2 scripts/vcluster --nodes 2 --ranks_per_node 2 --intra 1gbit --inter 1gbit --delay . -- true
help_from() { (cd "$1" && "$2" "${@:3}") > "$TMP/stdout" && grep -q -- '--ranks_per_node R' "$TMP/stdout"; }
check '--help is the head of the script' help_from . scripts/vcluster --help
check 'wherever it is called from' help_from "$(dirname "$PWD")" "$(basename "$PWD")/scripts/vcluster" --help
check 'and whatever stands before it' help_from . scripts/vcluster --nodes --help -- true

reason=
((EUID == 0)) || reason='needs root'
[[ -n $reason ]] || { command -v ip && command -v tc; } > /dev/null || reason='there is no iproute2'
[[ -n $reason ]] || unshare --net true 2> /dev/null || reason='no network namespaces here'
[[ -n $reason ]] || "$WEFT" version --json | grep -q '"mpi": true' || reason='this build has no MPI'
if [[ -n $reason ]]; then
  skip 'ranks on a virtual cluster' "$reason"
  finish
  exit
fi

cluster sh -c 'echo "$OMPI_COMM_WORLD_RANK of $WEFT_RANKS_PER_NODE at $(ip -o -4 addr show eth0 | grep -o "10.213[.0-9]*" | head -1)"' \
  2> /dev/null | sort > "$TMP/ranks"
check 'each rank has an address of its own' same "$(printf '0 of 2 at 10.213.0.1\n1 of 2 at 10.213.0.2\n2 of 2 at 10.213.1.1\n3 of 2 at 10.213.1.2')" \
  "$(cat "$TMP/ranks")"
vcluster=$PWD/scripts/vcluster
check 'it runs where the caller is' same "$TMP" "$(cd "$TMP" && "$vcluster" --nodes 1 --ranks_per_node 1 --intra 1gbit --inter 1gbit -- pwd 2> /dev/null)"
check "the command's status is the script's" exits 7 cluster sh -c 'exit 7'
check '--help behind -- is the command'"'"'s' same 'weft train' "$(scripts/vcluster --nodes 1 --ranks_per_node 1 --intra 1gbit --inter 1gbit -- \
  "$WEFT" train --help 2> /dev/null | grep -oE '^Usage: weft train' | cut -d' ' -f2-)"

scripts/vcluster "${shape[@]}" -- sleep 60 > /dev/null 2>&1 &
first=$!
scripts/vcluster "${shape[@]}" -- sleep 60 > /dev/null 2>&1 &
second=$!
for _ in {1..100}; do [[ $(namespaces $first) == 5 && $(namespaces $second) == 5 ]] && break; sleep 0.1; done
sleep 1
check 'two clusters side by side' same '5 5' "$(namespaces $first) $(namespaces $second)"
kill -TERM $first
check 'one that is ended cleans up' gone $first
check 'and leaves the other alone' same 5 "$(namespaces $second)"
kill -KILL $second
check 'after kill -9, a watcher does' gone $second
check '--clean has nothing left to do' exits 0 scripts/vcluster --clean

tiny=(configs/train/tiny.textproto --set train.dtype=F64 --set parallel.expert=2 --set parallel.expert_shard=2 --set model.model_dim=128 --set train.global_batch=8
  --set train.validate_sequences=2)
losses() { grep -oE '"loss": ?[-+0-9.eE]+' "$1/metrics.jsonl" | cut -c1-20; }
check 'training on two nodes' exits 0 cluster "$WEFT" train "${tiny[@]}" --set train.steps=2 --progress never --run_dir "$TMP/nodes"
check 'knows that there are two' grep -q '"nodes": 2' "$TMP/nodes/env.json"
check 'training without them' exits 0 mpirun --oversubscribe --mca mpi_yield_when_idle 0 -n 4 "$WEFT" train "${tiny[@]}" --set train.steps=2 \
  --progress never --run_dir "$TMP/flat"
check 'has the same losses' same "$(losses "$TMP/flat")" "$(losses "$TMP/nodes")"

check 'policies take turns' exits 0 cluster "$WEFT" bench policies "${tiny[@]}" --set schedule.profile_min_r_squared=-1e9 --rounds 2 --warmup 1 \
  --profile configs/clusters/nominal_cpu.textproto --policy sequential,fsmoe,weft --json
cp "$TMP/stdout" "$TMP/policies.json"
# of POLICY KEY: a figure of the JSON document, whose keys are in a fixed order, each on a line.
of() { sed -n "/\"$1\": {/,/\"tasks\"/s/.*\"$2\": \([0-9.e+-]*\).*/\1/p" "$TMP/policies.json"; }
more() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }' || { echo "$1 is not more than $2"; return 1; }; }
check 'the losses are equal' more 1e-10 "$(sed -n 's/.*"loss_difference": \([0-9.e+-]*\).*/\1/p' "$TMP/policies.json")"
for pair in compute_intra compute_inter intra_inter; do
  check "weft runs $pair at once" more "$(of weft $pair)" 1
  check "sequential does not" same 0.0 "$(of sequential $pair)"
done
finish
