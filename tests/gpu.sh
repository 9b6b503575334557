#!/usr/bin/env bash
# Checks Tessera on a GPU and measures it there, in at most nine minutes, without a network.
#
#   tests/gpu.sh pack     where the Debian packages are: builds, and collects what the next line needs in build/gpu-ready
#   tests/gpu.sh [PART…]  on a machine with a GPU, the driver and the libraries of CUDA and cuDNN: runs every part, or
#                         those named: ops parity layouts kernels training gemm memcheck racecheck
#   tests/gpu.sh --cpu    the same script on CPUs with small sizes, to try the script itself
#
# Results: build/gpu-results/results.json and results.txt, and a log per part. A part that fails does not stop the others;
# the exit code is 1 if one did. Where torch and transformers are installed, PEER (default: ../shared/peers/train.py) is
# measured beside Tessera by turns. PEAK: the GPU's dense bf16 TFLOP/s, where its name does not tell.
set -uo pipefail
cd "$(dirname "$0")/.."
ready=build/gpu-ready
results=$PWD/build/gpu-results
limit=540

pack() {
  set -e
  launch/fetch-cudnn-frontend.sh
  # Ranks are threads there, so NCCL stays at home.
  cmake --preset release -B build/gpu -DTESSERA_CUDA=ON -DTESSERA_CUDA_ARCHITECTURES="${TESSERA_CUDA_ARCHITECTURES:-90}" \
    -DTESSERA_NATIVE=OFF -DTESSERA_NCCL=OFF >/dev/null
  cmake --build build/gpu --target tests_gpu tessera
  rm -rf "$ready" && mkdir -p "$ready/tree/lib"
  strip -o "$ready/tree/tests_gpu" build/gpu/tests/cuda/tests_gpu
  strip -o "$ready/tree/tessera" build/gpu/launch/tessera
  # Libraries that come with Debian packages; those of CUDA and of every system are there.
  ldd "$ready/tree/tests_gpu" "$ready/tree/tessera" | awk '$3 ~ /^\// { print $3 }' | sort -u |
    grep -Ev '/lib(cuda|cudart|cublas|cudnn|nccl|nv)[^/]*$|/lib(c|m|dl|pthread|rt|resolv)\.so|ld-linux' |
    xargs -I{} cp -L {} "$ready/tree/lib/"
  getconf GNU_LIBC_VERSION >"$ready/tree/glibc"
  # Packed, since what travels to such a machine is often limited.
  tar -C "$ready/tree" -czf "$ready/tree.tar.gz" .
  rm -rf "$ready/tree"
  du -h "$ready/tree.tar.gz"
}

remaining() { echo $((limit - SECONDS > 1 ? limit - SECONDS : 1)); }

# part NAME SECONDS COMMAND…: runs the command within both limits, notes how it went; its output is NAME.log.
parts=()
failed=0
part() {
  local name=$1 seconds=$2 began=$SECONDS status=ok code=0
  shift 2
  [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  local rest; rest=$(remaining)
  # In a shell of its own, whose children timeout ends with it.
  timeout -k 5 $((rest < seconds ? rest : seconds)) bash -c '"$@"' part "$@" >"$results/$name.log" 2>&1 || code=$?
  case $code in 0) ;; 77) status=skipped ;; 124 | 137) status="out of time" ;; *) status="failed ($code)" ;; esac
  [ "$status" != "out of time" ] || [ "$rest" -ge "$seconds" ] || status="cut short"  # by the whole script's limit
  case $status in ok | skipped | "cut short") ;; *) failed=1 ;; esac
  local line; line=$(grep -v '^ *$' "$results/$name.log" | tail -1 | cut -c1-100 | tr -d '"\\')
  parts+=("{\"part\":\"$name\",\"status\":\"$status\",\"seconds\":$((SECONDS - began)),\"says\":\"$line\"}")
  printf '%-10s %-12s %4d s  %s\n' "$name" "$status" $((SECONDS - began)) "$line" | tee -a "$results/results.txt"
  [ "$status" = ok ] || [ "$status" = skipped ] || [ "$status" = "cut short" ] || tail -15 "$results/$name.log" | sed 's/^/    /'
}

# On CPUs the tests of GPUs can only be listed, which shows that the program and its libraries are whole.
gtests() {
  if [ "$device" = cuda ]; then "$bin/tests_gpu" --gtest_brief=1 "$@"; else "$bin/tests_gpu" --gtest_list_tests "$@"; fi
}

# Every layout of two ranks for three families, some in bf16 and some of four ranks; the ranks are threads that share a GPU.
layouts() {
  local faults=0 config two four
  for config in llama-3.2-1b qwen3-0.6b qwen3-30b-a3b; do
    "$bin/tessera" verify "configs/$config.yaml" --all --ranks 2 --device "$device" || faults=1
  done
  for two in "tp: 2" "dp: 2, zero: 3"; do  # few: each plans its attention anew
    "$bin/tessera" verify configs/llama-3.2-1b.yaml "parallel={$two}" --device "$device" --precision bf16 >"$work/two" || faults=1
    tail -4 "$work/two"
  done
  for four in "tp: 2, zero: 3" "pp: 2, cp: 2" "pp: 2, tp: 2, schedule: zero_bubble" "cp: 2, tp: 2" "ep: 4, zero: 2" "ep: 2, etp: 2, expert_buffer: 2"; do
    "$bin/tessera" verify configs/qwen3-30b-a3b.yaml "parallel={$four}" --ranks 4 --device "$device" >"$work/four" || faults=1
    tail -4 "$work/four"
  done
  return "$faults"
}

untimed() {
  export TESSERA_GEMM_TUNE=0
  "$@"
}

kernels() {
  rm -f "$results/kernels.jsonl"
  "$bin/tessera" bench kernels --device "$device" --json "$results/kernels.jsonl"
}

sanitize() {
  local tool
  tool=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  [ -x "$tool" ] || { echo "compute-sanitizer is not installed"; exit 77; }
  # Allocations of their own, whose bounds the tool knows.
  export TESSERA_EXACT_ALLOCATIONS=1 LD_LIBRARY_PATH=$tree/lib:$LD_LIBRARY_PATH
  "$tool" --tool "$1" --error-exitcode 9 "$tree/tests_gpu" --gtest_brief=1 --gtest_filter="$2"
}

# Of the headers beside them, where they are installed.
library_versions() {
  local header
  for header in "cuBLAS cublas_api.h CUBLAS_VER_" "cuDNN cudnn_version.h CUDNN_" "NCCL nccl.h NCCL_"; do
    # shellcheck disable=SC2086  # words
    set -- $header
    awk -v name="$1" -v prefix="$3" '
      $1 == "#define" && $2 ~ "^" prefix "(MAJOR|MINOR|PATCH|PATCHLEVEL)$" { version = version "." $3 }
      END { if (version != "") print name " " substr(version, 2) }' "/usr/local/cuda/include/$2" 2>/dev/null
  done | paste -sd, | sed 's/,/, /g'
}

write_results() {
  {
    printf '{"machine":{"device":"%s","driver_clock_power":"%s","libraries":"%s","peak_tflops":%s},\n' \
      "$gpu" "$facts" "$libraries" "$peak"
    printf ' "parts":[%s],\n' "$(IFS=,; echo "${parts[*]}")"
    printf ' "training":[%s],\n' "$(paste -sd, "$results/training.jsonl" 2>/dev/null)"
    printf ' "kernels":[%s]}\n' "$(paste -sd, "$results/kernels.jsonl" 2>/dev/null)"
  } >"$results/results.json"
  {
    for one in training kernels gemm; do
      [ ! -s "$results/$one.log" ] || { printf '\n%s\n' "$one"; grep -v '^\[\|^Running\|^Note' "$results/$one.log"; }
    done
  } >>"$results/results.txt"
}

wanted=()
export device=cuda
case ${1:-} in
  pack) pack; exit ;;
  --cpu) device=cpu; shift ;;
esac
wanted=("$@")
known_parts="ops parity layouts kernels training gemm memcheck racecheck"
for one in "$@"; do
  [[ " $known_parts " == *" $one "* ]] || { echo "gpu.sh: no part '$one'; there are: $known_parts" >&2; exit 2; }
done
[ -f "$ready/tree.tar.gz" ] || { echo "gpu.sh: no $ready/tree.tar.gz: run 'tests/gpu.sh pack' where it can be built" >&2; exit 1; }
rm -rf "$results" && mkdir -p "$results"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export results work tree=$work/tree
mkdir "$tree" && tar -C "$tree" -xzf "$ready/tree.tar.gz"
# What travelled is for our programs alone: others have libraries of their own.
mkdir "$tree/bin"
for one in tessera tests_gpu; do
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s:$LD_LIBRARY_PATH exec %s "$@"\n' "$tree/lib" "$tree/$one" >"$tree/bin/$one"
  chmod +x "$tree/bin/$one"
done
export bin=$tree/bin
newest=$(printf '%s\n' "$(awk '{ print $2 }' "$tree/glibc")" "$(getconf GNU_LIBC_VERSION | awk '{ print $2 }')" | sort -V | tail -1)
[ "$newest" = "$(getconf GNU_LIBC_VERSION | awk '{ print $2 }')" ] ||
  { echo "gpu.sh: the pack was made with glibc $newest, this system has an older one: pack on a system no newer than this" >&2; exit 1; }
# cuDNN comes with the toolkit, the system, or PyTorch.
cudnn=$(find -L /usr/local/cuda/lib64 /usr/local/cuda/lib /usr/lib/x86_64-linux-gnu /usr/lib64 \
  $("${PYTHON:-python3}" -c 'import site; print(*(p + "/nvidia" for p in site.getsitepackages()))' 2>/dev/null) \
  -maxdepth 3 -name 'libcudnn.so.9' 2>/dev/null | head -1)
export LD_LIBRARY_PATH=/usr/local/cuda/lib64:/usr/local/cuda/lib${cudnn:+:${cudnn%/*}}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export TESSERA_GEMM_CACHE=$work/gemm.json

gpu=cpu facts="" libraries=$(library_versions)
if [ "$device" = cuda ]; then
  gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
  [ -n "$gpu" ] || { echo "gpu.sh: nvidia-smi shows no GPU; 'tests/gpu.sh --cpu' tries the script without one" >&2; exit 1; }
  facts=$(nvidia-smi --query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv,noheader | head -1)
fi
case $gpu in
  *H100*PCIe*) known=756 ;; *H100*NVL*) known=835 ;; *A100*) known=312 ;; *B200*) known=2250 ;; *) known=989 ;;
esac
export peak=${PEAK:-$known}
[ -n "$cudnn" ] || echo "no libcudnn.so.9 in the toolkit, the system or PyTorch: parts that need cuDNN's attention will fail"
printf '%s, %s; %s; MFU of %s TFLOP/s\n\n' "$gpu" "$facts" "$libraries" "$peak" | tee "$results/results.txt"

export -f gtests layouts untimed kernels sanitize
# Most important first; products are timed only where speed is measured.
part ops 90 untimed gtests '--gtest_filter=-GpuSpeed.*:*Training*:*Graphs*'
part training 200 bash tests/bench/gpu_training.sh
part parity 40 untimed gtests '--gtest_filter=*Training*:*Graphs*'
part layouts 80 untimed layouts
part kernels 60 kernels
part gemm 30 gtests '--gtest_filter=GpuSpeed.*'
# Kernels of our own only: those of libraries take long. Races are those in shared memory.
part memcheck 40 untimed sanitize memcheck 'Gpu/GpuOps.Case/*_bf16_chosen:-*attention*:*/linear*:*_linear_cross*:*router_logits*'
part racecheck 30 untimed sanitize racecheck \
  '*/rms_norm_bf16_chosen:*/embedding_bf16_chosen:*/balance_bf16_chosen:*/spread_rows_bf16_chosen:*/grouped_linear_bf16_chosen'
write_results
echo "results in $results; $SECONDS s"
exit $failed
