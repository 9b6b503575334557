#!/usr/bin/env bash
# Fetches the headers of the Python package nvidia-cudnn-frontend, pinned and verified by hash.
#
#   launch/fetch-cudnn-frontend.sh [FOLDER]        default: build/_deps/cudnn-frontend; headers in FOLDER/include
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/build/_deps/cudnn-frontend}
version=1.32.0
hash=c6006556017a4d1c914c52a556c71b1267f2d6a0500f742e7b4edef539878df0
[ "$(cat "$folder/version" 2>/dev/null)" = "$version $hash" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "nvidia-cudnn-frontend==$version --hash=sha256:$hash" > "$work/requirements.txt"
python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --python-version 3.11 \
  --implementation cp --abi cp311 --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 \
  --dest "$work" -r "$work/requirements.txt"
python3 -m zipfile -e "$work"/*.whl "$work/wheel"
rm -rf "$folder"
mkdir -p "$folder"
cp -r "$work/wheel/include" "$folder/include"
echo "$version $hash" > "$folder/version"
