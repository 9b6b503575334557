#!/usr/bin/env bash
# Checks the CUDA backend on a GPU and measures it.
#
#   tests/gpu.sh pack    where the Debian packages are: builds, and collects what the next line needs in build/gpu-ready
#   tests/gpu.sh         on a machine with a GPU: runs what lies there; needs the driver and the libraries of CUDA and cuDNN only
set -euo pipefail
cd "$(dirname "$0")/.."
ready=build/gpu-ready
if [ "${1:-}" = pack ]; then
  launch/fetch-cudnn-frontend.sh
  cmake --preset release -B build/gpu -DTESSERA_CUDA=ON -DTESSERA_CUDA_ARCHITECTURES="${TESSERA_CUDA_ARCHITECTURES:-90}" \
    -DTESSERA_NATIVE=OFF >/dev/null
  cmake --build build/gpu --target tests_gpu
  rm -rf "$ready" && mkdir -p "$ready/lib"
  cp build/gpu/tests/cuda/tests_gpu "$ready/"
  # Libraries that come with Debian packages; those of CUDA and of every system are there.
  ldd "$ready/tests_gpu" | awk '$3 ~ /^\// { print $3 }' |
    grep -Ev 'libcu|libnv|/lib(c|m|dl|pthread|rt)\.so|ld-linux' | xargs -I{} cp {} "$ready/lib/"
  exit
fi
[ -x "$ready/tests_gpu" ] || { echo "gpu.sh: no $ready/tests_gpu: run 'tests/gpu.sh pack' where it can be built" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader
LD_LIBRARY_PATH=$ready/lib:/usr/local/cuda/lib64:/usr/local/cuda/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$ready/tests_gpu" "$@"
