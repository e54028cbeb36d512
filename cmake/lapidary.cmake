# Flags for every target, and the functions that the folders use.
add_library(lapidary_flags INTERFACE)
target_include_directories(lapidary_flags INTERFACE ${PROJECT_SOURCE_DIR})
# -ffp-contract=off: block quantizers are byte-exact only without contraction; kernels write FMA out.
target_compile_options(lapidary_flags INTERFACE -Wall -Wextra -ffp-contract=off)
target_link_libraries(lapidary_flags INTERFACE Threads::Threads)
if(LAPIDARY_WERROR)
  target_compile_options(lapidary_flags INTERFACE -Werror)
endif()
if(LAPIDARY_SANITIZE)
  target_compile_options(lapidary_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all -g)
  target_link_options(lapidary_flags INTERFACE -fsanitize=address,undefined)
endif()

# One precompiled header of standard headers and nlohmann-json: it halves the build.
add_library(lapidary_pch STATIC ${PROJECT_SOURCE_DIR}/cmake/pch.cc)
target_link_libraries(lapidary_pch PUBLIC lapidary_flags)
target_precompile_headers(lapidary_pch PRIVATE <cmake/pch.h>)

# lapidary_library(<folder> SOURCES ... [DEPENDS ...]): the static library lapidary_<folder>.
function(lapidary_library folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(lapidary_${folder} STATIC ${ARG_SOURCES})
  target_link_libraries(lapidary_${folder} PUBLIC lapidary_flags ${ARG_DEPENDS})
  target_precompile_headers(lapidary_${folder} REUSE_FROM lapidary_pch)
endfunction()

# All tests with the label fuzz: what the sanitizer build needs.
add_custom_target(lapidary_fuzz_tests)

set(LAPIDARY_TEST_TIMEOUT 900 CACHE STRING "seconds that a test program may take")

# lapidary_test(<name> SOURCES ... [DEPENDS ...] [LABELS ...]): a GoogleTest program, one ctest entry.
function(lapidary_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE lapidary_flags ${ARG_DEPENDS} GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE LAPIDARY_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_precompile_headers(${name} REUSE_FROM lapidary_pch)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${LAPIDARY_TEST_TIMEOUT})
  if("fuzz" IN_LIST ARG_LABELS)
    add_dependencies(lapidary_fuzz_tests ${name})
  endif()
endfunction()
