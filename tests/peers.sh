#!/usr/bin/env bash
# Checks against the live Python packages: transformers loads what we publish, tokenizers gives our ids, h5py,
# tensorboard and jsonschema read our files.
#
# Needs tests/run.sh to have built the release preset; the packages come by tests/peers/environment.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
tessera=$PWD/build/release/launch/tessera
python=$(tests/peers/environment.sh)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" tests/peers/published_check.py "$tessera" tests/golden/models "$work" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }

# Ten languages and more: GNOME's help pages.
(cd "$work" && apt-get download gnome-user-docs >/dev/null 2>&1 && dpkg -x gnome-user-docs_*.deb docs)
for language in de fr ru zh_CN ja ko hi el es sv cs; do
  cat "$work/docs/usr/share/help/$language"/gnome-help/*.page > "$work/pages"
  head -c 150000 "$work/pages" | iconv -c -f utf-8 -t utf-8 2>/dev/null || true  # drops a character cut at the end
done > "$work/text"
"$python" tests/peers/tokenizers_check.py "$tessera" "$work/text" "$work"
"$python" tests/peers/patterns_check.py "$tessera" "$work"
"$python" tests/peers/files_check.py "$tessera" "$PWD/configs" "$work/files"
