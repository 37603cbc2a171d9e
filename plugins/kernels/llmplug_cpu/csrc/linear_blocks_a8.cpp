// Blocks of 4-bit weights, in the panels of linear_blocks.cpp, times activations in int8 with one
// scale for each block of a token: half the multiplications of int16, at a price in precision.
//
// vpmaddubsw adds two products in 16 bits, at most 2 * 15 * 127; the eight of a block fit too.
#include "linear.h"
#include "simd.h"

namespace llmplug {
namespace {

constexpr int64_t kQuants = kPanel * kBlock / 2;  // bytes

// sum += a * w, pairs of 8-bit products added up in each 16-bit lane; w is unsigned. In assembly
// for the reason that add_products is.
inline void add_byte_products(__m256i& sum, __m256i w, __m256i a) {
  __m256i product;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(w), "x"(a));
}

template <int kRows, bool kHasMinimum>
void multiply_tile(const PanelCall& call, int64_t first) {
  constexpr int64_t kBytes = kQuants + (kHasMinimum ? 64 : 32);
  const int64_t blocks = call.inputs / kBlock;
  const int64_t stride = call.rows.stride;
  const int8_t* q = call.rows.q8 + first * stride;
  const float* block_scales = call.rows.block_scale + first * blocks;
  const float* block_sums = call.rows.block_sum + first * blocks;
  const __m256i low = _mm256_set1_epi8(0x0f);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 sums[kRows][2];
  UNROLL for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* block = call.panel + b * kBytes;
    const int8_t* a = q + b * kBlock;
    __m256i totals[kRows][2];
    UNROLL for (int r = 0; r < kRows; ++r) totals[r][0] = totals[r][1] = _mm256_setzero_si256();
    for (int j = 0; j < 4; ++j) {
      const auto* both = reinterpret_cast<const __m256i*>(block) + 2 * j;
      const __m256i v0 = _mm256_loadu_si256(both);
      const __m256i v1 = _mm256_loadu_si256(both + 1);
      // Low nibbles are weights 0..15 of the block, high ones 16..31.
      UNROLL for (int k = 0; k < 2; ++k) {
        const __m256i w0 = _mm256_and_si256(_mm256_srli_epi16(v0, 4 * k), low);
        const __m256i w1 = _mm256_and_si256(_mm256_srli_epi16(v1, 4 * k), low);
        UNROLL for (int r = 0; r < kRows; ++r) {
          const __m256i x = broadcast_word(a + r * stride + 16 * k + 4 * j);
          add_byte_products(totals[r][0], w0, x);
          add_byte_products(totals[r][1], w1, x);
        }
      }
    }
    UNROLL for (int half = 0; half < 2; ++half) {
      const __m256 d = load8(reinterpret_cast<const F16*>(block + kQuants) + 8 * half);
      // A weight is d * q + m, or d * (q - 8).
      const __m256 m = kHasMinimum
                           ? load8(reinterpret_cast<const F16*>(block + kQuants + 32) + 8 * half)
                           : _mm256_mul_ps(d, _mm256_set1_ps(-8.0f));
      UNROLL for (int r = 0; r < kRows; ++r) {
        const __m256 total =
            _mm256_cvtepi32_ps(_mm256_madd_epi16(totals[r][half], ones));
        const __m256 scale =
            _mm256_mul_ps(d, _mm256_broadcast_ss(block_scales + r * blocks + b));
        const __m256 sum =
            _mm256_fmadd_ps(m, _mm256_broadcast_ss(block_sums + r * blocks + b), sums[r][half]);
        sums[r][half] = _mm256_fmadd_ps(scale, total, sum);
      }
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

template <bool kHasMinimum>
void multiply_panel(const PanelCall& call, int64_t count) {
  for_row_tiles(count, [&](int64_t first, auto rows) {
    multiply_tile<rows, kHasMinimum>(call, first);
  });
}

}  // namespace

void multiply_q4_0_a8(const PanelCall& call, int64_t count) { multiply_panel<false>(call, count); }

void multiply_q4_1_a8(const PanelCall& call, int64_t count) { multiply_panel<true>(call, count); }

}  // namespace llmplug
