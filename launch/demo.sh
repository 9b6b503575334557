#!/usr/bin/env bash
# The whole path on real text: tokenizer, data, training on two MPI ranks through a SIGKILL, a published model.
#
#   launch/demo.sh [WORK_DIR]        default: ./tessera-demo
#
# Installs what it needs (Debian 12, as root or with sudo) and builds first. Takes some ten minutes on two cores.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-tessera-demo}
began=$SECONDS
heading() { printf '\n== %s (%d:%02d)\n' "$1" $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)); }
last_step() { grep -o '"step": *[0-9]*' "$work/runs/demo/metrics.jsonl" 2>/dev/null | tail -1 | grep -o '[0-9]*$' || echo 0; }

heading "installing and building"
"$root/launch/install-dependencies.sh" --with-demo
# For CPUs, whatever the machine has: compiling for GPUs would take longer than the rest.
(cd "$root" && cmake --preset release -DTESSERA_CUDA=OFF -DTESSERA_TESTS=OFF -B build/demo >/dev/null && cmake --build build/demo)
tessera=$root/build/demo/launch/tessera
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

rm -rf "$work/checkpoints" "$work/runs" "$work/release"
mkdir -p "$work"
cd "$work"
work=.

heading "text: the GNU Collaborative International Dictionary of English"
zcat /usr/share/dictd/gcide.dict.dz > gcide.txt

heading "tokenizer: byte-level BPE of 8,192 tokens"
"$tessera" tokenizer train --vocab-size 8192 --out tokenizer.json gcide.txt

heading "data: token files, with documents held out"
"$tessera" data prepare --tokenizer tokenizer.json --out train.h5 --documents blank-line --valid-fraction 0.01 gcide.txt

train=(mpirun -n 2 --oversubscribe --bind-to none --mca mpi_yield_when_idle 1
       "$tessera" train "$root/configs/demo.yaml" data.tokenizer=tokenizer.json)
heading "training on two ranks, to be killed halfway"
"${train[@]}" &
job=$!
while kill -0 $job 2>/dev/null && [ "$(last_step)" -lt 155 ]; do sleep 1; done
pkill -KILL -f "$tessera train" || true
wait $job || true
heading "killed with SIGKILL at step $(last_step); resuming from the newest checkpoint"
"${train[@]}" | tee resumed.log

heading "publishing"
"$tessera" publish checkpoints release
(cd release && sha256sum --quiet -c SHA256SUMS && echo "SHA256SUMS hold")

heading "the published model, and a bigram model, on the held-out text"
"$tessera" eval release --data train.valid.h5 --seq-len 256 --document-mask
"$tessera" data bigram train.h5 train.valid.h5
heading "a sample"
"$tessera" generate release --prompt "Ocean" --max-tokens 40 --temperature 0.7 --top-p 0.9 --seed 1

loss=$(grep -o 'validation.*loss *[0-9.]*' resumed.log | tail -1 | grep -o '[0-9.]*$')
heading "done"
echo "validation loss $loss; everything lies in $(pwd):"
echo "  tokenizer.json  train.h5  train.valid.h5  checkpoints/  runs/demo/ (JSON lines, TensorBoard)  release/"
awk -v loss="$loss" 'BEGIN { exit !(loss <= 4.8) }' || { echo "demo.sh: validation loss $loss is above 4.8" >&2; exit 1; }
