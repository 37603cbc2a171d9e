#include "rows.h"

#include <cmath>

namespace llmplug {

void norm_row(const float* x, const float* weight, int64_t width, float eps, float* y) {
  __m256 squares[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t i = 0; i < width; i += 8) {
    const __m256 v = load_some(x + i, width - i);
    __m256& sum = squares[(i >> 3) & 1];
    sum = _mm256_fmadd_ps(v, v, sum);
  }
  const float mean = sum_lanes(_mm256_add_ps(squares[0], squares[1])) / float(width);
  const __m256 factor = _mm256_set1_ps(1.0f / std::sqrt(mean + eps));
  for (int64_t i = 0; i < width; i += 8) {
    const __m256 v = _mm256_mul_ps(load_some(x + i, width - i), factor);
    store_some(y + i, _mm256_mul_ps(v, load_some(weight + i, width - i)), width - i);
  }
}

void rotate_head(const float* x, const float* cosines, const float* sines, int64_t half,
                 int64_t width, float* y) {
  for (int64_t i = 0; i < half; i += 8) {
    const int64_t left = half - i;
    const __m256 a = load_some(x + i, left);
    const __m256 b = load_some(x + half + i, left);
    const __m256 c = load_some(cosines + i, left);
    const __m256 s = load_some(sines + i, left);
    store_some(y + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)), left);
    store_some(y + half + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)), left);
  }
  for (int64_t i = 2 * half; i < width; ++i) y[i] = x[i];
}

void gate_rows(const float* x, int64_t x_stride, int64_t rows, int64_t width, float* y) {
  for_rows(rows, 4 * width, [&](int64_t r) {
    const float* gate = x + r * x_stride;
    for (int64_t i = 0; i < width; i += 8) {
      const int64_t left = width - i;
      store_some(y + r * width + i,
                 gate8(load_some(gate + i, left), load_some(gate + width + i, left)), left);
    }
  });
}

}  // namespace llmplug

using namespace llmplug;

extern "C" {

// y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight. With `residual`, x + residual replaces x and is
// written to `sum`. Rows of x are x_stride apart, all others `width`.
void llmplug_rms_norm(const float* x, int64_t x_stride, const float* residual, const float* weight,
                      int64_t rows, int64_t width, float eps, float* y, float* sum) {
  for_rows(rows, width, [&](int64_t r) {
    const float* row = x + r * x_stride;
    if (residual != nullptr) {
      float* target = sum + r * width;
      for (int64_t i = 0; i < width; i += 8) {
        const __m256 total = _mm256_add_ps(load_some(row + i, width - i),
                                           load_some(residual + r * width + i, width - i));
        store_some(target + i, total, width - i);
      }
      row = target;
    }
    norm_row(row, weight, width, eps, y + r * width);
  });
}

void llmplug_silu_mul(const float* x, int64_t x_stride, int64_t rows, int64_t width, float* y) {
  gate_rows(x, x_stride, rows, width, y);
}

// Rotates all heads of `width` numbers of each token of q and of k. Tokens are q_stride or k_stride
// apart, heads `width`; the results are contiguous. A row of the table holds `half` cosines, then
// `half` sines.
void llmplug_rope(const float* q, int64_t q_stride, int64_t q_heads, float* new_q, const float* k,
                  int64_t k_stride, int64_t k_heads, float* new_k, const int64_t* positions,
                  const float* table, int64_t tokens, int64_t width, int64_t half) {
  for_rows(tokens, (q_heads + k_heads) * width, [&](int64_t t) {
    const float* cosines = table + positions[t] * 2 * half;
    for (int64_t h = 0; h < q_heads; ++h) {
      rotate_head(q + t * q_stride + h * width, cosines, cosines + half, half, width,
                  new_q + (t * q_heads + h) * width);
    }
    for (int64_t h = 0; h < k_heads; ++h) {
      rotate_head(k + t * k_stride + h * width, cosines, cosines + half, half, width,
                  new_k + (t * k_heads + h) * width);
    }
  });
}

}  // extern "C"
