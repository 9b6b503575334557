#!/usr/bin/env bash
# Prints the Python of the environment that holds the peers (transformers, torch, tokenizers, …), making it at first.
#
# It lies outside the tree, in ${TESSERA_PEERS_ENV:-~/.cache/tessera/peers}, and is kept between runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
environment=${TESSERA_PEERS_ENV:-$HOME/.cache/tessera/peers}
stamp=$environment/requirements.txt
if ! cmp -s "$here/requirements.txt" "$stamp"; then
  echo "making $environment: about 3 GB to download (torch is most of it), once" >&2
  python3 -m venv "$environment" >&2
  "$environment/bin/pip" install --quiet -r "$here/requirements.txt" >&2
  cp "$here/requirements.txt" "$stamp"
fi
echo "$environment/bin/python"
