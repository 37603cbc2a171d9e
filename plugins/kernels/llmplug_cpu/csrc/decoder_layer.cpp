// One decoder layer of all tokens of a step, in one call: see llmplug/ops/decoder_layer.py for the
// formula. Between its five shared-out parts only rows of activations travel, through memory that
// stays in the caches.
#include <cstdint>

#include "attention.h"
#include "linear.h"
#include "pool.h"
#include "rows.h"

namespace llmplug {

// As ctypes passes them; see decoder_layer.py.
struct DecoderLayer {
  const float* attention_norm;
  const Linear* qkv;
  const float* q_norm;  // or null
  const float* k_norm;  // or null
  const Linear* o;
  const float* mlp_norm;
  const Linear* gate_up;
  const Linear* down;
  const float* rope_table;  // a row for each position: cosines, then sines
  int64_t width;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_width;
  int64_t half_rotary;
  int64_t window;  // 0: none
  float scale;
  float eps;
};

struct DecoderStep {
  float* residual;  // [tokens, width]; x is added to it
  float* x;         // [tokens, width]; what is still to be added, then what is again
  int64_t width;
  int64_t has_x;    // 0: before the first layer
  int64_t num_tokens;
  const int64_t* positions;
  const int64_t* slots;
  const int32_t* query_starts;
  const int32_t* cached_lens;
  const int32_t* block_table;
  int64_t table_stride;
  int64_t num_sequences;
};

namespace {

void add_row(const float* x, int64_t width, float* sum) {
  for (int64_t i = 0; i < width; i += 8) {
    const int64_t left = width - i;
    store_some(sum + i, _mm256_add_ps(load_some(x + i, left), load_some(sum + i, left)), left);
  }
}

// Norms and rotates the queries and keys of all tokens in place, and stores keys and values.
void place_heads(const DecoderLayer& layer, const DecoderStep& step, const Cache& cache,
                 float* qkv) {
  const int64_t width = layer.head_width;
  const int64_t num_rotated = layer.num_heads + layer.num_kv_heads;
  const int64_t stride = (num_rotated + layer.num_kv_heads) * width;
  for_rows(step.num_tokens, stride, [&](int64_t t) {
    float* heads = qkv + t * stride;
    const float* cosines = layer.rope_table + step.positions[t] * 2 * layer.half_rotary;
    for (int64_t h = 0; h < num_rotated; ++h) {
      float* head = heads + h * width;
      const float* norm = h < layer.num_heads ? layer.q_norm : layer.k_norm;
      if (norm != nullptr) norm_row(head, norm, width, layer.eps, head);
      rotate_head(head, cosines, cosines + layer.half_rotary, layer.half_rotary, width, head);
    }
    const float* keys = heads + layer.num_heads * width;
    store_token(cache, keys, keys + layer.num_kv_heads * width, step.slots[t]);
  });
}

AttentionCall make_attention(const DecoderLayer& layer, const DecoderStep& step,
                             const Cache& cache, const float* qkv, float* out) {
  AttentionCall call;
  call.q = qkv;
  call.q_stride = (layer.num_heads + 2 * layer.num_kv_heads) * layer.head_width;
  call.out = out;
  call.keys = cache.keys;
  call.values = cache.values;
  call.query_starts = step.query_starts;
  call.cached_lens = step.cached_lens;
  call.block_table = step.block_table;
  call.table_stride = step.table_stride;
  call.num_sequences = step.num_sequences;
  call.num_heads = layer.num_heads;
  call.num_kv_heads = layer.num_kv_heads;
  call.head_width = layer.head_width;
  call.page_size = cache.page_size;
  call.window = layer.window;
  call.cache_kind = cache.kind;
  call.scale = layer.scale;
  return call;
}

void run_layer(const DecoderLayer& layer, const DecoderStep& step, const Cache& cache) {
  const int64_t count = step.num_tokens;
  const int64_t width = layer.width;
  const int64_t attended_width = layer.num_heads * layer.head_width;
  const int64_t gated_width = layer.gate_up->outputs / 2;
  float* normed = scratch_floats(Scratch::kNormed, count * width);
  float* qkv = scratch_floats(Scratch::kHeads, count * layer.qkv->outputs);
  float* attended = scratch_floats(Scratch::kAttended, count * attended_width);
  float* gated = scratch_floats(Scratch::kGated, count * gated_width);
  auto add_and_norm = [&](int64_t t, bool has_x, const float* weight) {
    float* residual = step.residual + t * width;
    if (has_x) add_row(step.x + t * width, width, residual);
    norm_row(residual, weight, width, layer.eps, normed + t * width);
  };

  const Tokens before_attention{normed, count, width, [&](int64_t t) {
    add_and_norm(t, step.has_x != 0, layer.attention_norm);
  }};
  multiply(*layer.qkv, before_attention, qkv);
  place_heads(layer, step, cache, qkv);
  attend(make_attention(layer, step, cache, qkv, attended));
  multiply(*layer.o, {attended, count, attended_width}, step.x);

  const Tokens before_mlp{normed, count, width, [&](int64_t t) {
    add_and_norm(t, true, layer.mlp_norm);
  }};
  multiply_gated(*layer.gate_up, before_mlp, gated);
  multiply(*layer.down, {gated, count, gated_width}, step.x);
}

}  // namespace
}  // namespace llmplug

extern "C" void llmplug_decoder_layer(const llmplug::DecoderLayer* layer,
                                      const llmplug::DecoderStep* step, void* keys, void* values,
                                      int64_t page_size, int64_t cache_kind) {
  const llmplug::Cache cache{keys,
                             values,
                             llmplug::CacheKind(cache_kind),
                             layer->num_kv_heads,
                             layer->head_width,
                             page_size};
  llmplug::run_layer(*layer, *step, cache);
}
