// Weights in int8 with one scale for each output, times activations in int16 with one scale for
// each token. vpmaddwd multiplies as many pairs in a cycle as the 8-bit vpmaddubsw needs two
// instructions for, cannot saturate, and leaves the activations up to 15 bits instead of 8.
// Panel: for each pair of inputs, 16 outputs x 2 bytes; behind the last panel the scales.
#include <algorithm>
#include <cmath>

#include "linear.h"
#include "simd.h"

namespace llmplug {
namespace {

template <int kRows>
void multiply_tile(const PanelCall& call, int64_t first) {
  const uint8_t* w = call.panel;
  const int64_t stride = call.rows.stride;
  const int16_t* q = call.rows.q16 + first * stride;
  __m256i sums[kRows][2];
  UNROLL for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
  const int64_t pairs = (call.inputs + 1) / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const auto* pair = reinterpret_cast<const __m128i*>(w + 32 * i);
    const __m256i w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(pair));
    const __m256i w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(pair + 1));
    UNROLL for (int r = 0; r < kRows; ++r) {
      const __m256i a = broadcast_word(q + r * stride + 2 * i);
      add_products(sums[r][0], a, w0);
      add_products(sums[r][1], a, w1);
    }
  }
  UNROLL for (int r = 0; r < kRows; ++r) {
    float* y = call.y + (first + r) * call.y_stride;
    const __m256 row_scale = _mm256_set1_ps(call.rows.row_scale[first + r]);
    UNROLL for (int half = 0; half < 2; ++half) {
      const __m256 scale = _mm256_mul_ps(row_scale, load8(call.output_scale + 8 * half));
      __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][half]), scale);
      if (call.bias != nullptr) sum = _mm256_add_ps(sum, load8(call.bias + 8 * half));
      store_some(y + 8 * half, sum, call.valid - 8 * half);
    }
  }
}

}  // namespace

void multiply_int8(const PanelCall& call, int64_t count) {
  for_row_tiles(count, [&](int64_t first, auto rows) { multiply_tile<rows>(call, first); });
}

}  // namespace llmplug

// Quantises `rows` rows of a float32 weight into the panels of a segment, from its output `at`
// on; `scales` is the segment's array of scales. Each row's largest |weight| becomes 127.
extern "C" void llmplug_pack_int8(const float* source, int64_t rows, int64_t inputs, int64_t at,
                                  int8_t* target, float* scales) {
  const int64_t padded = llmplug::round_up(inputs, 2);
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = source + r * inputs;
    float most = 0;
    for (int64_t i = 0; i < inputs; ++i) most = std::max(most, std::fabs(row[i]));
    const float inverse = most > 0 ? 127.0f / most : 0.0f;
    const float factor = std::isfinite(inverse) ? inverse : 0.0f;
    int8_t* panel = target + (at + r) / 16 * padded * 16 + (at + r) % 16 * 2;
    for (int64_t i = 0; i < inputs; ++i) {
      panel[i / 2 * 32 + i % 2] = int8_t(std::nearbyint(row[i] * factor));
    }
    scales[at + r] = most / 127.0f;
  }
}
