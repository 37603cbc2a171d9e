#include "linear.h"

#include <algorithm>

#include "pool.h"

namespace llmplug {
namespace {

// Tokens that are multiplied with a panel while it lies in the first-level cache. Their
// activations (96 x 1536 int16: 288 KiB) stay in the second level.
constexpr int64_t kTokensAtOnce = 96;
// Up to this many tokens are quantised by the caller alone: sharing costs about 1 us.
constexpr int64_t kQuantiseAlone = 3;

using Multiply = void (*)(const PanelCall&, int64_t, int64_t);

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
    default:
      return multiply_q8_0;
  }
}

void quantise_rows(Rows& rows, const Linear& linear, Format format, const float* x,
                   int64_t num_tokens, int64_t x_stride) {
  const Activations kind = shape_of(format, linear.inputs).activations;
  if (kind == Activations::kFloat) {
    rows.x = x;
    rows.stride = x_stride;
    return;
  }
  const int64_t inputs = linear.inputs;
  const int64_t padded = round_up(inputs, kBlock);
  const int64_t blocks = padded / kBlock;
  auto* q = static_cast<int16_t*>(scratch(0, num_tokens * padded * 2 + kAlign));
  auto* scales = static_cast<float*>(scratch(1, num_tokens * (1 + blocks) * 4 + kAlign));
  float* sums = scales + num_tokens;
  const int limit = row_int16_limit(format, inputs);
  auto quantise = [&](int64_t t) {
    quantise_row_int16(x + t * x_stride, inputs, padded, limit, q + t * padded, scales + t,
                       sums + t * blocks);
  };
  if (num_tokens <= kQuantiseAlone) {
    for (int64_t t = 0; t < num_tokens; ++t) quantise(t);
  } else {
    const int64_t chunk = std::max<int64_t>(1, num_tokens / (4 * num_threads()));
    parallel_for(int((num_tokens + chunk - 1) / chunk), [&](int index) {
      const int64_t end = std::min(num_tokens, (index + 1) * chunk);
      for (int64_t t = index * chunk; t < end; ++t) quantise(t);
    });
  }
  rows.q16 = q;
  rows.row_scale = scales;
  rows.block_sum = sums;
  rows.stride = padded;
}

void multiply_segment(const Linear& linear, const Segment& segment, const Rows& rows,
                      int64_t num_tokens, float* y) {
  const FormatShape shape = shape_of(segment.format, linear.inputs);
  const Multiply kernel = kernel_of(segment.format);
  const int64_t num_panels = (segment.rows + shape.panel - 1) / shape.panel;
  const auto* output_scale =
      reinterpret_cast<const float*>(segment.data + num_panels * shape.panel_bytes);
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
    PanelCall call{};
    call.rows = rows;
    call.inputs = linear.inputs;
    call.y_stride = linear.outputs;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t output = segment.first + p * shape.panel;
      call.panel = segment.data + p * shape.panel_bytes;
      call.output_scale = output_scale + p * shape.panel;
      call.bias = linear.bias == nullptr ? nullptr : linear.bias + output;
      call.y = y + output;
      call.valid = int(std::min<int64_t>(shape.panel, segment.rows - p * shape.panel));
      kernel(call, first, count);
    }
  });
}

}  // namespace

FormatShape shape_of(Format format, int64_t inputs) {
  switch (format) {
    case Format::kFloat32:
      return {16, inputs * 16 * 4, Activations::kFloat};
    case Format::kBFloat16:
      return {16, inputs * 16 * 2, Activations::kFloat};
    case Format::kInt8:
      return {16, round_up(inputs, 2) * 16, Activations::kRowInt16};
    default:
      return {16, block_panel_bytes(format, inputs), Activations::kRowInt16};
  }
}

void multiply(const Linear& linear, const float* x, int64_t num_tokens, int64_t x_stride,
              float* y) {
  Rows rows{};
  if (num_tokens == 0) return;
  const Segment* last = nullptr;
  for (const Segment& segment : linear.segments) {
    const bool same = last != nullptr && last->format == segment.format;
    if (!same) quantise_rows(rows, linear, segment.format, x, num_tokens, x_stride);
    multiply_segment(linear, segment, rows, num_tokens, y);
    last = &segment;
  }
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
  llmplug::multiply(*static_cast<const Linear*>(linear), x, num_tokens, x_stride, y);
}

// Bytes of a packed segment: its panels, then (int8) a float scale for each output.
int64_t llmplug_packed_bytes(int format, int64_t rows, int64_t inputs) {
  const llmplug::FormatShape shape = llmplug::shape_of(Format(format), inputs);
  const int64_t panels = (rows + shape.panel - 1) / shape.panel;
  const int64_t scales = Format(format) == Format::kInt8 ? panels * shape.panel * 4 : 0;
  return llmplug::round_up(panels * shape.panel_bytes + scales, llmplug::kAlign);
}

}  // extern "C"
