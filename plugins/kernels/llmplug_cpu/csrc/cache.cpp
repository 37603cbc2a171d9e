#include "cache.h"

#include <algorithm>

#include "pool.h"
#include "simd.h"

namespace llmplug {
namespace {

template <class Number>
void store_in(const Cache& cache, const float* k, const float* v, int64_t slot) {
  const int64_t width = cache.width;
  const int64_t padded = (width + 7) / 8 * 8;
  const int64_t page_slots = (cache.page_size + 7) / 8 * 8;
  const int64_t first = slot / cache.page_size * cache.kv_heads * page_slots +
                        slot % cache.page_size;
  for (int64_t head = 0; head < cache.kv_heads; ++head, k += width, v += width) {
    const int64_t place = first + head * page_slots;
    Number* key = static_cast<Number*>(cache.keys) + place / kGroup * kGroup * width +
                  place % kGroup;
    Number* value = static_cast<Number*>(cache.values) + place * padded;
    for (int64_t h = 0; h < width; h += 8) {
      const int64_t count = std::min<int64_t>(8, width - h);
      Number lanes[8];
      narrow8(load_some(k + h, count), lanes);
      for (int64_t i = 0; i < count; ++i) key[kGroup * (h + i)] = lanes[i];
      narrow8(load_some(v + h, count), value + h);
    }
  }
}

// Tokens that one thread stores in about the time that waking another costs.
constexpr int64_t kChunk = 32;

}  // namespace

void store_token(const Cache& cache, const float* k, const float* v, int64_t slot) {
  if (slot < 0) return;
  switch (cache.kind) {
    case CacheKind::kFloat32: return store_in<float>(cache, k, v, slot);
    case CacheKind::kBFloat16: return store_in<BF16>(cache, k, v, slot);
    case CacheKind::kFloat16: return store_in<F16>(cache, k, v, slot);
  }
}

}  // namespace llmplug

// Writes keys and values of `tokens` tokens, rows k_stride and v_stride apart, into their slots.
extern "C" void llmplug_store(const float* k, int64_t k_stride, const float* v, int64_t v_stride,
                              const int64_t* slots, int64_t tokens, int64_t kv_heads,
                              int64_t width, int64_t page_size, int64_t cache_kind, void* keys,
                              void* values) {
  using namespace llmplug;
  const Cache cache{keys, values, CacheKind(cache_kind), kv_heads, width, page_size};
  parallel_for(int((tokens + kChunk - 1) / kChunk), [&](int index) {
    const int64_t end = std::min(tokens, (index + 1) * kChunk);
    for (int64_t t = index * kChunk; t < end; ++t) {
      store_token(cache, k + t * k_stride, v + t * v_stride, slots[t]);
    }
  });
}
