#!/usr/bin/env bash
# Training speed of configs/bench-1b.yaml, by turns with a PyTorch program where there is one: a part of tests/gpu.sh,
# which sets what this reads ($bin, $results, $work, $device, $peak).
#
# A row per run: tokens/s of the median step, model TFLOP/s and MFU (causal attention counted half, recomputation not
# counted), peak memory, and the GPU's clock and power meanwhile. JSON lines go to $results/training.jsonl.
set -uo pipefail
steps=30 rounds=2
python=${PYTHON:-python3}
peer=${PEER:-}
[ -n "$peer" ] || for peer in ../shared/peers/train.py shared/peers/train.py; do [ ! -f "$peer" ] || break; done
small=()
peer_options=(--device cuda --preset 1b --precision bf16 --compile --steps "$steps")
if [ "$device" = cpu ]; then
  steps=15 rounds=1
  small=(train.device=cpu model.hidden_size=64 model.num_hidden_layers=2 model.num_attention_heads=4
    model.num_key_value_heads=2 model.head_dim=16 model.intermediate_size=96 model.vocab_size=8192 data.seq_len=64)
  peer_options=(--preset 28m --layers 1 --seq 64 --steps 3)
fi

# Text of made-up words, the first ones frequent; a tokenizer of it, and a token file.
prepare() {
  awk 'BEGIN {
    srand(1)
    for (i = 0; i < 20000; ++i) for (word[i] = ""; length(word[i]) < 3 + rand() * 6;)
      word[i] = word[i] sprintf("%c", 97 + int(rand() * 26))
    for (line = 0; line < 60000; ++line) {
      text = ""
      for (i = 0; i < 12; ++i) text = text word[int(20000 * rand() ^ 2)] " "
      print text (line % 20 == 0 ? "\n" : "")
    }
  }' >"$work/text.txt" &&
    "$bin/tessera" tokenizer train --vocab-size 8192 --out "$work/tokenizer.json" "$work/text.txt" &&
    "$bin/tessera" data prepare --tokenizer "$work/tokenizer.json" --documents blank-line --out "$work/train.h5" \
      "$work/text.txt"
}

median() { sort -g | awk '{ x[NR] = $1 } END { print NR ? x[int((NR + 1) / 2)] : 0 }'; }
field() { grep -o "\"$1\": *[0-9.e+-]*" | sed 's/.*: *//'; }

# Clock and power each half second, into a file, until it is ended.
watch_gpu() {
  [ "$device" = cuda ] && exec nvidia-smi --query-gpu=clocks.sm,power.draw --format=csv,noheader,nounits -lms 500
}

# row NAME TOKENS/S TFLOP/S MIB GPU_FILE
row() {
  local mfu clock power
  mfu=$(awk -v a="$3" -v p="$peak" 'BEGIN { printf "%.4f", a / p }')
  clock=$(tail -8 "$5" | cut -d, -f1 | median)
  power=$(tail -8 "$5" | cut -d, -f2 | median)
  printf '%-30s %10.0f tokens/s %9.4g TFLOP/s  MFU %5.1f %%  %7.0f MiB  %5.0f MHz %5.0f W\n' "$1" "$2" "$3" \
    "$(awk -v m="$mfu" 'BEGIN { print 100 * m }')" "$4" "$clock" "$power"
  printf '{"run":"%s","tokens_per_s":%s,"tflops":%s,"mfu":%s,"peak_mib":%s,"mhz":%s,"watts":%s}\n' "$1" "$2" "$3" "$mfu" \
    "$4" "$clock" "$power" >>"$results/training.jsonl"
}

# ours NAME OVERRIDES…: rates of all steps but the first five. The run is ended by force after its last step, lest it save a
# checkpoint of twenty gigabytes.
ours() {
  local name=$1 log=$work/runs pid watcher code=0
  shift
  rm -rf "$log" "$work/checkpoints"
  watch_gpu >"$work/gpu" & watcher=$!
  "$bin/tessera" train configs/bench-1b.yaml train.steps=1000000 "data.train=[{path: $work/train.h5}]" \
    checkpoint.dir="$work/checkpoints" log.dir="$log" log.every=1000 "${small[@]}" "$@" >"$work/out" 2>&1 & pid=$!
  while kill -0 $pid 2>/dev/null && ! grep -q "\"step\":$((steps - 1))," "$log/metrics.jsonl" 2>/dev/null; do sleep 0.1; done
  kill -KILL $pid 2>/dev/null || code=1
  wait $pid 2>/dev/null
  kill $watcher 2>/dev/null
  wait $watcher 2>/dev/null
  [ $code = 0 ] || { echo "$name ended early:"; tail -5 "$work/out"; return 1; }
  grep '"step"' "$log/metrics.jsonl" | head -"$steps" | tail -n +6 >"$work/steps"
  row "$name" "$(field tokens_per_s <"$work/steps" | median)" "$(field tflops <"$work/steps" | median)" \
    "$(($(field mem_bytes <"$work/steps" | tail -1) >> 20))" "$work/gpu"
}

theirs() {
  local best middle tflops watcher
  watch_gpu >"$work/gpu" & watcher=$!
  "$python" "$peer" "${peer_options[@]}" >"$work/out" 2>&1
  local code=$?
  kill $watcher 2>/dev/null
  wait $watcher 2>/dev/null
  [ $code = 0 ] || { echo "the peer failed:"; tail -5 "$work/out"; return 1; }
  best=$(tail -1 "$work/out" | field tokens_per_s)
  middle=$(tail -1 "$work/out" | field tokens_per_s_median)
  tflops=$(tail -1 "$work/out" | field tflops | awk -v m="$middle" -v b="$best" '{ print $1 * m / b }')
  row "torch, compiled" "$middle" "$tflops" "$(tail -1 "$work/out" | field peak_mib)" "$work/gpu"
}

prepare >"$work/prepared" 2>&1 || { cat "$work/prepared"; exit 1; }
have_peer=no
[ -f "$peer" ] && "$python" -c 'import torch, transformers' 2>/dev/null && have_peer=yes
failed=0
any_order=()
[ "$device" = cpu ] || any_order=('kernels={attention_backward: cudnn_any_order}')
[ $have_peer = no ] || rounds=1
for _ in $(seq $rounds); do
  ours "tessera, same bits" || failed=1
  ours "tessera, any order" "${any_order[@]}" || failed=1
  [ $have_peer = no ] || theirs || failed=1
done
steps=$((steps * 2 / 5))
ours "tessera, any order, 8 x 4" train.global_batch=32 "${any_order[@]}" || failed=1
[ "$device" = cpu ] ||
  ours "tessera, any order, 8 x 4, graphs" train.global_batch=32 train.cuda_graphs=true "${any_order[@]}" || failed=1
[ $have_peer = yes ] || echo "no peer: torch and transformers, or '$peer', are not here"
exit $failed
