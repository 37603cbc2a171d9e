// Eight floats at a time: AVX2, FMA and F16C. Every function here is exact or a few ulps.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// Before a loop of few turns over an array of registers: GCC 12 keeps such an array in memory
// unless the loop is unrolled early (3x slower).
#define UNROLL _Pragma("GCC unroll 16")

namespace llmplug {

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Broadcasts four bytes (or two 16-bit numbers) that are multiplied with eight outputs at once.
inline __m256i broadcast_word(const void* source) {
  int32_t word;
  std::memcpy(&word, source, sizeof word);
  return _mm256_set1_epi32(word);
}

// sum += a * w, pairs of 16-bit products added up in each 32-bit lane. Written in assembly,
// because GCC 12 copies or spills the sums of a tile otherwise (2x slower).
inline void add_products(__m256i& sum, __m256i a, __m256i w) {
  __m256i product;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(w));
}

// Numbers as they are kept in memory. BF16 and F16 only name 16 bits.
struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

inline __m256 load8(const float* source) { return _mm256_loadu_ps(source); }

inline __m256 load8(const BF16* source) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

inline __m256 load8(const F16* source) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}

// Eight numbers to memory, each rounded to nearest even.
inline void narrow8(__m256 x, float* target) { _mm256_storeu_ps(target, x); }

inline void narrow8(__m256 x, BF16* target) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  // A NaN stays one: its payload could round up into infinity.
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i wide = _mm256_srli_epi32(
      _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), is_nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_castsi256_si128(packed));
}

inline void narrow8(__m256 x, F16* target) {
  // A finite number beyond half precision is kept as the largest one, not as infinity.
  const __m256 most = _mm256_set1_ps(65504.0f);
  const __m256 least = _mm256_set1_ps(-65504.0f);
  const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
  const __m256 is_finite =
      _mm256_cmp_ps(size, _mm256_set1_ps(bits_to_float(0x7f800000u)), _CMP_LT_OQ);
  x = _mm256_blendv_ps(x, _mm256_min_ps(_mm256_max_ps(x, least), most), is_finite);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                   _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

// Sums and maxima over lanes, always in the same order.
inline float sum_lanes(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

inline float max_lanes(__m256 x) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

inline __m256 abs8(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// exp(x) to 2 ulps; exactly 1 at 0; exactly 0 below -87 (so exp(-inf) is 0); at most exp(88).
// A NaN stays one. exp(r) on [-ln2/2, ln2/2] is its Taylor series to the sixth power, whose
// remainder, r^7/5040, is under 1.2e-7 relative.
inline __m256 exp8(__m256 x) {
  const __m256 low = _mm256_set1_ps(-87.0f);
  const __m256 keep = _mm256_cmp_ps(x, low, _CMP_NLT_UQ);
  x = _mm256_min_ps(_mm256_set1_ps(88.0f), _mm256_max_ps(low, x));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts, the first short enough that n * part is exact.
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.0f / 720);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256i exponent =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(exponent)), keep);
}

// Lanes below `count` are all ones.
inline __m256i first_lanes(int64_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count > 8 ? 8 : count)), lanes);
}

// Loads and stores the first `count` of eight floats; the others read as 0 and stay unwritten.
inline __m256 load_some(const float* source, int64_t count) {
  return count >= 8 ? _mm256_loadu_ps(source) : _mm256_maskload_ps(source, first_lanes(count));
}

inline void store_some(float* target, __m256 x, int64_t count) {
  if (count >= 8) {
    _mm256_storeu_ps(target, x);
  } else if (count > 0) {
    _mm256_maskstore_ps(target, first_lanes(count), x);
  }
}

}  // namespace llmplug
