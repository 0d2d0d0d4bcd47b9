#!/usr/bin/env bash
# weft report from outside: its figures are those of the run, its page draws them in a browser without a network, and what a
# run did not record is said. And what metrics.tensorboard and metrics.prometheus write.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OPENBLAS_NUM_THREADS=1

run=$TMP/run steps=6 ranks=1 launch=()
if "$WEFT" version --json | grep -q '"mpi": true'; then
  ranks=4
  launch=(mpirun --oversubscribe --mca mpi_yield_when_idle 0 -n 4)
  export WEFT_RANKS_PER_NODE=2
fi
# train OPTION...: a short run of the tiny config.
train() {
  "${launch[@]}" "$WEFT" train configs/train/tiny.textproto --progress never --set train.steps=$steps --set train.validate_sequences=4 \
    --set parallel.expert=$ranks --set schedule.policy=FSMOE "$@"
}
# array NAME [N]: the numbers of the N-th (first) list of that name in report.json, one a line; list: of all of them.
lists() { grep -oE "\"$1\":\[[^]]*\]" "$run/report.json" | sed -E 's/^[^[]*\[|\]$//g'; }
array() { lists "$1" | sed -n "${2:-1}p" | tr ',' '\n'; }
# (the first list of tokens is the curve's)
# figures KEY: what metrics.jsonl has of it, one line a step.
figures() { grep -oE "\"$1\": ?[-+0-9.eE]+" "$run/metrics.jsonl" | sed 's/.*: *//'; }
# equal A B: files with the same numbers, and with some.
equal() { [[ -s $1 ]] && paste "$1" "$2" && paste "$1" "$2" | awk 'NF != 2 || $1 + 0 != $2 + 0 { bad = 1 } END { exit bad }'; }
curve() { array "$1" > "$TMP/report.txt" && figures "$1" > "$TMP/run.txt" && equal "$TMP/report.txt" "$TMP/run.txt"; }
scalar() { grep -oE "\"$1\":[-+0-9.eE]+" "$run/report.json" | head -1 | cut -d: -f2; }
sum() { awk '{ n += $1 } END { printf "%.0f\n", n }'; }

check 'a run that records all there is' train --run_dir "$run" --trace 3 --set metrics.router_every=2 --set metrics.tensorboard=true \
  --set metrics.prometheus=true
check 'weft report' exits 0 "$WEFT" report "$run"
check 'it says where the page is' grep -qx "report: $run/report.html" "$TMP/stdout"
check 'and what was not recorded' grep -q '^not recorded: measured costs (weft profile' "$TMP/stdout"
check 'but not what was' bash -c "! grep -qE '^not recorded: .*(timeline|tokens of each expert|bytes sent)' '$TMP/stdout'"
for key in step loss lr grad_norm step_ms predicted_ms max_vio; do check "the curve of $key is that of metrics.jsonl" curve "$key"; done
figures val_loss > "$TMP/run.txt" && array loss 2 > "$TMP/report.txt"
check 'so is the validation loss' equal "$TMP/report.txt" "$TMP/run.txt"
check 'each expert has the tokens of its records' same \
  "$(grep -oE '"expert_tokens": ?[][0-9,]*' "$run/metrics.jsonl" | grep -oE '[0-9]+' | sum)" "$(lists tokens | tail -n +2 | tr ',' '\n' | sum)"
check 'the step is the one of prediction.json' same "$(grep -m1 -oE '"measured_ms": [0-9.]+' "$run/prediction.json" | cut -d' ' -f2)" "$(scalar measured_ms)"
tasks=$(grep -c '"ph": "X"' "$run/trace.json")
check 'the timelines have every task of the trace' same "$tasks" "$(grep -oE '\[[0-9]+,[0-9]+,[0-9]+,[0-9]+\.[0-9]+,[0-9]+\.[0-9]+,-?[0-9]+,-?[0-9]+,-?[0-9]+\]' "$run/report.json" | wc -l)"
if ((ranks > 1)); then
  sent=$(grep -oE '"sent_bytes":\[[][0-9,]*' "$run/traffic.json" | grep -oE '[0-9]+' | sum)
  check 'bytes by link add up to bytes by rank' same "$sent" "$(($(scalar intra_bytes) + $(scalar inter_bytes)))"
  check 'so do bytes by collective' same "$sent" "$(grep -oE '"by_collective":\{[^}]*' "$run/report.json" | grep -oE '[0-9]+' | sum)"
  check 'bytes went between nodes' test "$(scalar inter_bytes)" -gt 0
else
  skip 'bytes from rank to rank' 'this build has no MPI'
fi
check 'the environment has hosts, cores and the digest of the config' \
  grep -qE '"environment":\{.*"hosts":\["[^"]+.*"cores":[1-9].*"config_digest":"[0-9a-f]{16}"' "$run/report.json"
if ((ranks > 1)); then check 'and the version of MPI' grep -qE '"mpi":"[A-Za-z].*[0-9]' "$run/report.json"; else skip 'the version of MPI' 'this build has no MPI'; fi
check 'the page is smaller than 2 MiB' test "$(stat -c %s "$run/report.html")" -lt 2097152
check 'it asks no network' bash -c "! grep -qE 'https?://|<link|src=|@import' '$run/report.html'"
check '--json prints the report' exits 0 "$WEFT" report "$run" --out "$TMP/page.html" --json
check 'the same as in report.json' same "$(tr -d ' \n' < "$run/report.json")" "$(tr -d ' \n' < "$TMP/stdout")"
check '--out says where the page goes' cmp "$TMP/page.html" "$run/report.html"

# drawn PATTERN: how often the page has it once its scripts have run, outside the scripts.
drawn() { sed '/^<script>/,/<\/script>/d' "$TMP/dom.html" | grep -oE "$1" | wc -l; }
if command -v chromium > /dev/null; then
  # browse PAGE: what it is once its scripts have run.
  browse() {
    timeout 120 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$TMP/chromium" \
      --window-size=1280,900 --virtual-time-budget=2000 --dump-dom "file://$1" 2> "$TMP/chromium.log"
  }
  browse "$run/report.html" > "$TMP/dom.html"
  check 'a browser draws the page to its end' grep -q 'Made by weft report' "$TMP/dom.html"
  check 'a bar for each task' same "$tasks" "$(drawn '<rect class="task"')"
  check 'two bars for each stage' same "$((2 * $(grep -c '"stage"' "$run/prediction.json")))" "$(drawn '<rect class="(measured|predicted)"')"
  check 'a path for each curve' same 13 "$(drawn '<path class="series"')"
  cells=$((4 * 8 + 4 * 8 * 3 + (ranks > 1 ? ranks * ranks : 1)))
  check 'a cell for each expert, record and pair of ranks' same "$cells" "$(drawn '<rect class="cell"')"
  check 'each curve says that steps go across' same "$(drawn '<svg class="lines"')" "$(drawn '<text class="unit"[^>]*>step<')"
  check 'a mark for each validation' same "$(figures val_loss | wc -l)" "$(drawn '<circle [^>]*r="3.5"')"
  check 'the shades of the timeline are explained' same 3 "$(drawn 'opacity:[0-9.]+"></i>[a-z ]+: (forward|backward|update)<')"
  check 'and the sections' same 9 "$(drawn '<section id=')"
  { cat "$run/report.html" && echo '<script>const plot = document.getElementById("timeline-plot"), box = plot.getBoundingClientRect();
    for (let i = 0; i < 12; i += 1) plot.dispatchEvent(new WheelEvent("wheel", { deltaY: -100, clientX: box.right - 4, clientY: box.top + 40, cancelable: true }));</script>'; } > "$TMP/zoom.html"
  browse "$TMP/zoom.html" > "$TMP/dom.html"
  check 'the wheel zooms into the end of the step' bash -c "grep -q 'id=\"timeline-range\">[1-9]' '$TMP/dom.html'"
  check 'where there are fewer tasks' test "$(drawn '<rect class="task"')" -lt "$((tasks / 2))"
else
  skip 'the page in a browser' 'there is no chromium; scripts/setup --tests installs it'
fi

check 'metrics.prom has the last step' grep -qx "weft_step{run=\"tiny\"} $steps" "$run/metrics.prom"
prometheus_loss() { sed -nE 's/^weft_loss\{run="tiny"\} //p' "$run/metrics.prom" > "$TMP/a.txt" && figures loss | tail -1 > "$TMP/b.txt" && equal "$TMP/a.txt" "$TMP/b.txt"; }
check 'and its loss' prometheus_loss
check 'the event file has each step' same "$steps" "$(cat "$run"/tb/events.out.tfevents.* | grep -aoE 'loss_metrics/global_avg_loss' | wc -l)"

plain=$TMP/plain
check 'a run that records as little as can be' train --run_dir "$plain"
check 'its report' exits 0 "$WEFT" report "$plain"
check 'says how to record a timeline' grep -q 'weft train --trace 10' "$TMP/stdout"
check 'and the router' grep -q 'metrics.router_every=10' "$TMP/stdout"
check 'it writes no files of other systems' test ! -e "$plain/tb" -a ! -e "$plain/metrics.prom"
rm "$plain/prediction.json" "$plain/traffic.json" "$plain/plan.textproto"
check 'the report of a run that was killed' exits 0 "$WEFT" report "$plain"
check 'says what is missing' grep -q '^not recorded: bytes sent' "$TMP/stdout"
for damage in '{"ranks": 4' '{"ranks": 4}' '[]'; do
  echo "$damage" > "$plain/traffic.json"
  check "traffic.json of $damage is refused" exits 2 "$WEFT" report "$plain"
  check 'by its path' grep -q "^error: $plain/traffic.json" "$TMP/stderr"
done
rm "$plain/traffic.json"
for damage in 'prediction.json {}' 'prediction.json []' 'env.json {"ranks": 0}' 'env.json {"ranks": "4"}'; do
  file=${damage%% *}
  [[ ! -e $plain/$file ]] || cp "$plain/$file" "$TMP/sound"
  echo "${damage#* }" > "$plain/$file"
  check "so is $damage" exits 2 "$WEFT" report "$plain"
  check "by its name" grep -q "^error: .*$file" "$TMP/stderr"
  rm "$plain/$file"
  [[ ! -e $TMP/sound ]] || mv "$TMP/sound" "$plain/$file"
done
cp "$plain/metrics.jsonl" "$TMP/metrics"
check 'a page does not replace a file of the run' exits 2 "$WEFT" report "$plain" --out "$plain/metrics.jsonl"
check 'which stays as it was' cmp "$TMP/metrics" "$plain/metrics.jsonl"
echo 'an earlier report' > "$plain/report.json"
check 'a page in a folder that is not there is an I/O error' exits 74 "$WEFT" report "$plain" --out "$TMP/nowhere/page.html"
check 'by the name of the folder' grep -q "^error: .*there is no folder $TMP/nowhere" "$TMP/stderr"
check 'and nothing is written' same 'an earlier report' "$(cat "$plain/report.json")"
for lines in 0 1; do
  head -n $lines "$TMP/metrics" > "$plain/metrics.jsonl"
  check "a report of $lines lines of metrics" exits 0 "$WEFT" report "$plain"
  check 'says that there are no steps' grep -q '^no steps yet' "$TMP/stdout"
done
if command -v chromium > /dev/null; then
  browse "$plain/report.html" > "$TMP/dom.html"
  check 'so does the page, which is drawn to its end' same '1 1' "$(drawn 'id="no-steps"') $(drawn 'Made by weft report')"
else
  skip 'the page of a run without steps' 'there is no chromium'
fi
sed '1s/"schema": 1/"schema": 9/' "$TMP/metrics" > "$plain/metrics.jsonl"
check 'metrics of another schema are refused' exits 2 "$WEFT" report "$plain"
check 'with what was found and what is known' grep -q "^error: $plain/metrics.jsonl: schema 9, this weft knows schema 1" "$TMP/stderr"

# Replanning: from a plan of eight chunks, each with the start-up of its own, to a better one.
check 'a step past the end' exits 0 train --run_dir "$TMP/chunks" --set train.steps=1 --set schedule.policy=MANUAL --set schedule.forward_chunks=8 \
  --set schedule.backward_chunks=8 --trace 9
check 'is not traced, which is said' grep -q '^warning: --trace 9: the run ends at step 1,' "$TMP/stderr"
run=$TMP/replanned
check 'a run that replans' train --run_dir "$run" --set schedule.plan="$TMP/chunks/plan.textproto" --set schedule.policy=SEQUENTIAL \
  --set schedule.replan=3 --set train.steps=60 --set train.validate_every=1
check 'tries another plan' grep -q '"action":"try"' "$run/replans.jsonl"
changes=$(grep -cE '"action":"(try|give_up)"' "$run/replans.jsonl")
check 'keeps costs and plan of each change' same "$changes $changes" \
  "$(find "$run/replans" -name '*.costs.textproto' | wc -l) $(find "$run/replans" -name '*.plan.textproto' | wc -l)"
check 'and has the last one in force' cmp "$run/plan.textproto" "$(find "$run/replans" -name '*.plan.textproto' | sort | tail -1)"
check 'its report' exits 0 "$WEFT" report "$run"
check 'says what it saw' grep -qE "^replanning: $(grep -c . "$run/replans.jsonl") looks?, $changes changes? of plan" "$TMP/stdout"
look=$(tail -1 "$run/replans.jsonl")
step=$(grep -oE '"step":[0-9]+' <<< "$look" | cut -d: -f2)
when=after
[[ $look != *'"action":"keep"'* ]] || when=before
source_of() { grep -oE "$1: ?\"measured steps of this run up to step [0-9]+; at its start nominal CPU" "$2" | grep -oE 'step [0-9]+' | head -1; }
check 'names the costs in force and where they are from' same "step $step" "$(source_of '"source"' "$run/report.json")"
check 'as do its figures of the stages' same "step $step" "$(source_of '"cost_source"' "$run/prediction.json")"
check 'with the points they stand on' grep -qE '"source":"measured steps of this run[^]]*"points":\[\[' "$run/report.json"
grep -oE "\"$when\":[0-9.e+-]+" <<< "$look" | cut -d: -f2 > "$TMP/a.txt"
sed -nE 's/.*"plan":\{"policy":[^{]*"predicted_ms":([0-9.e+-]+).*/\1/p' "$run/report.json" > "$TMP/b.txt"
check 'predicts what the last look did' equal "$TMP/a.txt" "$TMP/b.txt"
grep -m1 -oE '"predicted_ms": [0-9.e+-]+' "$run/prediction.json" | cut -d' ' -f2 > "$TMP/b.txt"
check 'as does the summary of the run' equal "$TMP/a.txt" "$TMP/b.txt"
figures predicted_ms | tail -1 > "$TMP/b.txt"
check 'and the last step' equal "$TMP/a.txt" "$TMP/b.txt"
check 'these costs plan another run' exits 0 "${launch[@]}" "$WEFT" train configs/train/tiny.textproto --dry_run --set parallel.expert=$ranks \
  --set schedule.profile="$run/costs.textproto"
check 'and say where they are from' grep -q 'costs from measured steps of this run' "$TMP/stdout"
if command -v chromium > /dev/null; then
  browse "$run/report.html" > "$TMP/dom.html"
  check 'the page has a row for each look' same "$(grep -c . "$run/replans.jsonl")" \
    "$(tr -d '\n' < "$TMP/dom.html" | grep -oE '<table id="replans">.*</table>' | sed 's/<\/table>.*//' | grep -oE '<tr><td' | wc -l)"
  check 'many validations are a line without marks' same '0' "$(drawn '<circle [^>]*r="3.5"')"
else
  skip 'the page of a run that replanned' 'there is no chromium'
fi
check 'a run that starts over without replanning' train --run_dir "$run" --resume none --set train.steps=2
check 'leaves nothing of it' test ! -e "$run/replans.jsonl" -a ! -e "$run/costs.textproto" -a ! -e "$run/replans"
run=$TMP/run
check 'a run that starts over in a folder' train --run_dir "$run" --resume none --set train.steps=2
check 'leaves nothing of the one before' test ! -e "$run/trace.json" -a ! -e "$run/report.json"
check 'a folder without a run is an I/O error' exits 74 "$WEFT" report "$TMP/none"

check 'what recording costs is measured' exits 0 "${launch[@]}" "$WEFT" bench observability configs/train/tiny.textproto --set parallel.expert=$ranks \
  --run_dir "$TMP/cost" --rounds 2 --json
check 'next to a run that records nothing' same 'nothing metrics everything' "$(grep -oE '"(nothing|metrics|everything)": \{' "$TMP/stdout" | grep -oE '[a-z]+' | xargs)"
check 'metrics are recorded' same 4 "$(grep -c '"loss"' "$TMP/cost/metrics/metrics.jsonl")"
check 'and events where everything is' same 'metrics.prom tb' "$(cd "$TMP/cost/everything" && ls -d metrics.prom tb | xargs)"
check 'but not elsewhere' test ! -e "$TMP/cost/metrics/tb"
finish
