// Activations become integers: one scale for each token, or one for each block of 32 inputs.
// A token is quantised by its own numbers alone. A NaN or an infinity makes its whole token NaN.
#include <algorithm>
#include <cmath>

#include "linear.h"
#include "simd.h"

namespace llmplug {
namespace {

// Largest |x|; `spoiled` becomes NaN if a number is not finite, else stays 0.
float largest(const float* x, int64_t count, float* spoiled) {
  __m256 most = _mm256_setzero_ps();
  __m256 bad = _mm256_setzero_ps();
  for (int64_t i = 0; i < count; i += 8) {
    const __m256 v = load_some(x + i, count - i);
    most = _mm256_max_ps(abs8(v), most);
    bad = _mm256_fmadd_ps(v, _mm256_setzero_ps(), bad);
  }
  *spoiled = sum_lanes(bad);
  return max_lanes(most);
}

}  // namespace

int row_int16_limit(Format format, int64_t inputs) {
  if (format == Format::kQ8_0) return 32767;
  return int(std::clamp<int64_t>(int64_t(INT32_MAX) / (127 * round_up(inputs, 2)), 1, 32767));
}

void quantise_row_int16(const float* x, int64_t inputs, int64_t padded, int limit, int16_t* q,
                        float* scale) {
  float spoiled;
  const float most = largest(x, inputs, &spoiled);
  const float inverse = most > 0 ? float(limit) / most : 0.0f;
  // The inverse of a denormal is infinite: such a token is zero.
  const __m256 factor = _mm256_set1_ps(std::isfinite(inverse) ? inverse : 0.0f);
  *scale = most / float(limit) + spoiled;
  for (int64_t i = 0; i < padded; i += 8) {
    const __m256 v = i < inputs ? load_some(x + i, inputs - i) : _mm256_setzero_ps();
    const __m256i wide = _mm256_cvtps_epi32(_mm256_mul_ps(v, factor));
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(wide),
                                           _mm256_extracti128_si256(wide, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), narrow);
  }
}

void quantise_row_blocks(const float* x, int64_t inputs, int8_t* q, float* scales) {
  for (int64_t b = 0; b * kBlock < inputs; ++b) {
    const float* block = x + b * kBlock;
    float spoiled;
    const float most = largest(block, kBlock, &spoiled);
    const float inverse = most > 0 ? 127.0f / most : 0.0f;
    const __m256 factor = _mm256_set1_ps(std::isfinite(inverse) ? inverse : 0.0f);
    __m256i parts[4];
    __m256i sum = _mm256_setzero_si256();
    for (int j = 0; j < 4; ++j) {
      parts[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(block + 8 * j), factor));
      sum = _mm256_add_epi32(sum, parts[j]);
    }
    // The packs work within 128-bit halves; the permutation puts the eight groups in order.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(parts[0], parts[1]),
                                             _mm256_packs_epi32(parts[2], parts[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + b * kBlock),
                        _mm256_permutevar8x32_epi32(bytes, order));
    const float scale = most / 127.0f + spoiled;
    scales[2 * b] = scale;
    scales[2 * b + 1] = scale * sum_lanes(_mm256_cvtepi32_ps(sum));
  }
}

}  // namespace llmplug
