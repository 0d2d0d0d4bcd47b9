# shellcheck shell=bash
# scripts/common.sh - sourced by the other scripts: where we are, and how we speak.
# Leaves the shell in the repository root. Messages go to standard error, results to standard output.

set -euo pipefail
export LC_ALL=C.UTF-8  # decimal points and English messages, whatever the user's locale
[[ $0 == /* ]] && SCRIPT=$0 || SCRIPT=$PWD/$0  # before the folder changes, for usage
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() { printf '==> %s\n' "$*" >&2; }

# die MESSAGE [HINT [EXIT_CODE]]: the two lines every error of Weft has, then out.
die() {
  printf 'error: %s\n' "$1" >&2
  [[ -z ${2:-} ]] || printf 'hint: %s\n' "$2" >&2
  exit "${3:-1}"
}

# usage: prints the comment block at the top of the calling script.
usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$SCRIPT"; }

num_cores() { nproc 2> /dev/null || getconf _NPROCESSORS_ONLN; }

# How ranks are started on one machine: more ranks than cores, and root allowed (containers). Yielding off: a waiting
# rank sleeps by itself (see comm/), and Open MPI's yielding would cost milliseconds per message.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
# shellcheck disable=SC2034  # used by the scripts that source this one
MPIRUN=(mpirun --oversubscribe --mca mpi_yield_when_idle 0)
