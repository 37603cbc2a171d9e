// One layer's attention of all sequences of a step, straight over the pages of the cache.
#pragma once

#include <cstdint>

#include "cache.h"

namespace llmplug {

// As ctypes passes it; see attention.py. Each query attends to the tokens of its own sequence up
// to its own position.
struct AttentionCall {
  const float* q;
  int64_t q_stride;  // between tokens
  float* out;        // contiguous
  const void* keys;
  const void* values;
  const int32_t* query_starts;
  const int32_t* cached_lens;
  const int32_t* block_table;
  int64_t table_stride;
  int64_t num_sequences;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_width;
  int64_t page_size;
  int64_t window;  // 0: none
  CacheKind cache_kind;
  float scale;
};

void attend(const AttentionCall& call);

}  // namespace llmplug
