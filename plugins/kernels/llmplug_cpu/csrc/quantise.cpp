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

void quantise_row_int8(const float* x, int64_t inputs, int8_t* q, float* scales, float* sums) {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i swapped = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
  for (int64_t block = 0; block < inputs / kBlock; ++block) {
    float spoiled;
    const float most = largest(x + block * kBlock, kBlock, &spoiled);
    const float inverse = most > 0 ? 127.0f / most : 0.0f;
    const __m256 factor = _mm256_set1_ps(std::isfinite(inverse) ? inverse : 0.0f);
    const float scale = most / 127.0f + spoiled;
    __m256i wide[4];
    for (int i = 0; i < 4; ++i) {
      wide[i] = _mm256_cvtps_epi32(
          _mm256_mul_ps(_mm256_loadu_ps(x + block * kBlock + 8 * i), factor));
    }
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(wide[0], wide[1]),
                                         _mm256_add_epi32(wide[2], wide[3]));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(wide[0], wide[1]),
                                             _mm256_packs_epi32(wide[2], wide[3]));
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(q + block * kBlock),
        _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(bytes, in_order), swapped));
    scales[block] = scale;
    sums[block] = scale * sum_lanes(_mm256_cvtepi32_ps(sum));
  }
}

}  // namespace llmplug
