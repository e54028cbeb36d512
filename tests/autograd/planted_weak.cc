// A weak function as weak_symbols.cmake must find it: a template that this object instantiates.
#include <vector>

float PlantedSum(int n) {
  std::vector<float> values(static_cast<unsigned>(n), 1.0f);
  float sum = 0;
  for (float v : values) sum += v;
  return sum;
}
