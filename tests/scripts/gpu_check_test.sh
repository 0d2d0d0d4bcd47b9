#!/usr/bin/env bash
# scripts/gpu_check from outside: without a GPU, and with a weft that claims one and the test program of the emulated GPU.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"

build=$(dirname "$WEFT")
check 'bad usage' exits 2 scripts/gpu_check --seconds
if "$WEFT" doctor --no_probe --json 2> /dev/null | grep -q '"what": "GPU 0"'; then
  skip 'without a GPU' 'there is one'
else
  mkdir -p "$TMP/none/scripts" && cp scripts/gpu_check scripts/catch_results.awk "$TMP/none/scripts/" && ln -s "$build" "$TMP/none/build"
  check 'without a GPU it ends with 3' exits 3 "$TMP/none/scripts/gpu_check" --out "$TMP/none.json"
  check 'it says so' grep -q '^no GPU: ' "$TMP/stdout"
  check 'also in its file' grep -q '"gpu": false' "$TMP/none.json"
fi

# A build folder whose weft has a GPU in doctor's words, and measures the CPU when it is asked for the GPU.
fake=$TMP/fake
mkdir -p "$fake/scripts" "$fake/build/tests" "$fake/path" && cp scripts/gpu_check scripts/catch_results.awk "$fake/scripts/"
cat > "$fake/build/weft" << END
#!/usr/bin/env bash
case "\$1 \$2" in
  'doctor --json') echo '{"findings": ['; echo '  {"what": "GPU 0", "found": "made up"}]}' ;;
  'bench kernels') [[ ! -e $fake/broken ]] || exit 1
    [[ \$4 == C* ]] || exit 2
    shift 4; exec "$WEFT" bench kernels --device CPU --tokens 16 --model_dim 64 --expert_hidden_dim 64 --vocab_size 64 --repeats 1 "\$@" ;;
  'bench train') [[ ! -e $fake/no_step ]] || exit 1
    [[ "\$3 \$4 \$5 \$6" == '--device CUDA --dtype BF16' ]] || exit 2
    exec "$WEFT" bench train --device CPU --dtype BF16 --layers 1 --model_dim 32 --head_dim 16 --expert_hidden_dim 32 --experts \
      "\$(sed 's/.*--experts \([0-9]*\).*/\1/' <<< "\$*")" --batch 1 --sequence_length 16 --steps 2 --gemm_side 32 --json ;;
  *) exec "$WEFT" "\$@" ;;
esac
END
chmod +x "$fake/build/weft"
# suite NAME PROGRAM: a test program that runs few cases, whatever it is asked for.
suite() {
  printf '#!/usr/bin/env bash\nexec %s "${@/#*GPU*/[stream]*::on_cuda}"\n' "$2" > "$fake/build/tests/weft_test_$1"
  chmod +x "$fake/build/tests/weft_test_$1"
}
is_json() { python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert eval(sys.argv[2]), d["suites"]' "$@"; }
if [[ ! -x $build/tests/weft_test_cuda ]]; then
  skip 'with a GPU' 'this build has no emulated one'
else
  suite comm "$build/tests/weft_test_cuda"
  check 'with a GPU and its tests' exits 0 "$fake/scripts/gpu_check" --out "$TMP/gpu.json"
  check 'a row for the suite' grep -qE '^comm +[1-9][0-9]* passed +0 failed' "$TMP/stdout"
  check 'a table of kernels' grep -qE '^  attention_forward +[0-9.]+ us +[0-9]+ % of its floor' "$TMP/stdout"
  check 'a row of the step of a Mixtral layer' \
    grep -qE '^mixtral-layer: step [0-9.]+ ms, [0-9]+ % of a product of 32 .*, launch gap [0-9.]+ % \([0-9.]+ to [0-9.]+\)$' "$TMP/stdout"
  check 'of one that is recorded' grep -q '^mixtral-layer-recorded: step ' "$TMP/stdout"
  check 'and of a DeepSeek layer' grep -q '^deepseek-layer: step ' "$TMP/stdout"
  if command -v python3 > /dev/null; then
    check 'figures of the suite and four benchmarks' is_json "$TMP/gpu.json" 'd["gpu"] and d["passed"] and len(d["bench_kernels"]) == 4 and d["suites"][0]["passed"] > 0'
    check 'and of three steps' is_json "$TMP/gpu.json" \
      '[(s["dtype"], s["model"]["experts"]) for s in d["bench_train"]] == [("BF16", 8), ("BF16", 8), ("BF16", 64)] and all(0 <= s["launch_gap"] < 1 for s in d["bench_train"])'
  else
    skip 'figures' 'no python3'
  fi
  printf '#!/usr/bin/env bash\nshift 2; "$@" > /dev/null; exit 9\n' > "$fake/path/compute-sanitizer" && chmod +x "$fake/path/compute-sanitizer"
  suite kernels "$build/tests/weft_test_cuda"
  check 'what compute-sanitizer finds is a failure' exits 1 env PATH="$fake/path:$PATH" "$fake/scripts/gpu_check" --out "$TMP/gpu.json"
  check 'in a row of its own' grep -qE '^sanitizer-kernels +[0-9]+ passed +1 failed' "$TMP/stdout"
  suite kernels false
  check 'a suite that cannot run is a failure' exits 1 "$fake/scripts/gpu_check" --out "$TMP/gpu.json"
  check 'which the table says' grep -qE '^kernels +0 passed +1 failed' "$TMP/stdout"
  rm "$fake/build/tests/weft_test_kernels" && touch "$fake/broken"
  check 'a benchmark that fails is a failure' exits 1 "$fake/scripts/gpu_check" --out "$TMP/gpu.json"
  rm "$fake/broken" && touch "$fake/no_step"
  check 'so is a step that fails' exits 1 "$fake/scripts/gpu_check" --out "$TMP/gpu.json"
  check 'which has its row' grep -qE '^mixtral-layer +failed, exit status 1' "$TMP/stdout"
fi
finish
