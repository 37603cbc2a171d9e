// Dense weights, float32 or bfloat16, times float32 activations. Panel: for each input, 16 outputs.
#include <algorithm>

#include "linear.h"
#include "simd.h"

namespace llmplug {
namespace {

template <int kRows, class Number>
void multiply_tile(const PanelCall& call, int64_t first) {
  const auto* w = reinterpret_cast<const Number*>(call.panel);
  const float* x = call.rows.x + first * call.rows.stride;
  const int64_t stride = call.rows.stride;
  __m256 sums[kRows][2];
  UNROLL for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
  for (int64_t i = 0; i < call.inputs; ++i) {
    const __m256 w0 = load8(w + 16 * i);
    const __m256 w1 = load8(w + 16 * i + 8);
    UNROLL for (int r = 0; r < kRows; ++r) {
      const __m256 a = _mm256_broadcast_ss(x + r * stride + i);
      sums[r][0] = _mm256_fmadd_ps(a, w0, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(a, w1, sums[r][1]);
    }
  }
  UNROLL for (int r = 0; r < kRows; ++r) {
    float* y = call.y + (first + r) * call.y_stride;
    UNROLL for (int half = 0; half < 2; ++half) {
      __m256 sum = sums[r][half];
      if (call.bias != nullptr) sum = _mm256_add_ps(sum, load8(call.bias + 8 * half));
      store_some(y + 8 * half, sum, call.valid - 8 * half);
    }
  }
}

template <class Number>
void multiply_panel(const PanelCall& call, int64_t count) {
  for_row_tiles(count, [&](int64_t first, auto rows) {
    multiply_tile<rows, Number>(call, first);
  });
}

}  // namespace

void multiply_dense_f32(const PanelCall& call, int64_t count) {
  multiply_panel<float>(call, count);
}

void multiply_dense_bf16(const PanelCall& call, int64_t count) {
  multiply_panel<BF16>(call, count);
}

}  // namespace llmplug

extern "C" {

// Writes `rows` rows of a float32 weight into the panels of a segment, from its output `at` on.
void llmplug_pack_float32(const float* source, int64_t rows, int64_t inputs, int64_t at,
                          float* target) {
  for (int64_t r = 0; r < rows; ++r) {
    float* panel = target + (at + r) / 16 * inputs * 16 + (at + r) % 16;
    for (int64_t i = 0; i < inputs; ++i) panel[16 * i] = source[r * inputs + i];
  }
}

void llmplug_pack_bfloat16(const uint16_t* source, int64_t rows, int64_t inputs, int64_t at,
                           uint16_t* target) {
  for (int64_t r = 0; r < rows; ++r) {
    uint16_t* panel = target + (at + r) / 16 * inputs * 16 + (at + r) % 16;
    for (int64_t i = 0; i < inputs; ++i) panel[16 * i] = source[r * inputs + i];
  }
}

}  // extern "C"
