// A test with a folder of its own, removed afterwards.
#ifndef LAPIDARY_TESTS_DATA_FOLDER_TEST_BASE_H_
#define LAPIDARY_TESTS_DATA_FOLDER_TEST_BASE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {

class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = (std::filesystem::temp_directory_path() /
               StrCat("lapidary-", info->test_suite_name(), "-", info->name(), "-", getpid()))
                  .string();
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Writes folder_/name and returns its path.
  std::string Put(const std::string& name, const std::string& bytes) {
    const std::string path = folder_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    WriteFile(path, bytes);
    return path;
  }

  template <class Body>
  static std::string ErrorOf(const Body& body) {
    try {
      body();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  std::string folder_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_DATA_FOLDER_TEST_BASE_H_
