#include "linear.h"

#include <algorithm>

#include "pool.h"
#include "rows.h"

namespace llmplug {
namespace {

// Tokens that are multiplied with a panel while it lies in the first-level cache. Their
// activations (96 x 1536 int16: 288 KiB) stay in the second level.
constexpr int64_t kTokensAtOnce = 96;
// Up to this many tokens are quantised by the caller alone: sharing costs about 1 us.
constexpr int64_t kQuantiseAlone = 3;

using Multiply = void (*)(const PanelCall&, int64_t);

Multiply kernel_of(Format format) {
  switch (format) {
    case Format::kFloat32:
      return multiply_dense_f32;
    case Format::kBFloat16:
      return multiply_dense_bf16;
    case Format::kInt8:
      return multiply_int8;
    case Format::kQ4_0:
      return multiply_q4_0;
    case Format::kQ4_1:
      return multiply_q4_1;
    case Format::kQ4_0A8:
      return multiply_q4_0_a8;
    case Format::kQ4_1A8:
      return multiply_q4_1_a8;
    default:
      return multiply_q8_0;
  }
}

// Calls row(t) for each token, shared out over the threads if there are enough of them.
template <class Function>
void for_tokens(int64_t count, Function&& row) {
  if (count <= kQuantiseAlone) {
    for (int64_t t = 0; t < count; ++t) row(t);
    return;
  }
  const int64_t chunk = std::max<int64_t>(1, count / (4 * num_threads()));
  parallel_for(int((count + chunk - 1) / chunk), [&](int index) {
    const int64_t end = std::min(count, (index + 1) * chunk);
    for (int64_t t = index * chunk; t < end; ++t) row(t);
  });
}

// Makes tokens ready for the kernels of one format.
Rows make_rows(const Linear& linear, Format format, const Tokens& tokens, bool are_made) {
  Rows rows{};
  const bool must_make = tokens.make != nullptr && !are_made;
  const Activations activations = shape_of(format, linear.inputs).activations;
  if (activations == Activations::kFloat) {
    if (must_make) for_tokens(tokens.count, tokens.make);
    rows.x = tokens.x;
    rows.stride = tokens.stride;
    return rows;
  }
  const int64_t inputs = linear.inputs;
  const int64_t padded = round_up(inputs, kBlock);
  const int64_t blocks = padded / kBlock;
  const int64_t count = tokens.count;
  rows.stride = padded;
  if (activations == Activations::kBlockInt8) {
    auto* q = static_cast<int8_t*>(scratch(Scratch::kQuants, count * padded + kAlign));
    float* scales = scratch_floats(Scratch::kScales, 2 * count * blocks + kAlign);
    float* sums = scales + count * blocks;
    for_tokens(count, [&](int64_t t) {
      if (must_make) tokens.make(t);
      quantise_row_int8(tokens.x + t * tokens.stride, inputs, q + t * padded, scales + t * blocks,
                        sums + t * blocks);
    });
    rows.q8 = q;
    rows.block_scale = scales;
    rows.block_sum = sums;
    return rows;
  }
  auto* q = static_cast<int16_t*>(scratch(Scratch::kQuants, count * padded * 2 + kAlign));
  float* scales = scratch_floats(Scratch::kScales, count * (1 + blocks) + kAlign);
  float* sums = scales + count;
  const int limit = row_int16_limit(format, inputs);
  for_tokens(count, [&](int64_t t) {
    if (must_make) tokens.make(t);
    quantise_row_int16(tokens.x + t * tokens.stride, inputs, padded, limit, q + t * padded,
                       scales + t, sums + t * blocks);
  });
  rows.q16 = q;
  rows.row_scale = scales;
  rows.block_sum = sums;
  return rows;
}

Rows skip_rows(Rows rows, int64_t count, int64_t inputs) {
  const int64_t blocks = count * (round_up(inputs, kBlock) / kBlock);
  if (rows.x != nullptr) {
    rows.x += count * rows.stride;
    return rows;
  }
  rows.block_sum += blocks;
  if (rows.q8 != nullptr) {
    rows.q8 += count * rows.stride;
    rows.block_scale += blocks;
  } else {
    rows.q16 += count * rows.stride;
    rows.row_scale += count;
  }
  return rows;
}

// The panels of a segment, as the kernel of its format wants them.
struct Panels {
  Panels(const Linear& linear, const Segment& segment)
      : shape(shape_of(segment.format, linear.inputs)),
        count((segment.rows + kPanel - 1) / kPanel),
        kernel_(kernel_of(segment.format)),
        linear_(linear),
        segment_(segment) {}

  // y[t * y_stride + i]: output i of panel p, for `num_tokens` rows.
  void multiply(int64_t p, const Rows& rows, int64_t num_tokens, float* y, int64_t y_stride) const {
    const auto* scales =
        reinterpret_cast<const float*>(segment_.data + count * shape.panel_bytes);
    PanelCall call;
    call.panel = segment_.data + p * shape.panel_bytes;
    call.output_scale = scales + p * kPanel;
    call.bias = linear_.bias == nullptr ? nullptr
                                        : linear_.bias + segment_.first + p * kPanel;
    call.rows = rows;
    call.inputs = linear_.inputs;
    call.y = y;
    call.y_stride = y_stride;
    call.valid = int(std::min<int64_t>(kPanel, segment_.rows - p * kPanel));
    kernel_(call, num_tokens);
  }

  const FormatShape shape;
  const int64_t count;

 private:
  const Multiply kernel_;
  const Linear& linear_;
  const Segment& segment_;
};

// Calls work(first token, number of tokens, panel) for all tokens and panels, on all threads.
template <class Function>
void for_panels(int64_t num_panels, int64_t num_tokens, Function&& work) {
  const int64_t token_blocks = (num_tokens + kTokensAtOnce - 1) / kTokensAtOnce;
  // About four tasks a thread: a thread that is held up leaves work to the others.
  const int64_t wanted = std::max<int64_t>(1, 4 * num_threads() / token_blocks);
  const int64_t chunk = std::max<int64_t>(1, (num_panels + wanted - 1) / wanted);
  const int64_t num_chunks = (num_panels + chunk - 1) / chunk;
  parallel_for(int(token_blocks * num_chunks), [&](int index) {
    const int64_t first = index / num_chunks * kTokensAtOnce;
    const int64_t count = std::min(kTokensAtOnce, num_tokens - first);
    const int64_t begin = index % num_chunks * chunk;
    const int64_t end = std::min(num_panels, begin + chunk);
    for (int64_t p = begin; p < end; ++p) work(first, count, p);
  });
}

// Multiplies a linear of one segment whose halves end with whole panels: the two panels that are
// gated with each other are computed one after the other, and only their product is written.
void multiply_gated_panels(const Linear& linear, const Tokens& tokens, float* y) {
  const Segment& segment = linear.segments.front();
  const Panels panels(linear, segment);
  const Rows rows = make_rows(linear, segment.format, tokens, false);
  const int64_t width = linear.outputs / 2;
  for_panels(panels.count / 2, tokens.count, [&](int64_t first, int64_t count, int64_t p) {
    alignas(32) float gate[kTokensAtOnce * kPanel];
    alignas(32) float up[kTokensAtOnce * kPanel];
    const Rows mine = skip_rows(rows, first, linear.inputs);
    panels.multiply(p, mine, count, gate, kPanel);
    panels.multiply(p + panels.count / 2, mine, count, up, kPanel);
    float* target = y + first * width + p * kPanel;
    for (int64_t t = 0; t < count; ++t, target += width) {
      for (int64_t i = t * kPanel; i < (t + 1) * kPanel; i += 8) {
        _mm256_storeu_ps(target + i - t * kPanel, gate8(load8(gate + i), load8(up + i)));
      }
    }
  });
}

}  // namespace

FormatShape shape_of(Format format, int64_t inputs) {
  switch (format) {
    case Format::kFloat32:
      return {inputs * kPanel * 4, Activations::kFloat};
    case Format::kBFloat16:
      return {inputs * kPanel * 2, Activations::kFloat};
    case Format::kInt8:
      return {round_up(inputs, 2) * kPanel, Activations::kRowInt16};
    case Format::kQ4_0A8:
    case Format::kQ4_1A8:
      return {block_panel_bytes(format, inputs), Activations::kBlockInt8};
    default:
      return {block_panel_bytes(format, inputs), Activations::kRowInt16};
  }
}

void multiply(const Linear& linear, const Tokens& tokens, float* y) {
  if (tokens.count == 0) return;
  Rows rows{};
  const Segment* last = nullptr;
  for (const Segment& segment : linear.segments) {
    if (last == nullptr || last->format != segment.format) {
      rows = make_rows(linear, segment.format, tokens, last != nullptr);
    }
    last = &segment;
    const Panels panels(linear, segment);
    for_panels(panels.count, tokens.count, [&](int64_t first, int64_t count, int64_t p) {
      panels.multiply(p, skip_rows(rows, first, linear.inputs), count,
                      y + first * linear.outputs + segment.first + p * kPanel, linear.outputs);
    });
  }
}

void multiply_gated(const Linear& linear, const Tokens& tokens, float* y) {
  if (tokens.count == 0) return;
  const int64_t width = linear.outputs / 2;
  if (linear.segments.size() == 1 && width % kPanel == 0) {
    multiply_gated_panels(linear, tokens, y);
    return;
  }
  float* both = scratch_floats(Scratch::kGateUp, tokens.count * linear.outputs);
  multiply(linear, tokens, both);
  gate_rows(both, linear.outputs, tokens.count, width, y);
}

}  // namespace llmplug

using llmplug::Format;
using llmplug::Linear;

extern "C" {

// Owned by the caller, who also keeps `bias` and all segment data alive until the free.
void* llmplug_linear_new(int64_t inputs, int64_t outputs, const float* bias) {
  return new Linear{inputs, outputs, bias, {}};
}

void llmplug_linear_add(void* linear, int format, int64_t first, int64_t rows,
                        const uint8_t* data) {
  static_cast<Linear*>(linear)->segments.push_back({Format(format), first, rows, data});
}

void llmplug_linear_free(void* linear) { delete static_cast<Linear*>(linear); }

void llmplug_linear(const void* linear, const float* x, int64_t num_tokens, int64_t x_stride,
                    float* y) {
  llmplug::multiply(*static_cast<const Linear*>(linear), {x, num_tokens, x_stride}, y);
}

// Bytes of a packed segment: its panels, then (int8) a float scale for each output.
int64_t llmplug_packed_bytes(int format, int64_t rows, int64_t inputs) {
  const llmplug::FormatShape shape = llmplug::shape_of(Format(format), inputs);
  const int64_t panels = (rows + llmplug::kPanel - 1) / llmplug::kPanel;
  const int64_t scales = Format(format) == Format::kInt8 ? panels * llmplug::kPanel * 4 : 0;
  return llmplug::round_up(panels * shape.panel_bytes + scales, llmplug::kAlign);
}

}  // extern "C"
