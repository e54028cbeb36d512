// The subcommands of `lapidary`, one file each.
#ifndef LAPIDARY_RECIPES_COMMANDS_H_
#define LAPIDARY_RECIPES_COMMANDS_H_

namespace CLI {
class App;
}

namespace lapidary {

void AddTrain(CLI::App& cli);
void AddChat(CLI::App& cli);
void AddCompare(CLI::App& cli);
void AddCompletion(CLI::App& cli);
void AddEval(CLI::App& cli);
void AddExport(CLI::App& cli);
void AddGenerate(CLI::App& cli);
void AddImatrix(CLI::App& cli);
void AddInspect(CLI::App& cli);
void AddMakeModel(CLI::App& cli);
void AddMakeData(CLI::App& cli);
void AddData(CLI::App& cli);
void AddDistillCache(CLI::App& cli);
void AddDoctor(CLI::App& cli);
void AddPlan(CLI::App& cli);
void AddServe(CLI::App& cli);
void AddTokenize(CLI::App& cli);
void AddVerify(CLI::App& cli);
void AddWatch(CLI::App& cli);

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_COMMANDS_H_
