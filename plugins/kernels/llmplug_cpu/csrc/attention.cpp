// Cuts the attention of a step into tiles, for any mix of decode and prefill, and shares them out.
#include "attention.h"

#include <algorithm>

#include "attention_tile.h"
#include "pool.h"

namespace llmplug {
namespace {

// Up to so many tiles, their ranges are shared out over the threads; more are enough by themselves.
constexpr int kMaxSplitTiles = 16;

// The tiles of a step: some queries of one sequence, and heads that share a key head.
class Tiles {
 public:
  explicit Tiles(const AttentionCall& call)
      : call_(call), heads_(call.num_heads / call.num_kv_heads),
        tile_heads_(std::min<int64_t>(heads_, kMaxRows)),
        head_tiles_((heads_ + tile_heads_ - 1) / tile_heads_),
        tile_queries_(kMaxRows / tile_heads_),
        starts_(static_cast<int64_t*>(
            scratch(Scratch::kTileStarts, (call.num_sequences + 1) * 8))) {
    starts_[0] = 0;
    for (int64_t s = 0; s < call.num_sequences; ++s) {
      starts_[s + 1] = starts_[s] + (num_queries(s) + tile_queries_ - 1) / tile_queries_;
    }
  }

  int64_t count() const {
    return starts_[call_.num_sequences] * call_.num_kv_heads * head_tiles_;
  }

  Tile at(int64_t index) const {
    const int64_t parts = call_.num_kv_heads * head_tiles_;
    const int64_t place = index / parts;
    const int64_t s = std::upper_bound(starts_, starts_ + call_.num_sequences, place) - starts_ - 1;
    const int64_t skipped = (place - starts_[s]) * tile_queries_;
    const int64_t skipped_heads = index % head_tiles_ * tile_heads_;
    Tile tile;
    tile.first_query = call_.query_starts[s] + skipped;
    tile.first_position = call_.cached_lens[s] - num_queries(s) + skipped;
    tile.num_queries = std::min(tile_queries_, num_queries(s) - skipped);
    tile.kv_head = index % parts / head_tiles_;
    tile.first_head = tile.kv_head * heads_ + skipped_heads;
    tile.num_heads = std::min(tile_heads_, heads_ - skipped_heads);
    tile.pages = call_.block_table + s * call_.table_stride;
    return tile;
  }

 private:
  int64_t num_queries(int64_t s) const { return call_.query_starts[s + 1] - call_.query_starts[s]; }

  const AttentionCall& call_;
  const int64_t heads_;
  const int64_t tile_heads_;
  const int64_t head_tiles_;
  const int64_t tile_queries_;
  int64_t* starts_;  // first tile of each sequence, then the number of all
};

template <class Number>
float* tile_memory(const AttentionCall& call) {
  return scratch_floats(Scratch::kTile, TileKernel<Number>::memory_floats(call.head_width));
}

// Few tiles, of long contexts: their ranges are shared out, and combined in their order. What
// comes out is the same, to the bit.
template <class Number>
void attend_split(const AttentionCall& call, const Tiles& tiles) {
  int64_t starts[kMaxSplitTiles + 1] = {0};  // of each tile, in the parts
  for (int64_t i = 0; i < tiles.count(); ++i) {
    const Tile tile = tiles.at(i);
    starts[i + 1] = starts[i] + TileKernel<Number>(call, tile, tile_memory<Number>(call)).num_ranges();
  }
  const int64_t num_parts = starts[tiles.count()];
  const int64_t sums = kMaxRows * ((call.head_width + 7) / 8 * 8);
  float* memory = scratch_floats(Scratch::kPartSums, num_parts * sums);
  auto* parts = static_cast<State*>(scratch(Scratch::kParts, num_parts * sizeof(State)));
  parallel_for(int(num_parts), [&](int index) {
    const int64_t i = std::upper_bound(starts, starts + tiles.count(), index) - starts - 1;
    const Tile tile = tiles.at(i);
    parts[index].sums = memory + index * sums;
    TileKernel<Number>(call, tile, tile_memory<Number>(call))
        .run_part(index - starts[i], parts[index]);
  });
  for (int64_t i = 0; i < tiles.count(); ++i) {
    const Tile tile = tiles.at(i);
    TileKernel<Number>(call, tile, tile_memory<Number>(call)).combine(parts + starts[i]);
  }
}

template <class Number>
void attend_in(const AttentionCall& call) {
  const Tiles tiles(call);
  const int32_t longest = call.num_sequences == 0
                              ? 0
                              : *std::max_element(call.cached_lens,
                                                  call.cached_lens + call.num_sequences);
  if (tiles.count() <= kMaxSplitTiles && longest > kRange * kGroup && num_threads() > 1) {
    attend_split<Number>(call, tiles);
    return;
  }
  parallel_for(int(tiles.count()), [&](int index) {
    const Tile tile = tiles.at(index);
    TileKernel<Number>(call, tile, tile_memory<Number>(call)).run();
  });
}

}  // namespace

void attend(const AttentionCall& call) {
  switch (call.cache_kind) {
    case CacheKind::kFloat32: return attend_in<float>(call);
    case CacheKind::kBFloat16: return attend_in<BF16>(call);
    case CacheKind::kFloat16: return attend_in<F16>(call);
  }
}

}  // namespace llmplug

extern "C" void llmplug_attend(const llmplug::AttentionCall* call) { llmplug::attend(*call); }
