#include "model/adapter_set.h"

#include "model/adapt.h"
#include "model/qat.h"

namespace lapidary {

AdapterSet::Parts AdapterSet::TakeOut() {
  Parts parts;
  ForEachLinear(model_, [&](Linear& l) { parts.push_back(std::move(l.lora)); });
  return parts;
}

AdapterConfig AdapterSet::Add(const std::string& name, const std::string& folder) {
  LAPIDARY_CHECK(!name.empty() && !Has(name), "adapter '", name,
                 "': names must be given and differ; got ",
                 name.empty() ? "none" : "this one twice");
  const Adapter adapter = OpenAdapter(folder);
  LAPIDARY_CHECK(adapter.config.modules_to_save.empty(), folder,
                 ": adapters that are exchanged must leave the base as it is; got modules_to_save; "
                 "try lapidary export to merge it");
  LAPIDARY_CHECK(!ReadQatRecord(folder), folder,
                 ": adapters that are exchanged must leave the base as it is; got one trained on a "
                 "quantization grid; try lapidary export to merge it");
  const std::string before = used_;
  Use("");
  AdapterConfig config = LoadAdapter(model_, folder, /*trainable=*/false);
  parked_[name] = TakeOut();
  Use(before);
  return config;
}

void AdapterSet::Use(const std::string& name) {
  LAPIDARY_CHECK(name.empty() || Has(name), "adapter '", name, "': must have been added; got ",
                 parked_.size(), " others");
  if (name == used_) return;
  if (!used_.empty()) parked_[used_] = TakeOut();
  used_ = name;
  if (name.empty()) return;
  Parts& parts = parked_[name];
  size_t i = 0;
  ForEachLinear(model_, [&](Linear& l) { l.lora = std::move(parts[i++]); });
}

}  // namespace lapidary
