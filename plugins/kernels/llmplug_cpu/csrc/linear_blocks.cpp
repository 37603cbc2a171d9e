// Blocks of 32 weights as GGUF stores them, kept to the bit and only interleaved.
// Panel, for each block: 8 outputs x 32 weights, then 8 half-precision scales d, then (Q4_1) 8
// half-precision minima m. A weight is d * q + m (Q4_1), d * (q - 8) (Q4_0) or d * q (Q8_0).
// Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml-common.h
#include <algorithm>

#include "linear.h"
#include "simd.h"

namespace llmplug {
namespace {

// Eight registers hold the block's weights, four the sums of four tokens.
constexpr int kTokens4 = 4;
constexpr int kTokens8 = 6;

inline __m256 load_halves(const uint8_t* source) {
  return load8(reinterpret_cast<const F16*>(source));
}

inline void finish(const PanelCall& call, int64_t token, __m256 sum) {
  if (call.bias != nullptr) sum = _mm256_add_ps(sum, load8(call.bias));
  store_some(call.y + token * call.y_stride, sum, call.valid);
}

// vpmaddubsw sums two products of a nibble (0..15) and an activation (|a| <= 127) into 16 bits;
// all eight of a block add up to at most 32 / 2 * 15 * 127 = 30480 in each lane: no saturation.
template <int kRows, bool kHasMinimum>
void multiply_tile4(const PanelCall& call, int64_t first) {
  constexpr int64_t kBytes = kHasMinimum ? 160 : 144;
  const int64_t blocks = call.inputs / kBlock;
  const int64_t stride = call.rows.stride;
  const int8_t* q = call.rows.q8 + first * stride;
  const float* scales = call.rows.block_scale + first * 2 * blocks;
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 sums[kRows];
  UNROLL for (int r = 0; r < kRows; ++r) sums[r] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* block = call.panel + b * kBytes;
    __m256i w[8];
    UNROLL for (int j = 0; j < 4; ++j) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block) + j);
      w[j] = _mm256_and_si256(both, low);
      w[j + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    }
    const __m256 d = load_halves(block + 128);
    const __m256 m =
        kHasMinimum ? load_halves(block + 144) : _mm256_mul_ps(d, _mm256_set1_ps(-8.0f));
    UNROLL for (int r = 0; r < kRows; ++r) {
      const int8_t* a = q + r * stride + b * kBlock;
      __m256i even = _mm256_maddubs_epi16(w[0], broadcast_word(a));
      __m256i odd = _mm256_maddubs_epi16(w[1], broadcast_word(a + 4));
      UNROLL for (int j = 2; j < 8; j += 2) {
        add_byte_products(even, w[j], a + 4 * j);
        add_byte_products(odd, w[j + 1], a + 4 * j + 4);
      }
      const __m256i total = _mm256_madd_epi16(_mm256_add_epi16(even, odd), ones);
      const float* scale = scales + 2 * (r * blocks + b);
      const __m256 dd = _mm256_mul_ps(d, _mm256_broadcast_ss(scale));
      sums[r] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(scale + 1), sums[r]);
      sums[r] = _mm256_fmadd_ps(dd, _mm256_cvtepi32_ps(total), sums[r]);
    }
  }
  UNROLL for (int r = 0; r < kRows; ++r) finish(call, first + r, sums[r]);
}

template <bool kHasMinimum>
void multiply_panel4(const PanelCall& call, int64_t first, int64_t count) {
  const int64_t end = first + count;
  for (; first + kTokens4 <= end; first += kTokens4) {
    multiply_tile4<kTokens4, kHasMinimum>(call, first);
  }
  switch (end - first) {
    case 3:
      return multiply_tile4<3, kHasMinimum>(call, first);
    case 2:
      return multiply_tile4<2, kHasMinimum>(call, first);
    case 1:
      return multiply_tile4<1, kHasMinimum>(call, first);
    default:
      return;
  }
}

// As in linear_int8.cpp: int16 activations of one scale for each token; a block's sum of 32
// products, at most 32 * 128 * 32767, fits in 32 bits.
template <int kRows>
void multiply_tile8(const PanelCall& call, int64_t first) {
  constexpr int64_t kBytes = 256 + 16;
  const int64_t blocks = call.inputs / kBlock;
  const int64_t stride = call.rows.stride;
  const int16_t* q = call.rows.q16 + first * stride;
  __m256 sums[kRows];
  UNROLL for (int r = 0; r < kRows; ++r) sums[r] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* block = call.panel + b * kBytes;
    __m256i totals[kRows];
    UNROLL for (int r = 0; r < kRows; ++r) totals[r] = _mm256_setzero_si256();
    for (int i = 0; i < kBlock / 2; ++i) {
      const __m256i w = _mm256_cvtepi8_epi16(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * i)));
      UNROLL for (int r = 0; r < kRows; ++r) {
        const __m256i a = broadcast_word(q + r * stride + b * kBlock + 2 * i);
        add_products(totals[r], a, w);
      }
    }
    const __m256 d = load_halves(block + 256);
    UNROLL for (int r = 0; r < kRows; ++r) {
      sums[r] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(totals[r]), sums[r]);
    }
  }
  UNROLL for (int r = 0; r < kRows; ++r) {
    const __m256 scale = _mm256_set1_ps(call.rows.row_scale[first + r]);
    finish(call, first + r, _mm256_mul_ps(sums[r], scale));
  }
}

}  // namespace

void multiply_q4_0(const PanelCall& call, int64_t first, int64_t count) {
  multiply_panel4<false>(call, first, count);
}

void multiply_q4_1(const PanelCall& call, int64_t first, int64_t count) {
  multiply_panel4<true>(call, first, count);
}

void multiply_q8_0(const PanelCall& call, int64_t first, int64_t count) {
  const int64_t end = first + count;
  for (; first + kTokens8 <= end; first += kTokens8) multiply_tile8<kTokens8>(call, first);
  switch (end - first) {
    case 5:
      return multiply_tile8<5>(call, first);
    case 4:
      return multiply_tile8<4>(call, first);
    case 3:
      return multiply_tile8<3>(call, first);
    case 2:
      return multiply_tile8<2>(call, first);
    case 1:
      return multiply_tile8<1>(call, first);
    default:
      return;
  }
}

}  // namespace llmplug

// Interleaves `rows` rows of GGUF blocks into the panels of a segment, from its output `at` on.
extern "C" void llmplug_pack_blocks(int format, const uint8_t* source, int64_t rows,
                                    int64_t inputs, int64_t at, uint8_t* target) {
  const bool is_4_bit = llmplug::Format(format) != llmplug::Format::kQ8_0;
  const bool has_minimum = llmplug::Format(format) == llmplug::Format::kQ4_1;
  const int64_t group = is_4_bit ? 4 : 2;  // neighbouring bytes of one output
  const int64_t quants = is_4_bit ? 16 : 32;
  const int64_t head = has_minimum ? 4 : 2;  // bytes before the quants
  const int64_t packed = 8 * (quants + head);
  const int64_t blocks = inputs / llmplug::kBlock;
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* panel = target + (at + r) / 8 * blocks * packed;
    const int64_t lane = (at + r) % 8;
    for (int64_t b = 0; b < blocks; ++b, source += head + quants, panel += packed) {
      for (int64_t j = 0; j < quants / group; ++j) {
        std::memcpy(panel + j * 8 * group + lane * group, source + head + j * group, group);
      }
      for (int64_t h = 0; h < head / 2; ++h) {
        std::memcpy(panel + 8 * quants + 16 * h + 2 * lane, source + 2 * h, 2);
      }
    }
  }
}
