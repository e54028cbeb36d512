#!/usr/bin/env bash
# Builds autograd/ and quant/ for 64-bit Arm with Debian's cross compiler and runs their tests under qemu-user:
# the NEON table and the reference. Takes ctest options: `bash tests/cross.sh -R gemm`. Not part of run.sh.
# Emulated programs run about ten to thirty times slower than native ones: some minutes in all.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${LAPIDARY_CROSS_BUILD:-build-aarch64}
case $build in /*) ;; *) build=$PWD/$build ;; esac

packages=(cmake ninja-build pkg-config g++-aarch64-linux-gnu qemu-user googletest libhwy-dev nlohmann-json3-dev)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  run=()
  [ "$(id -u)" -eq 0 ] || run=(sudo)
  "${run[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# What the build needs beyond the compiler's own libraries: two header-only libraries, by links (the host's whole
# include folder would bring the host's libc), and GoogleTest for Arm.
prefix=$build/prefix
mkdir -p "$prefix/include"
ln -sfn /usr/include/hwy "$prefix/include/hwy"
ln -sfn /usr/include/nlohmann "$prefix/include/nlohmann"
toolchain=(-G Ninja -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64.cmake" -DLAPIDARY_CROSS_PREFIX="$prefix" -DCMAKE_BUILD_TYPE=Release)
if [ ! -e "$prefix/lib/libgtest_main.a" ]; then
  cmake -S /usr/src/googletest -B "$build/googletest" "${toolchain[@]}" -DBUILD_GMOCK=OFF \
    -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib >/dev/null
  cmake --build "$build/googletest" --target install >/dev/null
fi

cmake -S . -B "$build" "${toolchain[@]}" -DLAPIDARY_CORE=ON -DLAPIDARY_TEST_TIMEOUT=7200 >/dev/null
cmake --build "$build"

# Numbers of inputs sized for an emulator; everything else is what run.sh runs.
LAPIDARY_FUZZ_ITERATIONS=${LAPIDARY_FUZZ_ITERATIONS:-300} \
  ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$(nproc)" "$@"
