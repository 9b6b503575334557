#!/usr/bin/env bash
# Checks against the live Python packages: transformers loads what we publish, tokenizers gives our ids.
#
# The environment is kept outside the tree, in ${TESSERA_PEERS_ENV:-~/.cache/tessera/peers}; making it downloads about
# 3 GB (torch is most of it), once. Needs tests/run.sh to have built the release preset.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=${TESSERA_PEERS_ENV:-$HOME/.cache/tessera/peers}
tessera=$PWD/build/release/launch/tessera
if ! "$environment/bin/python" -c 'import torch, transformers, tokenizers, safetensors' 2>/dev/null; then
  echo "making $environment: about 3 GB to download"
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet -r tests/peers/requirements.txt
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$environment/bin/python" tests/peers/published_check.py "$tessera" tests/golden/models "$work" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }

# Ten languages and more: GNOME's help pages.
(cd "$work" && apt-get download gnome-user-docs >/dev/null 2>&1 && dpkg -x gnome-user-docs_*.deb docs)
for language in de fr ru zh_CN ja ko hi el es sv cs; do
  cat "$work/docs/usr/share/help/$language"/gnome-help/*.page > "$work/pages"
  head -c 150000 "$work/pages" | iconv -c -f utf-8 -t utf-8 || true  # -c drops a character cut at the end, and says so
done > "$work/text"
"$environment/bin/python" tests/peers/tokenizers_check.py "$tessera" "$work/text" "$work"
