# A Debian package: `cmake --build build --target lapidary_completions && (cd build && cpack)`. Dependencies are those of the libraries that the program is
# linked with, found by dpkg-shlibdeps.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # not the tests
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME lapidary)
set(CPACK_PACKAGE_VENDOR "the Lapidary authors")
set(CPACK_PACKAGE_CONTACT "the Lapidary authors <authors@lapidary.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "fine-tune Gemma 4 12B on a CPU and ship the result")
set(CPACK_PACKAGE_DESCRIPTION "One program that trains LoRA adapters or all weights of Gemma 4 on text,
pictures, sounds and clips, evaluates the result and exports it for llama.cpp, vLLM,
Transformers and MLX. No Python, no GPU, no network.")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
include(CPack)
