#!/usr/bin/env bash
# Installs what Lapidary needs (Debian 12 or a relative) and builds it: setup.sh BUILD_FOLDER [cmake options].
# Sourced by nothing: quickstart.sh and tests/run.sh call it.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
shift

missing=()
while read -r package; do
  [ -n "$package" ] || continue
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done <recipes/packages.txt
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${#missing[@]} packages: ${missing[*]}"
  run=()
  [ "$(id -u)" -eq 0 ] || run=(sudo)
  "${run[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "$@" >"$build.cmake.log" 2>&1 || {
  cat "$build.cmake.log"
  exit 1
}
rm -f "$build.cmake.log"
