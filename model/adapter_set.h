// Several adapters over one base, one at a time: they are read once and exchanged in no time.
#ifndef LAPIDARY_MODEL_ADAPTER_SET_H_
#define LAPIDARY_MODEL_ADAPTER_SET_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "quant/adapter.h"

namespace lapidary {

class AdapterSet {
 public:
  // `model` must outlive this and carry no adapter of its own.
  explicit AdapterSet(Transformer& model) : model_(model) {}

  // Reads a PEFT folder; the base is used until Use says otherwise. Throws Error for a name that is
  // taken, and for adapters that change the base itself: with modules_to_save, or trained on a
  // quantization grid. Returns its configuration.
  AdapterConfig Add(const std::string& name, const std::string& folder);
  bool Has(const std::string& name) const { return parked_.count(name) > 0; }
  // The adapter of this name from now on; "": the base alone. Throws Error for an unknown name.
  void Use(const std::string& name);
  const std::string& used() const { return used_; }

 private:
  using Parts = std::vector<std::unique_ptr<Lora>>;  // of every Linear, in the visitor's order
  Parts TakeOut();

  Transformer& model_;
  std::map<std::string, Parts> parked_;  // empty Parts: in use
  std::string used_;
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_ADAPTER_SET_H_
