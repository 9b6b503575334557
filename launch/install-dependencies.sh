#!/usr/bin/env bash
# Installs the Debian 12 packages that Tessera needs; silent when they are all there.
#
#   launch/install-dependencies.sh [--with-development-tools] [--with-demo]
set -euo pipefail
packages=(cmake ninja-build ccache g++ pkg-config libopenmpi-dev openmpi-bin libhdf5-dev libyaml-cpp-dev libgtest-dev
  libdnnl-dev libcli11-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libxxhash-dev libpcre2-dev libssl-dev
  libhwloc-dev zlib1g-dev libzstd-dev libutf8proc-dev libboost-context-dev)
for option in "$@"; do
  case "$option" in
    --with-development-tools) packages+=(clang-format clang-tidy python3-venv jq) ;;
    --with-demo) packages+=(dict-gcide) ;;
    *) echo "install-dependencies.sh: unknown option '$option'" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install-dependencies.sh: run as root, or install: ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
log=$(mktemp)
if ! { "${sudo[@]}" apt-get update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
       apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -5 "$log" >&2
  echo "install-dependencies.sh: apt-get failed (whole log: $log)" >&2
  exit 1
fi
rm -f "$log"
