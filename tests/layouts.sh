#!/usr/bin/env bash
# Every valid layout of 8 thread ranks for small Llama, Qwen3 and Qwen3-MoE models, tied and untied, against one rank;
# smaller sets of 16 and 6 ranks, and in bf16. About ten minutes on two cores.
#
# Needs tests/run.sh to have built the release preset.
set -euo pipefail
cd "$(dirname "$0")/.."
exec build/release/tests/verify/tests_layouts
