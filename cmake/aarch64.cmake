# Toolchain file: 64-bit Arm Linux with Debian's cross compiler (g++-aarch64-linux-gnu), programs run by qemu-user.
# LAPIDARY_CROSS_PREFIX: a folder with include/ and lib/ of what the build needs (tests/cross.sh fills one).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES LAPIDARY_CROSS_PREFIX)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu ${LAPIDARY_CROSS_PREFIX})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
if(LAPIDARY_CROSS_PREFIX)
  set(CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES ${LAPIDARY_CROSS_PREFIX}/include)
endif()
