// Blocks of 32 weights as GGUF stores them, kept to the bit and only interleaved, times
// activations in int16 with one scale for each token. The weights are exact and the activations
// keep up to 15 bits: a result differs from that of the dequantised weights by rounding alone.
// 8-bit activations, where they are asked for, are in linear_blocks_a8.cpp.
//
// Panel, for each block: 16 outputs x 32 weights, then 16 half-precision scales d, then (Q4_1) 16
// half-precision minima m. A weight is d * q + m (Q4_1), d * (q - 8) (Q4_0) or d * q (Q8_0).
// Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml-common.h
#include <algorithm>
#include <utility>

#include "linear.h"
#include "simd.h"

namespace llmplug {
namespace {

inline __m256 load_halves(const uint8_t* source) {
  return load8(reinterpret_cast<const F16*>(source));
}

// totals += the products of a block. The sum of 32 products, at most 32 * 128 * 32767, fits in 32
// bits.
template <int kRows>
inline void add_block4(const uint8_t* block, const int16_t* a, int64_t stride,
                       __m256i (&totals)[kRows][2]) {
  const __m256i low = _mm256_set1_epi32(0x000f000f);
  for (int j = 0; j < 4; ++j) {
    const auto* both = reinterpret_cast<const __m256i*>(block) + 2 * j;
    const __m256i v0 = _mm256_loadu_si256(both);
    const __m256i v1 = _mm256_loadu_si256(both + 1);
    UNROLL for (int k = 0; k < 4; ++k) {
      const __m256i w0 = _mm256_and_si256(_mm256_srli_epi32(v0, 4 * k), low);
      const __m256i w1 = _mm256_and_si256(_mm256_srli_epi32(v1, 4 * k), low);
      // Low nibbles are weights 0..15 of the block, high ones 16..31; see the packing below.
      const int16_t* pair = a + 4 * j + (k & 1) * 16 + (k & 2);
      UNROLL for (int r = 0; r < kRows; ++r) {
        const __m256i x = broadcast_word(pair + r * stride);
        add_products(totals[r][0], x, w0);
        add_products(totals[r][1], x, w1);
      }
    }
  }
}

template <int kRows>
inline void add_block8(const uint8_t* block, const int16_t* a, int64_t stride,
                       __m256i (&totals)[kRows][2]) {
  for (int i = 0; i < kBlock / 2; ++i) {
    const auto* pair = reinterpret_cast<const __m128i*>(block + 32 * i);
    const __m256i w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(pair));
    const __m256i w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(pair + 1));
    UNROLL for (int r = 0; r < kRows; ++r) {
      const __m256i x = broadcast_word(a + r * stride + 2 * i);
      add_products(totals[r][0], x, w0);
      add_products(totals[r][1], x, w1);
    }
  }
}

// Bytes of a block's quants in a panel.
constexpr int64_t quant_bytes(Format format) {
  return kPanel * (format == Format::kQ8_0 ? kBlock : kBlock / 2);
}

template <int kRows, Format kFormat>
void multiply_tile(const PanelCall& call, int64_t first) {
  constexpr int64_t kQuants = quant_bytes(kFormat);
  constexpr int64_t kBytes = kQuants + (kFormat == Format::kQ4_1 ? 64 : 32);
  const int64_t blocks = call.inputs / kBlock;
  const int64_t stride = call.rows.stride;
  const int16_t* q = call.rows.q16 + first * stride;
  const float* block_sums = call.rows.block_sum + first * blocks;
  __m256 sums[kRows][2];
  UNROLL for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* block = call.panel + b * kBytes;
    __m256i totals[kRows][2];
    UNROLL for (int r = 0; r < kRows; ++r) totals[r][0] = totals[r][1] = _mm256_setzero_si256();
    if constexpr (kFormat == Format::kQ8_0) {
      add_block8<kRows>(block, q + b * kBlock, stride, totals);
    } else {
      add_block4<kRows>(block, q + b * kBlock, stride, totals);
    }
    UNROLL for (int half = 0; half < 2; ++half) {
      const __m256 d = load_halves(block + kQuants + 16 * half);
      __m256 m = _mm256_setzero_ps();
      if constexpr (kFormat == Format::kQ4_0) m = _mm256_mul_ps(d, _mm256_set1_ps(-8.0f));
      if constexpr (kFormat == Format::kQ4_1) m = load_halves(block + kQuants + 32 + 16 * half);
      UNROLL for (int r = 0; r < kRows; ++r) {
        __m256 sum = sums[r][half];
        if constexpr (kFormat != Format::kQ8_0) {
          sum = _mm256_fmadd_ps(m, _mm256_broadcast_ss(block_sums + r * blocks + b), sum);
        }
        sums[r][half] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(totals[r][half]), sum);
      }
    }
  }
  UNROLL for (int r = 0; r < kRows; ++r) {
    float* y = call.y + (first + r) * call.y_stride;
    const __m256 scale = _mm256_set1_ps(call.rows.row_scale[first + r]);
    UNROLL for (int half = 0; half < 2; ++half) {
      __m256 sum = _mm256_mul_ps(sums[r][half], scale);
      if (call.bias != nullptr) sum = _mm256_add_ps(sum, load8(call.bias + 8 * half));
      store_some(y + 8 * half, sum, call.valid - 8 * half);
    }
  }
}

template <Format kFormat>
void multiply_panel(const PanelCall& call, int64_t count) {
  for_row_tiles(count, [&](int64_t first, auto rows) {
    multiply_tile<rows, kFormat>(call, first);
  });
}

}  // namespace

int64_t block_panel_bytes(Format format, int64_t inputs) {
  const bool has_minimum = format == Format::kQ4_1 || format == Format::kQ4_1A8;
  const int64_t scales = kPanel * 2 * (has_minimum ? 2 : 1);
  return inputs / kBlock * (quant_bytes(format) + scales);
}

void multiply_q4_0(const PanelCall& call, int64_t count) {
  multiply_panel<Format::kQ4_0>(call, count);
}

void multiply_q4_1(const PanelCall& call, int64_t count) {
  multiply_panel<Format::kQ4_1>(call, count);
}

void multiply_q8_0(const PanelCall& call, int64_t count) {
  multiply_panel<Format::kQ8_0>(call, count);
}

}  // namespace llmplug

// Interleaves `rows` rows of GGUF blocks into the panels of a segment, from its output `at` on.
extern "C" void llmplug_pack_blocks(int format, const uint8_t* source, int64_t rows,
                                    int64_t inputs, int64_t at, uint8_t* target) {
  using llmplug::kPanel;
  const bool is_4_bit = llmplug::Format(format) != llmplug::Format::kQ8_0;
  const bool has_minimum = llmplug::Format(format) == llmplug::Format::kQ4_1;
  const int64_t group = is_4_bit ? 4 : 2;  // neighbouring bytes of one output
  const int64_t quants = is_4_bit ? 16 : 32;
  const int64_t head = has_minimum ? 4 : 2;  // bytes before the quants
  const int64_t packed = kPanel * (quants + head);
  const int64_t blocks = inputs / llmplug::kBlock;
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* panel = target + (at + r) / kPanel * blocks * packed;
    const int64_t lane = (at + r) % kPanel;
    for (int64_t b = 0; b < blocks; ++b, source += head + quants, panel += packed) {
      for (int64_t j = 0; j < quants / group; ++j) {
        uint8_t* bytes = panel + (j * kPanel + lane) * group;
        std::memcpy(bytes, source + head + j * group, group);
        // A nibble is taken out with its neighbour 16 bits away: weights i and i + 1 are those.
        if (is_4_bit) std::swap(bytes[1], bytes[2]);
      }
      for (int64_t h = 0; h < head / 2; ++h) {
        std::memcpy(panel + kPanel * (quants + 2 * h) + 2 * lane, source + 2 * h, 2);
      }
    }
  }
}
