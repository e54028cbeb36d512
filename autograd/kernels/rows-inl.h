// Kernels on rows and columns: biases, column scales, norms, rotation. Included once per
// instruction set by kernels.cc.
HWY_BEFORE_NAMESPACE();
namespace lapidary::HWY_NAMESPACE {

void AddBias(const AddBiasArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float* x = a.x + n * a.cols;
    float* y = a.y + n * a.cols;
    Sweep(0, a.cols, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
      io.Store(hn::Add(io.Load(x + c), io.Load(a.b + c)), y + c);
    });
  }
}

// out[c] += sum over rows n of term(n, c), in tiles of columns that stay in the first-level cache
// while the rows stream by. Every column goes on from out[c], row after row: rows in several calls
// give the bits of one.
constexpr int64_t kColumnTile = 256;
template <class Term>
HWY_INLINE void SumColumns(int64_t rows, Range cols, float* out, const Term& term) {
  HWY_ALIGN float sum[kColumnTile];
  for (int64_t tile = cols.begin; tile < cols.end; tile += kColumnTile) {
    const int64_t end = std::min(tile + kColumnTile, cols.end);
    std::copy(out + tile, out + end, sum);
    for (int64_t n = 0; n < rows; ++n) {
      Sweep(tile, end, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
        io.Store(term(n, c, io, io.Load(sum + (c - tile))), sum + (c - tile));
      });
    }
    std::copy(sum, sum + (end - tile), out + tile);
  }
}

void SumRows(const SumRowsArgs& a, Range cols) noexcept {
  SumColumns(a.rows, cols, a.sum,
             [&](int64_t n, int64_t c, const auto& io, Vec sum)
                 LAPIDARY_INLINE { return hn::Add(sum, io.Load(a.x + n * a.cols + c)); });
}

void ScaleColumns(const ScaleColumnsArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const int64_t row = n * a.cols;
    Sweep(0, a.cols, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
      const Vec gain = hn::Mul(io.Load(a.g + c), io.Load(a.k + c));
      io.Store(hn::Mul(io.Load(a.x + row + c), gain), a.y + row + c);
    });
  }
}

void ScaleColumnsGradX(const ScaleColumnsArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const int64_t row = n * a.cols;
    Sweep(0, a.cols, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
      const Vec gain = hn::Mul(io.Load(a.g + c), io.Load(a.k + c));
      io.Store(hn::MulAdd(io.Load(a.dy + row + c), gain, io.Load(a.dx + row + c)), a.dx + row + c);
    });
  }
}

void ScaleColumnsGradG(const ScaleColumnsArgs& a, Range cols) noexcept {
  SumColumns(a.rows, cols, a.dg,
             [&](int64_t n, int64_t c, const auto& io, Vec sum) LAPIDARY_INLINE {
               const Vec scaled = hn::Mul(io.Load(a.k + c), io.Load(a.x + n * a.cols + c));
               return hn::MulAdd(io.Load(a.dy + n * a.cols + c), scaled, sum);
             });
}

void RmsNorm(const RmsNormArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float* x = a.x + n * a.cols;
    float* y = a.y + n * a.cols;
    const float sum = SweepSum(a.cols, [&](int64_t c, const auto& io, Vec acc) LAPIDARY_INLINE {
      const Vec v = io.Load(x + c);
      return hn::MulAdd(v, v, acc);
    });
    const float rstd = 1.0f / std::sqrt(sum / static_cast<float>(a.cols) + a.eps);
    a.rstd[n] = rstd;
    const Vec s = Const(rstd);
    if (a.w) {
      Sweep(0, a.cols, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
        io.Store(hn::Mul(hn::Mul(io.Load(x + c), s), io.Load(a.w + c)), y + c);
      });
    } else {
      Sweep(0, a.cols, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
        io.Store(hn::Mul(io.Load(x + c), s), y + c);
      });
    }
  }
}

// With g = w dy and s = 1 / rms, per row: dx = s g - x s^3 mean(g x).
void RmsNormGradX(const RmsNormArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float *x = a.x + n * a.cols, *dy = a.dy + n * a.cols;
    float* dx = a.dx + n * a.cols;
    const auto gain = [&](int64_t c, const auto& io) LAPIDARY_INLINE {
      return a.w ? hn::Mul(io.Load(a.w + c), io.Load(dy + c)) : io.Load(dy + c);
    };
    const float sum = SweepSum(a.cols, [&](int64_t c, const auto& io, Vec acc) LAPIDARY_INLINE {
      return hn::MulAdd(gain(c, io), io.Load(x + c), acc);
    });
    const float s = a.rstd[n];
    const Vec rstd = Const(s), shrink = Const(sum / static_cast<float>(a.cols) * s * s * s);
    Sweep(0, a.cols, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
      const Vec change = hn::NegMulAdd(io.Load(x + c), shrink, hn::Mul(rstd, gain(c, io)));
      io.Store(hn::Add(io.Load(dx + c), change), dx + c);
    });
  }
}

void RmsNormGradW(const RmsNormArgs& a, Range cols) noexcept {
  SumColumns(a.rows, cols, a.dw,
             [&](int64_t n, int64_t c, const auto& io, Vec sum) LAPIDARY_INLINE {
               const Vec unit = hn::Mul(io.Load(a.x + n * a.cols + c), Const(a.rstd[n]));
               return hn::MulAdd(io.Load(a.dy + n * a.cols + c), unit, sum);
             });
}

void LayerNorm(const LayerNormArgs& a, Range rows) noexcept {
  const float inverse = 1.0f / static_cast<float>(a.cols);
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float* x = a.x + n * a.cols;
    float* y = a.y + n * a.cols;
    const float sum = SweepSum(a.cols, [&](int64_t c, const auto& io, Vec acc) LAPIDARY_INLINE {
      return hn::Add(acc, io.Load(x + c));
    });
    const Vec mean = Const(sum * inverse);
    const float var = SweepSum(a.cols, [&](int64_t c, const auto& io, Vec acc) LAPIDARY_INLINE {
      const Vec v = io.Keep(hn::Sub(io.Load(x + c), mean));
      return hn::MulAdd(v, v, acc);
    });
    a.mean[n] = sum * inverse;
    a.rstd[n] = 1.0f / std::sqrt(var * inverse + a.eps);
    const Vec rstd = Const(a.rstd[n]);
    Sweep(0, a.cols, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
      const Vec unit = hn::Mul(hn::Sub(io.Load(x + c), mean), rstd);
      io.Store(hn::MulAdd(unit, io.Load(a.w + c), io.Load(a.b + c)), y + c);
    });
  }
}

// With g = w dy and h = (x - mean) s, per row: dx = s (g - mean(g) - h mean(g h)).
void LayerNormGradX(const LayerNormArgs& a, Range rows) noexcept {
  const float inverse = 1.0f / static_cast<float>(a.cols);
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float *x = a.x + n * a.cols, *dy = a.dy + n * a.cols;
    float* dx = a.dx + n * a.cols;
    const Vec mean = Const(a.mean[n]), rstd = Const(a.rstd[n]);
    const auto unit = [&](int64_t c, const auto& io)
                          LAPIDARY_INLINE { return hn::Mul(hn::Sub(io.Load(x + c), mean), rstd); };
    const float g = SweepSum(a.cols, [&](int64_t c, const auto& io, Vec acc) LAPIDARY_INLINE {
      return hn::MulAdd(io.Load(a.w + c), io.Load(dy + c), acc);
    });
    const float gh = SweepSum(a.cols, [&](int64_t c, const auto& io, Vec acc) LAPIDARY_INLINE {
      return hn::MulAdd(hn::Mul(io.Load(a.w + c), io.Load(dy + c)), unit(c, io), acc);
    });
    const Vec mean_g = Const(g * inverse), mean_gh = Const(gh * inverse);
    Sweep(0, a.cols, [&](int64_t c, const auto& io) LAPIDARY_INLINE {
      const Vec free = hn::Sub(hn::Mul(io.Load(a.w + c), io.Load(dy + c)), mean_g);
      const Vec slope = hn::NegMulAdd(unit(c, io), mean_gh, free);
      io.Store(hn::MulAdd(rstd, slope, io.Load(dx + c)), dx + c);
    });
  }
}

void LayerNormGradW(const LayerNormArgs& a, Range cols) noexcept {
  if (a.dw) {
    SumColumns(
        a.rows, cols, a.dw, [&](int64_t n, int64_t c, const auto& io, Vec sum) LAPIDARY_INLINE {
          const Vec unit =
              hn::Mul(hn::Sub(io.Load(a.x + n * a.cols + c), Const(a.mean[n])), Const(a.rstd[n]));
          return hn::MulAdd(io.Load(a.dy + n * a.cols + c), unit, sum);
        });
  }
  if (a.db) {
    SumColumns(a.rows, cols, a.db,
               [&](int64_t n, int64_t c, const auto& io, Vec sum)
                   LAPIDARY_INLINE { return hn::Add(sum, io.Load(a.dy + n * a.cols + c)); });
  }
}

void Rope(const RopeArgs& a, Range tokens) noexcept {
  const int64_t half = a.width / 2;
  const Vec sign = Const(a.sign);
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    const float *cos = a.cos + n * half, *sin = a.sin + n * half;
    for (int64_t h = 0; h < a.heads; ++h) {
      const float* x = a.x + (n * a.heads + h) * a.width;
      float* y = a.y + (n * a.heads + h) * a.width;
      Sweep(0, half, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
        const Vec c = io.Load(cos + i), s = hn::Mul(sign, io.Load(sin + i));
        const Vec x0 = io.Load(x + i), x1 = io.Load(x + i + half);
        Vec low = hn::NegMulAdd(x1, s, hn::Mul(x0, c));
        Vec high = hn::MulAdd(x0, s, hn::Mul(x1, c));
        if (a.add) {
          low = hn::Add(io.Load(y + i), low);
          high = hn::Add(io.Load(y + i + half), high);
        }
        io.Store(low, y + i);
        io.Store(high, y + i + half);
      });
    }
  }
}

}  // namespace lapidary::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
