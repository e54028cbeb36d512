#!/usr/bin/env bash
# Installs, builds and runs every test. Takes ctest options: `bash tests/run.sh -L golden`.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${LAPIDARY_BUILD:-build}
bash recipes/setup.sh "$build"
cmake --build "$build"

# The readers of outside bytes once more, under AddressSanitizer and UndefinedBehaviorSanitizer.
bash recipes/setup.sh "$build-asan" -DLAPIDARY_SANITIZE=ON -DLAPIDARY_BENCH=OFF
cmake --build "$build-asan" --target lapidary_fuzz_tests

ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$(nproc)" "$@"
if [ $# -eq 0 ]; then
  LAPIDARY_FUZZ_ITERATIONS=${LAPIDARY_FUZZ_ITERATIONS:-5000} \
    ctest --test-dir "$build-asan" --output-on-failure --no-tests=error -L fuzz -j "$(nproc)"
fi
