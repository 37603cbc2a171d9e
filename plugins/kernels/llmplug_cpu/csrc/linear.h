// Packed linear weights and the kernels that multiply with them.
//
// A weight of `rows` outputs is cut into panels of 16 outputs, and a panel holds the numbers
// of all its outputs for one input (or pair, or block of inputs) side by side: one vector lane is
// one output. Every output of every token is therefore one chain of sums over the inputs, in the
// same order whatever the number of tokens: a token's result does not depend on its neighbours.
#pragma once

#include <cstdint>
#include <functional>
#include <type_traits>
#include <vector>

namespace llmplug {

enum class Format : int {
  kFloat32 = 0,
  kBFloat16 = 1,
  kInt8 = 2,
  kQ4_0 = 3,
  kQ4_1 = 4,
  kQ8_0 = 5,
  // The same blocks, times activations in int8.
  kQ4_0A8 = 6,
  kQ4_1A8 = 7,
};

// Outputs of a panel.
constexpr int kPanel = 16;
// Inputs of a block format, in one block.
constexpr int kBlock = 32;
// Bytes before a tensor ends that the fastest loads may read past.
constexpr int64_t kAlign = 64;

inline int64_t round_up(int64_t number, int64_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

// How the kernels of a format read activations.
enum class Activations { kFloat, kRowInt16, kBlockInt8 };

struct FormatShape {
  int64_t panel_bytes;  // for all inputs
  Activations activations;
};

FormatShape shape_of(Format format, int64_t inputs);

// Tokens as the kernels read them. Rows are `stride` numbers apart.
struct Rows {
  const float* x;          // kFloat
  const int16_t* q16;      // kRowInt16: x = scale * q, |q| <= the limit given to quantise
  const float* row_scale;  // kRowInt16
  const float* block_sum;  // kRowInt16: sum of q in each block of a row; kBlockInt8: times scale
  const int8_t* q8;        // kBlockInt8: x = block_scale * q, see quantise_row_int8
  const float* block_scale;  // kBlockInt8: of each block of a row
  int64_t stride;
};

// Multiplies the first `count` rows with one panel: y[row * y_stride + output], `valid` outputs
// written.
struct PanelCall {
  const uint8_t* panel;
  const float* output_scale;  // kInt8: of each output of the panel
  const float* bias;          // of each output of the panel, or null
  Rows rows;
  int64_t inputs;
  float* y;
  int64_t y_stride;
  int valid;
};

// Rows that a kernel multiplies with a panel at once: 6 rows x 16 outputs are sums in 12 of the 16
// registers.
constexpr int kRowTile = 6;

// Calls tile(first row, number of rows as a type) over all rows.
template <class Function>
void for_row_tiles(int64_t count, Function&& tile) {
  int64_t first = 0;
  for (; first + kRowTile <= count; first += kRowTile) {
    tile(first, std::integral_constant<int, kRowTile>());
  }
  switch (count - first) {
    case 5: return tile(first, std::integral_constant<int, 5>());
    case 4: return tile(first, std::integral_constant<int, 4>());
    case 3: return tile(first, std::integral_constant<int, 3>());
    case 2: return tile(first, std::integral_constant<int, 2>());
    case 1: return tile(first, std::integral_constant<int, 1>());
    default: return;
  }
}

void multiply_dense_f32(const PanelCall& call, int64_t count);
void multiply_dense_bf16(const PanelCall& call, int64_t count);
void multiply_int8(const PanelCall& call, int64_t count);
void multiply_q4_0(const PanelCall& call, int64_t count);
void multiply_q4_1(const PanelCall& call, int64_t count);
void multiply_q8_0(const PanelCall& call, int64_t count);
void multiply_q4_0_a8(const PanelCall& call, int64_t count);
void multiply_q4_1_a8(const PanelCall& call, int64_t count);

// Bytes of a panel of a block format.
int64_t block_panel_bytes(Format format, int64_t inputs);

// Largest |q| of an activation such that no sum over `inputs` products with |weight| <= 127
// leaves int32. Block formats sum only within a block: there it is the whole of int16.
int row_int16_limit(Format format, int64_t inputs);

// Writes `padded` numbers of q, the scale, and the sum of q in each block.
void quantise_row_int16(const float* x, int64_t inputs, int64_t padded, int limit, int16_t* q,
                        float* scale, float* block_sums);

// The same in int8, with a scale and a sum (times scale) for each block. Of four neighbours the
// middle two change places, as those of a packed weight do.
void quantise_row_int8(const float* x, int64_t inputs, int8_t* q, float* scales, float* sums);

// Outputs [first, first + rows) of a linear, in one format.
struct Segment {
  Format format;
  int64_t first;
  int64_t rows;
  const uint8_t* data;
};

struct Linear {
  int64_t inputs;
  int64_t outputs;
  const float* bias;  // padded to whole panels behind the last output; or null
  std::vector<Segment> segments;
};

// What a linear multiplies: rows of x, `stride` numbers apart. Whoever makes them shortly before
// they are read gives `make`, which fills row t in; it is called once for each row, by any thread.
struct Tokens {
  const float* x;
  int64_t count;
  int64_t stride;
  std::function<void(int64_t t)> make = nullptr;
};

// y[T, outputs] = x[T, inputs] @ weight.T + bias.
void multiply(const Linear& linear, const Tokens& tokens, float* y);

// y[T, outputs / 2] = silu(a) * b, where a and b are the halves of what `multiply` gives.
void multiply_gated(const Linear& linear, const Tokens& tokens, float* y);

}  // namespace llmplug
