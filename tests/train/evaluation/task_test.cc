// The ready tasks, each on a planted record in its data set's columns: what is asked, which answer
// is right, how it is found and scored; and tasks that are wrong.
#include "train/evaluation/task.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "tests/message_of.h"
#include "tests/quant/temp_folder.h"
#include "train/bundle.h"
#include "train/evaluation/ifeval.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/results.h"
#include "train/evaluation/run_task.h"
#include "train/make_model.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Texts = std::vector<std::string>;

const std::string kTasks = LAPIDARY_SOURCE_DIR "/recipes/configs/eval/";
const std::string kImage = LAPIDARY_SOURCE_DIR "/tests/golden/media/images/";

std::string AnImage() {
  for (const auto& entry : fs::directory_iterator(kImage)) {
    if (entry.path().extension() == ".png") return entry.path().string();
  }
  throw Error(kImage + ": must hold a picture");
}

// A second of a wave, 16 kHz mono.
std::string ASound(const std::string& folder) {
  std::string bytes = "RIFF";
  const auto word = [&](uint32_t value, int size) {
    for (int i = 0; i < size; ++i) bytes += static_cast<char>(value >> (8 * i) & 255);
  };
  word(36 + 32000, 4);
  bytes += "WAVEfmt ";
  word(16, 4);
  word(1, 2);
  word(1, 2);
  word(16000, 4);
  word(32000, 4);
  word(2, 2);
  word(16, 2);
  bytes += "data";
  word(32000, 4);
  for (uint32_t i = 0; i < 16000; ++i) word(i * 37 % 2000, 2);
  WriteFile(folder + "/sound.wav", bytes);
  return folder + "/sound.wav";
}

struct Planted {
  Json row;
  std::string right;  // what a good model might write
  std::string wrong;
};

// A record of each data set.
std::map<std::string, Planted> PlantedRecords(const std::string& folder) {
  const Json image = {{"bytes", nullptr}, {"path", AnImage()}};
  const Json sound = {{"path", ASound(folder)}};
  return {
      {"mmlu_pro",
       {{{"question_id", 70},
         {"question", "Which gas do plants take in?"},
         {"options", {"Neon", "Argon", "Carbon dioxide"}},
         {"answer", "C"},
         {"answer_index", 2},
         {"cot_content", "A: Let's think step by step. Plants ... The answer is (C)."},
         {"category", "biology"}},
        "Plants need it. The answer is (C).",
        "The answer is (B)."}},
      {"gpqa_diamond",
       {{{"Question", "What is 2 + 2?"},
         {"Correct Answer", "four"},
         {"Incorrect Answer 1", "three"},
         {"Incorrect Answer 2", "five"},
         {"Incorrect Answer 3", "six\n"},
         {"High-level domain", "Physics"}},
        "",
        "The answer is (E)."}},
      {"aime",
       {{{"ID", "2024-I-1"}, {"Problem", "Find x."}, {"Solution", "..."}, {"Answer", 204}},
        "So x is $\\boxed{204}$.",
        "So x is $\\boxed{205}$."}},
      {"aime_2025", {{{"problem", "Find x."}, {"answer", "70"}}, "\\boxed{70}", "\\boxed{7}"}},
      {"math_vision",
       {{{"id", "1"},
         {"question", "How many? <image1>"},
         {"options", Json::array()},
         {"image", "images/1.jpg"},
         {"decoded_image", image},
         {"answer", "\\frac{1}{2}"},
         {"subject", "counting"}},
        "\\boxed{1/2}",
        "\\boxed{2}"}},
      {"mmmu_pro",
       {{{"id", "test_1"},
         {"question", "What is shown in <image 1>?"},
         {"options", "['a cat', \"a dog's tail\", 'a \\'bird\\'']"},
         {"image_1", image},
         {"image_2", nullptr},
         {"image_3", nullptr},
         {"image_4", nullptr},
         {"image_5", nullptr},
         {"image_6", nullptr},
         {"image_7", nullptr},
         {"answer", "B"},
         {"subject", "Art"}},
        "It wags.\nAnswer: B",
        "Answer: C"}},
      {"covost",
       {{{"audio", sound}, {"sentence", "Guten Tag, Welt."}, {"translation", "Good day, world."}},
        "Good day, world.",
        "xyz"}},
      {"fleurs",
       {{{"id", 1}, {"audio", sound}, {"transcription", "guten tag welt"}, {"lang_id", 3}},
        "Guten Tag, Welt!",
        "Gute Nacht"}},
      {"ifeval",
       {{{"key", 1000},
         {"prompt", "Answer without commas."},
         {"instruction_id_list", {"punctuation:no_comma", "startend:end_checker"}},
         {"kwargs", {Json::object(), {{"end_phrase", "Bye"}, {"num_words", nullptr}}}}},
        "No commas here. Bye",
        "One, two."}},
      {"refusal",
       {{{"question", "When did Napoleon visit the Moon?"},
         {"expected", "refuse"},
         {"kind", "false premise"}},
        "He never did; I don't know of such a visit.",
        "In 1805."}},
      {"docvqa",
       {{{"question", "What is the total?"}, {"image", image}, {"answers", {"$ 12.50", "12.50"}}},
        "12.50",
        "unreadable"}},
      {"multiple_choice",
       {{{"question", "2 + 2?"}, {"choices", {"3", "4", "5", "6"}}, {"answer", 1}}, "", ""}},
  };
}

double Score(const EvalTask& task, const TaskItem& item, const Json& row, const std::string& text) {
  const AnswerExtractor extract(task);
  if (task.ifeval) return IfevalRows(row, text, "test")[0][0];
  const Metric& metric = FindMetric(task.metrics[0]);
  const double value = metric.figure(metric.row(extract(text), item.references));
  return metric.higher_is_better ? value : -value;
}

TEST(Tasks, EveryReadyOneAsksAndScores) {
  const TempFolder folder;
  const std::map<std::string, Planted> planted = PlantedRecords(folder.path());
  int ready = 0;
  for (const auto& entry : fs::directory_iterator(kTasks)) {
    if (entry.path().extension() != ".json") continue;
    ++ready;
    const std::string name = entry.path().stem().string();
    ASSERT_TRUE(planted.contains(name)) << name << " has no planted record";
    const EvalTask task = LoadEvalTask(entry.path().string());
    EXPECT_EQ(task.name, name);
    const Planted& p = planted.at(name);
    const TaskItem item =
        MakeTaskItem(task, p.row, std::vector<Json>(static_cast<size_t>(task.shots), p.row),
                     {"data:1", folder.path()}, 42);
    EXPECT_EQ(item.record.messages.size(), static_cast<size_t>(1 + 2 * task.shots));
    if (task.choices) {
      EXPECT_EQ(item.right_option, 1);
      continue;
    }
    std::string right = p.right;
    if (right.empty()) right = StrCat("So the answer is (", item.references[0], ").");
    EXPECT_GT(Score(task, item, p.row, right), Score(task, item, p.row, p.wrong)) << name;
    const double best = Score(task, item, p.row, right);
    EXPECT_TRUE(best == 1 || best == 0 || std::abs(best - 100) < 1e-9) << name << " " << best;
    EXPECT_EQ(item.record.media.size(), task.images.empty() && task.audios.empty() ? 0u : 1u)
        << name;
  }
  EXPECT_EQ(ready, static_cast<int>(planted.size()));
}

TEST(Tasks, PromptsAreThoseOfTheHarness) {
  const TempFolder folder;
  const auto planted = PlantedRecords(folder.path());
  const EvalTask task = LoadEvalTask(kTasks + "mmlu_pro.json");
  const TaskItem item =
      MakeTaskItem(task, planted.at("mmlu_pro").row, {}, {"data:1", folder.path()}, 1);
  EXPECT_EQ(item.question,
            "Question:\nWhich gas do plants take in?\nOptions:\nA. Neon\nB. Argon\nC. Carbon "
            "dioxide\nAnswer: Let's think step by step.");
  EXPECT_EQ(item.references, Texts{"C"});
  EXPECT_EQ(item.group, "biology");
}

// Shuffling is a function of seed and record, keeps the options, and finds the right one again.
TEST(Tasks, OptionsAreShuffledByRecord) {
  const auto planted = PlantedRecords(TempFolder().path());
  const EvalTask task = LoadEvalTask(kTasks + "gpqa_diamond.json");
  const Json& row = planted.at("gpqa_diamond").row;
  std::map<int64_t, int> places;
  for (int i = 0; i < 200; ++i) {
    const RecordPlace place = {StrCat("gpqa.csv:", i), "."};
    const TaskItem item = MakeTaskItem(task, row, {}, place, 42);
    EXPECT_EQ(item.options[static_cast<size_t>(item.right_option)], "four");
    EXPECT_EQ(Texts{std::string(1, static_cast<char>('A' + item.right_option))}, item.references);
    EXPECT_EQ(MakeTaskItem(task, row, {}, place, 42).options, item.options);
    EXPECT_EQ(item.options.size(), 4u);
    ++places[item.right_option];
  }
  for (int64_t place = 0; place < 4; ++place) EXPECT_GT(places[place], 25) << place;
}

TEST(Tasks, WrongOnesAreNamed) {
  const std::string good =
      R"({"name": "t", "prompt": "{q}", "answer": "{a}", "metrics": "exact_match")";
  const auto message = [](const std::string& text) {
    return MessageOf([&] { ParseEvalTask(text, "t.json"); });
  };
  EXPECT_EQ(message(good + "}"), "no error");
  const std::pair<std::string, std::string> cases[] = {
      {"[]", "t.json: must be a JSON object"},
      {good + R"(, "promt": "x"})", "got 'promt'; try 'prompt'"},
      {good + R"(, "answer_index": "x"})", "one of 'answer', 'answers'"},
      {R"({"name": "t", "prompt": "{q}", "answer": "{a}", "metrics": "exactmatch"})",
       "try 'exact_match'"},
      {good + R"(, "extract": ["("]})", "must be a regular expression"},
      {good + R"(, "extract": [{"pattern": "x", "tak": "last"}]})", "try 'extract.take'"},
      {good + R"(, "shots": 3})", "'shots' must come with 'shot_answer'"},
      {good + R"(, "shots": -1, "shot_answer": "x"})", "'shots' must be an integer from 0"},
      {good + R"(, "kind": "guess"})", "'kind' must be \"generate\""},
      {good + R"(, "think": 1})", "'think' must be true or false"},
      {good + R"(, "otherwise": 3})", "'otherwise' must be a string or null"},
      {R"({"name": "t", "prompt": "{q}", "answer_letter": "{a}", "metrics": "exact_match"})",
       "must come with 'options'"},
      {R"({"name": "t", "kind": "choices", "prompt": "{q}", "answer": "{a}"})", "kind \"choices\""},
      {R"({"prompt": "{q}", "answer": "{a}", "metrics": "exact_match"})", "'name' and 'prompt'"},
      {R"({"name": "t", "prompt": "{q}", "answer": "{a}"})", "'metrics' must name a scorer"},
  };
  for (const auto& [text, part] : cases)
    EXPECT_NE(message(text).find(part), std::string::npos) << text << "\n" << message(text);
}

TEST(Tasks, WrongRecordsAreNamed) {
  const EvalTask task = ParseEvalTask(
      R"({"name": "t", "prompt": "{q} {options}", "options": "o", "answer_letter": "{a}",
          "metrics": "exact_match"})",
      "t.json");
  const auto message = [&](const Json& row) {
    return MessageOf([&] { MakeTaskItem(task, row, {}, {"d.jsonl:3", "."}, 1); });
  };
  EXPECT_EQ(message({{"q", "?"}, {"o", {"x", "y"}}, {"a", "B"}}), "no error");
  const std::pair<Json, std::string> cases[] = {
      {{{"question", "?"}, {"o", {"x"}}, {"a", "A"}}, "d.jsonl:3: must have the column 'q'"},
      {{{"q", "?"}, {"o", {"x"}}, {"a", "B"}}, "the answer must be one of the 1 options; got B"},
      {{{"q", "?"}, {"o", 5}, {"a", "B"}}, "'o' must be a list"},
      {{{"q", "?"}, {"o", "['x"}, {"a", "A"}}, "options must be a list"},
      {{{"q", "?"}, {"o", "no list"}, {"a", "A"}}, "options must be a list"},
  };
  for (const auto& [row, part] : cases)
    EXPECT_NE(message(row).find(part), std::string::npos) << row << "\n" << message(row);
}

// No file makes the reader do anything but read it or say what is wrong.
TEST(Tasks, AnyBytesAreReadOrRefused) {
  const std::string good = ReadFile(kTasks + "mmlu_pro.json");
  for (uint64_t trial = 0; trial < 600; ++trial) {
    std::string text = good;
    for (uint64_t i = 0; i < 1 + trial % 4; ++i) {
      const auto words = RandomBits({trial, 9, 9}, i);
      const size_t at = words[0] % text.size();
      if (words[1] % 3 == 0) text.erase(at, 1 + words[2] % 20);
      if (words[1] % 3 == 1) text[at] = static_cast<char>(words[2]);
      if (words[1] % 3 == 2) text.insert(at, text.substr(words[2] % text.size(), words[3] % 30));
      if (text.empty()) text = "{";
    }
    const std::string said = MessageOf([&] { ParseEvalTask(text, "t.json"); });
    EXPECT_TRUE(said == "no error" || said.find("t.json") == 0 ||
                said.find(": ") != std::string::npos)
        << said;
  }
}

// --- on a model ---

Bundle& Model() {
  static const TempFolder folder;
  static Bundle bundle = [] {
    MakeModel(MakeModelConfig("tiny", 2), folder.path() + "/base", {}, [](int64_t, int64_t) {});
    return OpenBundle(folder.path() + "/base");
  }();
  return bundle;
}

TEST(RunTask, ThroughTheModelAndBack) {
  const TempFolder folder;
  const auto planted = PlantedRecords(folder.path());
  for (const char* name : {"mmlu_pro", "mmmu_pro", "fleurs", "ifeval", "multiple_choice"}) {
    const std::string data = folder.path() + "/" + name + ".jsonl";
    WriteFile(data, planted.at(name).row.dump() + "\n" + planted.at(name).row.dump() + "\n");
    EvalTask task = LoadEvalTask(kTasks + name + ".json");
    task.shots = std::min<int64_t>(task.shots, 1);
    RunTaskOptions options;
    options.compute = Compute::kFloat32;
    options.shots = {data};
    options.max_new_tokens = 3;
    options.sample.image_budget = 70;
    const EvalResults results = RunTask(Model(), task, {data}, options);
    ASSERT_EQ(results.answers.size(), 2u) << name;
    EXPECT_EQ(results.answers[0].got, results.answers[1].got) << name;
    EXPECT_EQ(results.answers[0].rows.size(), results.metrics.size()) << name;
    EXPECT_EQ(results.answers[0].modality, std::string(name) == "mmmu_pro" ? "image"
                                           : std::string(name) == "fleurs" ? "audio"
                                                                           : "text");
    const Json json = ResultsJson(results, {});
    const EvalResults again = ReadResults(json.dump(), "results.json");
    EXPECT_EQ(ResultsJson(again, {}).at("figures"), json.at("figures")) << name;
    const std::string html = ResultsHtml(results, {});
    EXPECT_EQ(html.find("http"), std::string::npos);
    EXPECT_NE(html.find("</html>"), std::string::npos);
    EXPECT_NE(ResultsText(results, {}, 1).find(results.metrics[0].name), std::string::npos);
  }
  EvalTask task = LoadEvalTask(kTasks + "mmlu_pro.json");
  EXPECT_NE(MessageOf([&] {
              RunTask(Model(), task, {folder.path() + "/mmlu_pro.jsonl"}, {});
            }).find("try --shots-data"),
            std::string::npos);
}

TEST(RunTask, ThoughtsAreLeftOut) {
  EXPECT_EQ(WithoutThoughts(" plain "), "plain");
  EXPECT_EQ(WithoutThoughts("<|channel>thought\nhm\n<channel|>4"), "4");
  EXPECT_EQ(WithoutThoughts("<|channel>thought\nhm, never closed: 4"), "");
}

// --- results ---

EvalResults Results(const std::string& rights) {
  EvalResults results;
  results.task = "t";
  results.model = "m";
  results.metrics = {ResultMetricOf("exact_match"), ResultMetricOf("wer")};
  for (size_t i = 0; i < rights.size(); ++i) {
    const double right = rights[i] == '1';
    ScoredAnswer a;
    a.where = StrCat("d:", i);
    a.group = i % 2 ? "odd" : "even";
    a.question = "<q>";
    a.got = a.answer = "x";
    a.rows = {{right, 1}, {1 - right, 3}};
    results.answers.push_back(a);
  }
  return results;
}

TEST(Results, PairsAreTested) {
  const EvalResults first = Results("1111111111111100"), second = Results("0000000011111111");
  const std::vector<ResultsPair> pairs = CompareResults(first, second, {});
  ASSERT_EQ(pairs.size(), 6u);
  EXPECT_EQ(pairs[0].metric, "exact_match");
  EXPECT_EQ(pairs[0].lost, 8);
  EXPECT_EQ(pairs[0].gained, 2);
  EXPECT_NEAR(pairs[0].mcnemar, BinomialTest(8, 2), 1e-12);
  EXPECT_NEAR(pairs[0].figures.difference.value, 0.5 - 0.875, 1e-12);
  EXPECT_EQ(pairs[3].metric, "wer");
  EXPECT_FALSE(pairs[3].higher_is_better);
  EXPECT_LT(pairs[3].mcnemar, 0);
  EXPECT_NE(ResultsPairText(pairs, "a", "b").find("McNemar, 8 lost, 2 gained"), std::string::npos);
  EvalResults other = second;
  for (ScoredAnswer& a : other.answers) a.where += "x";
  EXPECT_THROW(CompareResults(first, other, {}), Error);
}

TEST(Results, FilesAreChecked) {
  const std::string good = ResultsJson(Results("10"), {}).dump();
  EXPECT_EQ(ReadResults(good, "r").answers.size(), 2u);
  const auto message = [](const std::string& text) {
    return MessageOf([&] { ReadResults(text, "r.json"); });
  };
  EXPECT_NE(message("{").find("r.json: must be what"), std::string::npos);
  EXPECT_NE(message("{}").find("r.json: must be what"), std::string::npos);
  Json wrong = Json::parse(good);
  wrong["records"][0]["rows"][1] = {1.0};
  EXPECT_NE(message(wrong.dump()).find("must have the sums of every scorer"), std::string::npos);
  for (uint64_t trial = 0; trial < 300; ++trial) {
    std::string text = good;
    const auto words = RandomBits({trial, 3, 3}, 0);
    text.replace(words[0] % text.size(), 1 + words[1] % 9,
                 std::string(1, static_cast<char>(words[2])));
    message(text);  // an Error or none, nothing else
  }
}

}  // namespace
}  // namespace lapidary
