// Ops on single tokens: norms, the gate of a feed-forward layer, rotary position embedding.
// Tokens are shared out over the threads once there are enough of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "pool.h"
#include "simd.h"

namespace llmplug {

// Numbers that one thread handles in about the time that waking another costs.
constexpr int64_t kAlone = 16384;

template <class Function>
void for_rows(int64_t rows, int64_t width, Function&& function) {
  if (rows * width <= kAlone) {
    for (int64_t r = 0; r < rows; ++r) function(r);
    return;
  }
  const int64_t chunk = std::max<int64_t>(1, rows / (4 * num_threads()));
  parallel_for(int((rows + chunk - 1) / chunk), [&](int index) {
    const int64_t end = std::min(rows, (index + 1) * chunk);
    for (int64_t r = index * chunk; r < end; ++r) function(r);
  });
}

// y = x / sqrt(mean(x^2) + eps) * weight. May be in place.
void norm_row(const float* x, const float* weight, int64_t width, float eps, float* y);

// Rotates the first 2 * half numbers of a head; the others are copied. May be in place.
void rotate_head(const float* x, const float* cosines, const float* sines, int64_t half,
                 int64_t width, float* y);

// silu(gate) * up
inline __m256 gate8(__m256 gate, __m256 up) {
  const __m256 e = exp8(_mm256_sub_ps(_mm256_setzero_ps(), gate));
  return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1.0f), e)), up);
}

// y[t] = silu(x[t, :width]) * x[t, width:]; rows of x are x_stride apart.
void gate_rows(const float* x, int64_t x_stride, int64_t rows, int64_t width, float* y);

}  // namespace llmplug
