#!/usr/bin/env bash
# weft doctor from outside: what it finds alone and under mpirun, and that it warns of what costs time.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
unset OPENBLAS_NUM_THREADS OMPI_MCA_btl OMPI_MCA_mpi_yield_when_idle

# finds PATTERN COMMAND...: it ends with 0, and a line matches.
finds() {
  exits 0 "${@:2}" && cat "$TMP/stdout" "$TMP/stderr" && grep -qE -- "$1" "$TMP/stdout"
}
finds_no() {
  exits 0 "${@:2}" && cat "$TMP/stdout" && ! grep -qE -- "$1" "$TMP/stdout"
}
ranks() { mpirun --oversubscribe -n "$1" "${@:2}"; }

check 'alone' finds '^ok +processor ' "$WEFT" doctor
check 'it counts' grep -qE '^[0-9]+ ok, [0-9]+ warn, 0 fail$' "$TMP/stdout"
check 'it measured memory' grep -qE '^ok +memory bandwidth +[0-9.]+ GB/s' "$TMP/stdout"
check 'every warning says what to do' awk '/^(warn|fail)/ { open = 1; next } open { if (!/^ +-> /) bad = 1; open = 0 } END { exit bad || open }' "$TMP/stdout"
check 'without probes' finds_no 'bandwidth' "$WEFT" doctor --no_probe
check 'as JSON' finds '"what": "processor"' "$WEFT" doctor --no_probe --json
if command -v python3 > /dev/null; then
  check 'which parses' python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert d["ok"] == sum(f["health"] == "ok" for f in d["findings"])' "$TMP/stdout"
else
  skip 'which parses' 'no python3'
fi
if "$WEFT" version --json | grep -q '"mpi": true'; then
  check 'two ranks' finds '^ok +links, intra +all-to-all of 2 ranks' ranks 2 "$WEFT" doctor
  check 'it names Open MPI' grep -qE '^ok +MPI +Open MPI v' "$TMP/stdout"
  check 'once' same 1 "$(grep -c processor "$TMP/stdout")"
  check 'ranks on more threads than cores' env OPENBLAS_NUM_THREADS=64 bash -c "$(declare -f finds exits ranks); TMP=$TMP finds '^warn +BLAS threads +64 in each of 2' ranks 2 $WEFT doctor --no_probe"
  check 'no such warning when it is set' env OPENBLAS_NUM_THREADS=1 bash -c "$(declare -f finds_no exits ranks); TMP=$TMP finds_no 'BLAS threads' ranks 2 $WEFT doctor --no_probe"
  check 'yielding ranks' finds '^warn +MPI yields when idle' mpirun --oversubscribe --mca mpi_yield_when_idle 1 -n 2 "$WEFT" doctor --no_probe
  check 'ranks without shared memory' finds '^warn +MPI transports .*without shared memory' mpirun --oversubscribe --mca btl self,tcp -n 2 "$WEFT" doctor --no_probe
  check 'more ranks than cores' finds "^warn +ranks on a machine +$(($(nproc) + 1)) on" ranks $(($(nproc) + 1)) "$WEFT" doctor --no_probe
  check 'two nodes' finds '^ok +links, inter +all-to-all of 2 ranks' mpirun --oversubscribe -x WEFT_RANKS_PER_NODE=1 -n 2 "$WEFT" doctor
  check 'are counted' grep -qE '^ok +ranks +2 ranks on 2 nodes' "$TMP/stdout"
else
  skip 'ranks' 'this build has no MPI'
fi
finish
