#!/usr/bin/env bash
# Tessera beside PyTorch (training 28M parameters, fp32) and the Python package tokenizers, alternating in one run.
#
#   tests/bench/cpu.sh [--rounds N] [PEERS_DIR]      PEERS_DIR holds train.py and tokenize_text.py: ../shared/peers
#
# Prints each figure and the ratios, or Tessera's figures alone where PEERS_DIR is missing; never fails on time.
# Needs tests/run.sh to have built the release preset.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=3
if [ "${1:-}" = --rounds ]; then rounds=$2; shift 2; fi
peers=${1:-../shared/peers}
tessera=$PWD/build/release/launch/tessera
[ -x "$tessera" ] || { echo "cpu.sh: $tessera is missing; run tests/run.sh first" >&2; exit 1; }
launch/install-dependencies.sh --with-demo
python=$(tests/peers/environment.sh)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
zcat /usr/share/dictd/gcide.dict.dz > "$work/text"
"$tessera" tokenizer train --vocab-size 8192 --out "$work/tokenizer.json" "$work/text" 2>/dev/null
"$tessera" data prepare --tokenizer "$work/tokenizer.json" --out "$work/train.h5" --documents blank-line "$work/text" 2>/dev/null
"$python" tests/bench/compare.py --tessera "$tessera" --peers "$peers" --work "$work" --config configs/peer-28m.yaml \
  --rounds "$rounds"
