#!/usr/bin/env bash
# Installs, builds and runs every test. Takes ctest options: `bash tests/run.sh -L golden`.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${LAPIDARY_BUILD:-build}
# Parquet and Arrow: the plug-in is built against the pyarrow of a virtual environment of the build.
if [ ! -x "$build/arrow-venv/bin/python" ] || ! "$build/arrow-venv/bin/python" -c 'import pyarrow' 2>/dev/null; then
  mkdir -p "$build"
  if ! { python3 -m venv "$build/arrow-venv" && "$build/arrow-venv/bin/pip" install -q "pyarrow>=20"; } >"$build/arrow-venv.log" 2>&1; then
    echo "no pyarrow ($build/arrow-venv.log): the Parquet plug-in is not built, and its tests do not run" >&2
    rm -rf "$build/arrow-venv"
  fi
fi
bash recipes/setup.sh "$build"
cmake --build "$build"

# The readers of outside bytes once more, under AddressSanitizer and UndefinedBehaviorSanitizer.
bash recipes/setup.sh "$build-asan" -DLAPIDARY_SANITIZE=ON -DLAPIDARY_BENCH=OFF
cmake --build "$build-asan" --target lapidary_fuzz_tests

ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$(nproc)" "$@"
if [ $# -eq 0 ]; then
  bash tests/pages.sh "$build/lapidary"
  LAPIDARY_FUZZ_ITERATIONS=${LAPIDARY_FUZZ_ITERATIONS:-5000} \
    ctest --test-dir "$build-asan" --output-on-failure --no-tests=error -L fuzz -j "$(nproc)"
fi
