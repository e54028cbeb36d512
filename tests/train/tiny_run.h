// A training run small enough to be made again and again: a two-layer random model, a few text
// records, and configurations over them. Everything lies in one temporary folder.
#ifndef LAPIDARY_TESTS_TRAIN_TINY_RUN_H_
#define LAPIDARY_TESTS_TRAIN_TINY_RUN_H_

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/quant/temp_folder.h"
#include "train/config.h"
#include "train/make_model.h"
#include "train/run_card.h"
#include "train/trainer.h"

namespace lapidary::tiny {

// Runs `body` in a process of its own and returns what waitpid says of it. The parent must not have
// used threads.
inline int Fork(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 0;
    try {
      body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
      code = 3;
    }
    std::fflush(nullptr);
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

inline bool ExitedWell(int status) { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
inline bool Killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }

class RunPlace {
 public:
  RunPlace() {
    // In a process of its own, so that this one has no threads and may fork.
    const int status = Fork([&] {
      MakeModel(MakeModelConfig("tiny", 2), path_ + "/base", {}, [](int64_t, int64_t) {});
    });
    if (!ExitedWell(status)) throw Error("the base model could not be made");
    WriteData("train.jsonl", 10);
    WriteData("eval.jsonl", 3);
  }

  const std::string& path() const { return path_; }

  void WriteData(const std::string& name, int records) const {
    std::string text;
    const char* words[] = {"amber", "basalt", "coral", "diorite", "emerald", "flint", "garnet"};
    for (int i = 0; i < records; ++i) {
      text +=
          nlohmann::json{
              {"messages",
               {{{"role", "user"}, {"content", StrCat("stone ", i, "?")}},
                {{"role", "assistant"},
                 {"content", StrCat(words[i % 7], i % 3 == 0 ? " and a little more" : "")}}}}}
              .dump() +
          "\n";
    }
    WriteFile(path_ + "/" + name, text);
  }

  // LoRA with everything that could go wrong in a resume: dropout, accumulation, two epochs,
  // shuffling, momentum, a schedule.
  std::string Lora(const std::string& out) const {
    return nlohmann::json{{"model_name_or_path", path_ + "/base"},
                          {"dataset", {{"train", path_ + "/train.jsonl"}}},
                          {"output_dir", path_ + "/" + out},
                          {"lora", {{"r", 2}, {"lora_alpha", 4}, {"lora_dropout", 0.1}}},
                          {"learning_rate", 1e-2},
                          {"lr_scheduler_type", "cosine"},
                          {"warmup_steps", 1},
                          {"weight_decay", 0.01},
                          {"num_train_epochs", 2},
                          {"per_device_train_batch_size", 2},
                          {"gradient_accumulation_steps", 2},
                          {"max_length", 128},
                          {"save_steps", 2},
                          {"report_samples", 0}}
        .dump();
  }

  TrainConfig Config(const std::string& out, const std::vector<std::string>& set = {}) const {
    return ParseTrainConfig(Lora(out), "test.json", set);
  }

 private:
  const TempFolder folder_;
  const std::string path_ = folder_.path();
};

inline std::string ReadText(const std::string& path) { return ReadFile(path); }

// Runs training in a child; writes the hash of the result beside the folder and returns it, or the
// message of the Error, or "killed".
inline std::string RunInChild(const TrainConfig& config, const TrainHooks& hooks = {},
                              const std::function<void()>& before = {}) {
  const std::string answer = config.output_dir + ".answer";
  std::filesystem::remove(answer);
  const int status = Fork([&] {
    std::string text;
    try {
      if (before) before();
      const TrainSummary summary = Train(config, hooks);
      SetFileHook(nullptr);
      text = summary.interrupted
                 ? "interrupted"
                 : HashFile(config.output_dir + "/" +
                            (config.lora ? "adapter_model.safetensors" : "model.safetensors"));
    } catch (const Error& error) {
      SetFileHook(nullptr);
      text = error.what();
    }
    std::ofstream(answer) << text;
  });
  if (Killed(status)) return "killed";
  if (!ExitedWell(status)) return StrCat("status ", status);
  return ReadFile(answer);
}

}  // namespace lapidary::tiny

#endif  // LAPIDARY_TESTS_TRAIN_TINY_RUN_H_
