// The layout of the cache of keys and values, and how it is written.
//
// Eight tokens of a page make a group. Of each page, key head and group the cache keeps
//   keys    [head width][8 tokens]: a score of eight tokens is one multiply-add per number, and
//   values  [8 tokens][head width, rounded up to 8]: so is their weighted sum.
#pragma once

#include <cstdint>

namespace llmplug {

constexpr int kGroup = 8;

enum class CacheKind : int64_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// One layer's cache.
struct Cache {
  void* keys;
  void* values;
  CacheKind kind;
  int64_t kv_heads;
  int64_t width;  // of a head
  int64_t page_size;
};

// Writes the keys and values of one token, heads side by side, into its slot; -1 is none.
void store_token(const Cache& cache, const float* k, const float* v, int64_t slot);

}  // namespace llmplug
