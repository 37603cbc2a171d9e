// Activations become integers, with one scale for each token.
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
  if (format != Format::kInt8) return 32767;
  return int(std::clamp<int64_t>(int64_t(INT32_MAX) / (127 * round_up(inputs, 2)), 1, 32767));
}

void quantise_row_int16(const float* x, int64_t inputs, int64_t padded, int limit, int16_t* q,
                        float* scale, float* block_sums) {
  float spoiled;
  const float most = largest(x, inputs, &spoiled);
  const float inverse = most > 0 ? float(limit) / most : 0.0f;
  // The inverse of a denormal is infinite: such a token is zero.
  const __m256 factor = _mm256_set1_ps(std::isfinite(inverse) ? inverse : 0.0f);
  *scale = most / float(limit) + spoiled;
  for (int64_t block = 0; block < padded; block += kBlock) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t i = block; i < block + kBlock; i += 8) {
      const __m256 v = i < inputs ? load_some(x + i, inputs - i) : _mm256_setzero_ps();
      const __m256i wide = _mm256_cvtps_epi32(_mm256_mul_ps(v, factor));
      sum = _mm256_add_epi32(sum, wide);
      const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(wide),
                                             _mm256_extracti128_si256(wide, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), narrow);
    }
    // At most 32 * 32767: exact in float32.
    block_sums[block / kBlock] = sum_lanes(_mm256_cvtepi32_ps(sum));
  }
}

}  // namespace llmplug
