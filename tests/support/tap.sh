# shellcheck shell=bash
# tests/support/tap.sh - sourced by tests/scripts/*_test.sh: cases of a shell test, in TAP (scripts/test reads it).
# Leaves the shell in the repository root, with $WEFT, the command, and $TMP, a folder that goes away.
#
#   check NAME COMMAND...     the case passes when the command succeeds; its output goes to the log when it does not
#   skip NAME REASON
#   finish                    last line: prints the plan

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
export LC_ALL=C.UTF-8
WEFT=${WEFT:-$PWD/build/weft}
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
tap_cases=0

check() {
  local name=$1
  shift
  tap_cases=$((tap_cases + 1))
  if "$@" > "$TMP/tap.log" 2>&1; then
    echo "ok - $name"
  else
    echo "not ok - $name"
    { echo "--- $name: $*" && cat "$TMP/tap.log"; } >&2
  fi
}

skip() {
  tap_cases=$((tap_cases + 1))
  echo "ok - $1 # SKIP $2"
}

# same EXPECTED ACTUAL: equal strings.
same() { [[ $1 == "$2" ]] || { printf 'expected:\n%s\nactual:\n%s\n' "$1" "$2" && return 1; }; }

# exits STATUS COMMAND...: the command ends with this status; its standard error is left in $TMP/stderr.
exits() {
  local expected=$1 actual=0
  shift
  "$@" > "$TMP/stdout" 2> "$TMP/stderr" || actual=$?
  ((actual == expected)) || { echo "exit status $actual, not $expected" && cat "$TMP/stderr" && return 1; }
}

finish() { echo "1..$tap_cases"; }
