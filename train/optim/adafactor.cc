#include "train/optim/adafactor.h"

#include <algorithm>
#include <cmath>

#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

// A parameter as a batch of matrices.
struct Matrices {
  int64_t count = 1, rows = 1, cols = 1;

  explicit Matrices(const Shape& shape) {
    rows = shape[shape.rank - 2];
    cols = shape[shape.rank - 1];
    for (int i = 0; i + 2 < shape.rank; ++i) count *= shape[i];
  }
};

// Columns summed together: a cache line's worth of doubles, times a few.
constexpr int64_t kColumns = 64;

Shape Without(const Shape& shape, int axis) {
  Shape out;
  for (int i = 0; i < shape.rank; ++i) {
    if (i != axis) out.dims[out.rank++] = shape.dims[i];
  }
  return out;
}

float Blend(double keep, float old, double fresh) {
  return static_cast<float>(keep * static_cast<double>(old) + (1 - keep) * fresh);
}

// Brings row and col up to date and overwrites the gradient g with g / sqrt(v).
void Factored(const Matrices& m, double keep, double epsilon, float* row, float* col, float* g) {
  ParallelFor(m.count * m.rows, [&](Range range) {
    for (int64_t r = range.begin; r < range.end; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < m.cols; ++c) {
        const double x = g[r * m.cols + c];
        sum += x * x + epsilon;
      }
      row[r] = Blend(keep, row[r], sum / static_cast<double>(m.cols));
    }
  });
  const int64_t groups = (m.cols + kColumns - 1) / kColumns;
  ParallelFor(m.count * groups, [&](Range range) {
    for (int64_t unit = range.begin; unit < range.end; ++unit) {
      const int64_t matrix = unit / groups, first = unit % groups * kColumns;
      const int64_t size = std::min(kColumns, m.cols - first);
      double sums[kColumns] = {};
      for (int64_t r = 0; r < m.rows; ++r) {
        const float* line = g + (matrix * m.rows + r) * m.cols + first;
        for (int64_t c = 0; c < size; ++c) {
          sums[c] += static_cast<double>(line[c]) * line[c] + epsilon;
        }
      }
      for (int64_t c = 0; c < size; ++c) {
        float& state = col[matrix * m.cols + first + c];
        state = Blend(keep, state, sums[c] / static_cast<double>(m.rows));
      }
    }
  });
  Tensor by_row({m.count * m.rows}), by_col({m.count * m.cols});
  ParallelFor(m.count, [&](Range range) {
    for (int64_t matrix = range.begin; matrix < range.end; ++matrix) {
      double mean = 0;
      for (int64_t r = 0; r < m.rows; ++r) mean += row[matrix * m.rows + r];
      mean /= static_cast<double>(m.rows);
      for (int64_t i = matrix * m.rows; i < (matrix + 1) * m.rows; ++i) {
        by_row.data()[i] = static_cast<float>(1 / std::sqrt(static_cast<double>(row[i]) / mean));
      }
      for (int64_t i = matrix * m.cols; i < (matrix + 1) * m.cols; ++i) {
        by_col.data()[i] = static_cast<float>(1 / std::sqrt(static_cast<double>(col[i])));
      }
    }
  });
  ParallelFor(m.count * m.rows, [&](Range range) {
    for (int64_t r = range.begin; r < range.end; ++r) {
      const float* factors = by_col.data() + r / m.rows * m.cols;
      for (int64_t c = 0; c < m.cols; ++c) g[r * m.cols + c] *= by_row.data()[r] * factors[c];
    }
  });
}

}  // namespace

Adafactor::Adafactor(const std::vector<Param*>& params, const AdafactorOptions& options)
    : Optimizer(params), options_(options) {
  LAPIDARY_CHECK(options.clip_threshold > 0, "optim_args.clip_threshold: must be > 0; got ",
                 options.clip_threshold, "; try 1.0");
  LAPIDARY_CHECK(options.decay_rate < 0 && options.decay_rate >= -1,
                 "optim_args.decay_rate: must be in [-1, 0); got ", options.decay_rate,
                 "; try -0.8");
  LAPIDARY_CHECK(options.beta1 >= 0 && options.beta1 < 1,
                 "optim_args.beta1: must be in [0, 1); got ", options.beta1, "; try 0.9");
  for (OptimizerSlot& slot : slots()) {
    slot.weight_decay = options.weight_decay;
    const Shape& shape = slot.param->value.shape();
    const auto add = [&](const char* name, const Shape& s) {
      slot.states.push_back({name, MomentState(s, DType::kF32, true)});
    };
    if (shape.rank >= 2) {
      add("exp_avg_sq_row", Without(shape, shape.rank - 1));
      add("exp_avg_sq_col", Without(shape, shape.rank - 2));
    } else {
      add("exp_avg_sq", shape);
    }
    if (options.beta1 > 0) add("exp_avg", shape);
  }
}

void Adafactor::Update(OptimizerSlot& slot, double learning_rate) {
  const Shape& shape = slot.param->value.shape();
  const int64_t size = shape.size();
  float* p = slot.param->value.data();
  float* g = slot.param->grad.data();
  double lr = learning_rate;
  if (options_.scale_parameter) lr *= std::max(options_.epsilon_scale, RootMeanSquare(p, size));
  const double keep = 1 - std::pow(static_cast<double>(slot.step), options_.decay_rate);
  float* first = slot.states[0].moment.values.data();
  if (shape.rank >= 2) {
    Factored(Matrices(shape), keep, options_.epsilon, first, slot.states[1].moment.values.data(),
             g);
  } else {
    ParallelFor(
        size,
        [&](Range range) {
          for (int64_t i = range.begin; i < range.end; ++i) {
            const double x = g[i];
            first[i] = Blend(keep, first[i], x * x + options_.epsilon);
            g[i] = static_cast<float>(x / std::sqrt(static_cast<double>(first[i])));
          }
        },
        kOptimizerPiece);
  }
  const double scale = lr / std::max(1.0, RootMeanSquare(g, size) / options_.clip_threshold);
  const float update = static_cast<float>(scale);
  const float decay = static_cast<float>(lr * slot.weight_decay);
  const float b1 = static_cast<float>(options_.beta1), c1 = static_cast<float>(1 - options_.beta1);
  float* average = options_.beta1 > 0 ? slot.states.back().moment.values.data() : nullptr;
  ParallelFor(
      size,
      [&](Range range) {
        for (int64_t i = range.begin; i < range.end; ++i) {
          float u = update * g[i];
          if (average) u = average[i] = b1 * average[i] + c1 * u;
          p[i] -= decay * p[i] + u;
        }
      },
      kOptimizerPiece);
}

}  // namespace lapidary
