#!/usr/bin/env bash
# weft profile from outside: a profile that training plans with, and profiles that are refused.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OPENBLAS_NUM_THREADS=1

tiny=configs/train/tiny.textproto
short=(--set train.steps=4 --set train.validate_sequences=4 --progress never)
any=(--set schedule.profile_min_r_squared=-1e9) # a busy machine must not fail the test

check 'weft profile on one rank' exits 0 "$WEFT" profile "$tiny" --out "$TMP/one.textproto" --time_limit 1 --json
check 'its table is one JSON document with points' grep -q '"time_us"' "$TMP/stdout"
check 'and with the number of sizes' grep -q '"sizes"' "$TMP/stdout"
check 'fits that explain less than is asked for are named at once' exits 0 "$WEFT" profile "$tiny" --out "$TMP/poor.textproto" --time_limit 1 \
  --set schedule.profile_min_r_squared=1
check 'with R squared and the limit' grep -Eq '^warning: [a-z_]+\([a-z]+\).*, [a-z_]+: R squared is [-0-9.e]+, under the limit of 1: weft train and' "$TMP/stderr"
follow=$(sed -nE 's/^hint: .* (--set schedule.profile_min_r_squared=[-0-9.]+)$/\1/p' "$TMP/stderr")
check 'training refuses that profile' exits 2 "$WEFT" train "$tiny" --dry_run --set schedule.profile="$TMP/poor.textproto" \
  --set schedule.profile_min_r_squared=1
check 'with the same hint' grep -qF -- "$follow" "$TMP/stderr"
# shellcheck disable=SC2086  # two words
check 'which, followed, is enough' exits 0 "$WEFT" train "$tiny" --dry_run --set schedule.profile="$TMP/poor.textproto" ${follow:-no hint}
check 'training plans with it' exits 0 "$WEFT" train "$tiny" --run_dir "$TMP/run" "${short[@]}" "${any[@]}" --trace 2 \
  --set schedule.profile="$TMP/one.textproto"
check 'it prints predicted next to measured' grep -Eq '^step +[0-9.]+ +[0-9.]+ +[-+][0-9.]+%' "$TMP/stdout"
check 'and stores them' grep -q '"measured_ms"' "$TMP/run/prediction.json"
check 'and the profile' cmp "$TMP/one.textproto" "$TMP/run/profile.textproto"
check 'and the trace' grep -q '"simulated"' "$TMP/run/trace.json"
check 'a dry run predicts from it' exits 0 "$WEFT" train "$tiny" --dry_run "${any[@]}" --set schedule.profile="$TMP/one.textproto"
check 'and says so' grep -q 'profile of 1 rank on' "$TMP/stdout"

refused() { exits "$1" "$WEFT" train "$tiny" --dry_run "${@:3}" && cat "$TMP/stderr" && grep -q "^error: .*$2" "$TMP/stderr"; }
sed '0,/beta_us: /s/beta_us: /beta_us: -/' "$TMP/one.textproto" > "$TMP/negative.textproto"
check 'a negative beta is refused' refused 2 'beta_us' "${any[@]}" --set schedule.profile="$TMP/negative.textproto"
check 'a profile that lacks collectives is refused' refused 2 'has no family for' "${any[@]}" --ranks 4 \
  --set parallel.expert=4 --set schedule.profile="$TMP/one.textproto"
check 'a fit worse than the bound is refused' refused 2 'R squared is' --set schedule.profile_min_r_squared=1 \
  --set schedule.profile="$TMP/one.textproto"
check 'a missing profile is refused' refused 74 'none.textproto' --set schedule.profile="$TMP/none.textproto"
sed 's/ ranks: 1$/ ranks: 2/' "$TMP/one.textproto" > "$TMP/two.textproto"
"$WEFT" plan "$tiny" --ranks 1 --policy sequential "${any[@]}" --profile "$TMP/two.textproto" > /dev/null 2> "$TMP/warning"
check 'a profile of other ranks is used with a warning' grep -q '^warning: .*was measured on 2 ranks' "$TMP/warning"

if "$WEFT" version --json | grep -q '"mpi": true'; then
  check 'weft profile on two ranks' mpirun --oversubscribe --mca mpi_yield_when_idle 0 -n 2 "$WEFT" profile "$tiny" \
    --set parallel.expert=2 --out "$TMP/two.textproto" --time_limit 1
  check 'names the ranks' grep -q 'ranks: 2' "$TMP/two.textproto"
  check 'prices all-to-alls' grep -q 'stage: "dispatch"' "$TMP/two.textproto"
else
  skip 'weft profile on two ranks' 'this build has no MPI'
fi

finish
