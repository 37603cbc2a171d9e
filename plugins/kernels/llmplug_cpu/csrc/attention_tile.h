// Attention of one tile, some queries of a sequence and heads that share a key head, over the pages
// of the cache.
//
// Groups of eight tokens (see cache.h) are visited in the order of their tokens, kStep at a time,
// and kRange groups make a range whose result is merged with the ranges before: a query's result
// depends on its own position alone, not on the tile, chunk or batch it is computed in.
// Sources: https://arxiv.org/abs/2309.06180 (pages), https://arxiv.org/abs/1805.02867 (one-pass
// softmax).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "attention.h"
#include "simd.h"

namespace llmplug {

constexpr int kStep = 8;       // groups whose scores are held at once: 64 tokens
constexpr int kRange = 64;     // groups in a range: 512 tokens
constexpr int kMaxRows = 24;   // queries x heads of one tile: scores and sums stay in L1
constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Tile {
  int64_t first_query;   // packed token of the first query
  int64_t first_position;  // its place in its sequence
  int64_t num_queries;
  int64_t kv_head;
  int64_t first_head;  // query heads, all of them served by kv_head
  int64_t num_heads;
  const int32_t* pages;
};

struct Group {
  int64_t slot;      // its first token, counted over all pages and key heads
  int64_t position;  // of its first token
  int count;         // tokens in it that any query of the tile may see
};

struct Step {
  Group groups[kStep];
  int count;
};

// Softmax state of the rows of a tile: highest score, sum of weights, weighted sum of values.
struct State {
  float most[kMaxRows];
  float total[kMaxRows];
  float* sums;  // [rows][head width, rounded up to 8]
};

template <class Number>
class TileKernel {
 public:
  TileKernel(const AttentionCall& call, const Tile& tile, float* memory)
      : call_(call), tile_(tile), heads_(tile.num_heads),
        rows_(int(tile.num_queries * heads_)), width_(call.head_width),
        padded_((width_ + 7) / 8 * 8), page_groups_((call.page_size + 7) / 8),
        keys_(static_cast<const Number*>(call.keys)),
        values_(static_cast<const Number*>(call.values)) {
    queries_ = memory;
    scores_ = queries_ + kMaxRows * padded_;
    all_.sums = scores_ + kMaxRows * kStep * kGroup;
    range_.sums = all_.sums + kMaxRows * padded_;
    last_ = tile_.first_position + tile_.num_queries - 1;
    end_ = last_ < 0 ? 0 : group_of(last_) + 1;  // of padding: none
    begin_ = call_.window > 0
                 ? group_of(std::max<int64_t>(0, tile_.first_position - call_.window + 1))
                 : 0;
  }

  static int64_t memory_floats(int64_t width) {
    return kMaxRows * (3 * ((width + 7) / 8 * 8) + kStep * kGroup);
  }

  // Ranges of groups that the tile sees; they end at multiples of kRange.
  int64_t num_ranges() const { return (end_ + kRange - 1) / kRange - begin_ / kRange; }

  void run() {
    load_queries();
    reset(all_);
    for (int64_t i = 0; i < num_ranges(); ++i) {
      add_range(i);
      merge(range_);
    }
    write();
  }

  // One range alone, for another call to combine: `part.sums` has kMaxRows rows.
  void run_part(int64_t i, State& part) {
    load_queries();
    range_.sums = part.sums;
    add_range(i);
    part = range_;
  }

  void combine(const State* parts) {
    reset(all_);
    for (int64_t i = 0; i < num_ranges(); ++i) merge(parts[i]);
    write();
  }

 private:
  int64_t group_of(int64_t position) const {
    return position / call_.page_size * page_groups_ + position % call_.page_size / kGroup;
  }

  void add_range(int64_t i) {
    const int64_t begin = std::max(begin_, (begin_ / kRange + i) * kRange);
    const int64_t end = std::min(end_, (begin_ / kRange + i + 1) * kRange);
    reset(range_);
    // Steps end at multiples of kStep, so that every query meets the same ones.
    Step steps[2];
    load_step(begin, end, last_, steps[0]);
    for (int64_t first = begin, n = 0; first < end; n ^= 1) {
      first += steps[n].count;
      load_step(first, end, last_, steps[n ^ 1]);
      add_step(steps[n], steps[n ^ 1]);
    }
  }

  // Fills in the groups from `first` to the end of its step, or none from `end` on.
  void load_step(int64_t first, int64_t end, int64_t last, Step& step) const {
    step.count = int(std::max<int64_t>(0, std::min(end, (first / kStep + 1) * kStep) - first));
    int64_t page = first / page_groups_;
    int64_t in_page = first % page_groups_ * kGroup;
    for (int g = 0; g < step.count; ++g) {
      const int64_t head = int64_t(tile_.pages[page]) * call_.num_kv_heads + tile_.kv_head;
      Group& group = step.groups[g];
      group.position = page * call_.page_size + in_page;
      group.slot = head * page_groups_ * kGroup + in_page;
      group.count = int(std::clamp<int64_t>(
          std::min(call_.page_size - in_page, last - group.position + 1), 0, kGroup));
      in_page += kGroup;
      if (in_page >= call_.page_size) ++page, in_page = 0;
    }
  }

  void load_queries() {
    for (int r = 0; r < rows_; ++r) {
      const int64_t token = tile_.first_query + r / heads_;
      const int64_t head = tile_.first_head + r % heads_;
      const float* q = call_.q + token * call_.q_stride + head * width_;
      for (int64_t h = 0; h < width_; ++h) queries_[h * kMaxRows + r] = q[h] * call_.scale;
    }
  }

  void reset(State& state) {
    std::fill(state.most, state.most + rows_, kNever);
    std::fill(state.total, state.total + rows_, 0.0f);
    std::fill(state.sums, state.sums + rows_ * padded_, 0.0f);
  }

  void add_step(const Step& step, const Step& next) {
    for_tiles([&](int r, auto rows) { score<rows>(r, step, next); });
    for (int r = 0; r < rows_; ++r) weigh_row(r, step.groups, step.count);
    for_tiles([&](int r, auto rows) { sum<rows>(r, step.groups, step.count); });
  }

  // Calls function(first row, number of rows as a type) over all rows, six, three, two or one at a
  // time: each number is a kernel of its own, and more of them compile no faster.
  template <class Function>
  void for_tiles(Function&& function) {
    int r = 0;
    for (; rows_ - r >= 6; r += 6) function(r, std::integral_constant<int, 6>());
    if (rows_ - r >= 3) function(r, std::integral_constant<int, 3>()), r += 3;
    if (rows_ - r == 2) function(r, std::integral_constant<int, 2>());
    if (rows_ - r == 1) function(r, std::integral_constant<int, 1>());
  }

  // Vectors a tile of rows works on at once: about 12 sums keep both multipliers busy.
  static constexpr int vectors_of(int rows) { return rows == 1 ? 8 : rows <= 3 ? 4 : 2; }

  // Scores of some groups at a time; behind the last, it is computed again and not stored.
  template <int kRows>
  void score(int first, const Step& step, const Step& next) {
    constexpr int kGroups = vectors_of(kRows);
    for (int g = 0; g < step.count; g += kGroups) {
      const Number* k[kGroups];
      // Pages lie anywhere in memory, so the processor cannot see what comes next: the values of
      // these groups, read once the step has its weights, and the keys of the next step.
      const char* values[kGroups];
      const char* keys[kGroups];
      UNROLL for (int i = 0; i < kGroups; ++i) {
        const Group& group = step.groups[std::min(g + i, step.count - 1)];
        const Group& ahead = next.count > 0 ? next.groups[std::min(g + i, next.count - 1)] : group;
        k[i] = keys_ + group.slot * width_;
        values[i] = address(values_, group, padded_);
        keys[i] = address(keys_, ahead, width_);
      }
      constexpr int64_t kRow = kGroup * sizeof(Number);
      const float* q = queries_ + first;
      __m256 sums[kRows][kGroups];
      UNROLL for (int r = 0; r < kRows; ++r) {
        UNROLL for (int i = 0; i < kGroups; ++i) sums[r][i] = _mm256_setzero_ps();
      }
      for (int64_t h = 0; h < width_; ++h) {
        if (first == 0 && kRow * h % 64 == 0) {
          UNROLL for (int i = 0; i < kGroups; ++i) {
            _mm_prefetch(values[i] + kRow * h, _MM_HINT_T0);
            _mm_prefetch(keys[i] + kRow * h, _MM_HINT_T1);
          }
        }
        __m256 x[kRows];
        UNROLL for (int r = 0; r < kRows; ++r) x[r] = _mm256_broadcast_ss(q + h * kMaxRows + r);
        UNROLL for (int i = 0; i < kGroups; ++i) {
          const __m256 key = load8(k[i] + h * kGroup);
          UNROLL for (int r = 0; r < kRows; ++r) sums[r][i] = _mm256_fmadd_ps(x[r], key, sums[r][i]);
        }
      }
      UNROLL for (int r = 0; r < kRows; ++r) {
        float* row = scores_ + (first + r) * kStep * kGroup;
        UNROLL for (int i = 0; i < kGroups; ++i) {
          if (g + i < step.count) _mm256_storeu_ps(row + (g + i) * kGroup, sums[r][i]);
        }
      }
    }
  }

  static const char* address(const Number* numbers, const Group& group, int64_t width) {
    return reinterpret_cast<const char*>(numbers + group.slot * width);
  }

  // Turns the scores of a row into weights, exp(score - most), and rescales what it has so far.
  void weigh_row(int r, const Group* groups, int num_groups) {
    const int64_t position = tile_.first_position + r / heads_;
    const int64_t oldest = call_.window > 0 ? position - call_.window + 1 : 0;
    float* scores = scores_ + r * kStep * kGroup;
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 step_most = _mm256_set1_ps(kNever);
    for (int g = 0; g < num_groups; ++g) {
      const Group& group = groups[g];
      __m256 s = load8(scores + g * kGroup);
      const int end = int(std::clamp<int64_t>(position - group.position + 1, 0, group.count));
      const int begin = int(std::clamp<int64_t>(oldest - group.position, 0, kGroup));
      if (end < kGroup || begin > 0) {
        const __m256i seen =
            _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lanes),
                                _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes));
        s = _mm256_blendv_ps(_mm256_set1_ps(kNever), s, _mm256_castsi256_ps(seen));
        _mm256_storeu_ps(scores + g * kGroup, s);
      }
      step_most = _mm256_max_ps(step_most, s);
    }
    const float most = std::max(range_.most[r], max_lanes(step_most));
    if (most == kNever) {
      std::fill(scores, scores + num_groups * kGroup, 0.0f);
      return;
    }
    __m256 total = _mm256_setzero_ps();
    for (int g = 0; g < num_groups; ++g) {
      const __m256 w = exp8(_mm256_sub_ps(load8(scores + g * kGroup), _mm256_set1_ps(most)));
      _mm256_storeu_ps(scores + g * kGroup, w);
      total = _mm256_add_ps(total, w);
    }
    if (most > range_.most[r]) {
      const float factor = exp_of(range_.most[r] - most);
      range_.total[r] *= factor;
      scale_row(range_.sums + r * padded_, factor);
      range_.most[r] = most;
    }
    range_.total[r] += sum_lanes(total);
  }

  template <int kRows>
  void sum(int first, const Group* groups, int num_groups) {
    constexpr int kVectors = vectors_of(kRows);
    int64_t h = 0;
    for (; h + kVectors * kGroup <= width_; h += kVectors * kGroup) {
      sum_columns<kRows, kVectors>(first, h, groups, num_groups);
    }
    for (; h < width_; h += kGroup) sum_columns<kRows, 1>(first, h, groups, num_groups);
  }

  template <int kRows, int kVectors>
  void sum_columns(int first, int64_t h, const Group* groups, int num_groups) {
    __m256 sums[kRows][kVectors];
    UNROLL for (int r = 0; r < kRows; ++r) {
      UNROLL for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = load8(range_.sums + (first + r) * padded_ + h + v * kGroup);
      }
    }
    for (int g = 0; g < num_groups; ++g) {
      const Number* value = values_ + groups[g].slot * padded_ + h;
      const float* weights = scores_ + first * kStep * kGroup + g * kGroup;
      for (int t = 0; t < groups[g].count; ++t, value += padded_) {
        __m256 v[kVectors];
        UNROLL for (int i = 0; i < kVectors; ++i) v[i] = load8(value + i * kGroup);
        UNROLL for (int r = 0; r < kRows; ++r) {
          const __m256 w = _mm256_broadcast_ss(weights + r * kStep * kGroup + t);
          UNROLL for (int i = 0; i < kVectors; ++i) sums[r][i] = _mm256_fmadd_ps(w, v[i], sums[r][i]);
        }
      }
    }
    UNROLL for (int r = 0; r < kRows; ++r) {
      UNROLL for (int v = 0; v < kVectors; ++v) {
        _mm256_storeu_ps(range_.sums + (first + r) * padded_ + h + v * kGroup, sums[r][v]);
      }
    }
  }

  // Adds a range to what came before it.
  void merge(const State& range) {
    for (int r = 0; r < rows_; ++r) {
      if (range.most[r] == kNever) continue;
      const float most = std::max(all_.most[r], range.most[r]);
      const float before = exp_of(all_.most[r] - most);
      const float now = exp_of(range.most[r] - most);
      all_.total[r] = all_.total[r] * before + range.total[r] * now;
      float* sums = all_.sums + r * padded_;
      const float* added = range.sums + r * padded_;
      for (int64_t h = 0; h < padded_; ++h) sums[h] = sums[h] * before + added[h] * now;
      all_.most[r] = most;
    }
  }

  void write() {
    for (int r = 0; r < rows_; ++r) {
      const int64_t token = tile_.first_query + r / heads_;
      const int64_t head = tile_.first_head + r % heads_;
      float* out = call_.out + (token * call_.num_heads + head) * width_;
      const float inverse = last_ < 0 ? 0.0f : 1.0f / all_.total[r];
      for (int64_t h = 0; h < width_; ++h) out[h] = all_.sums[r * padded_ + h] * inverse;
    }
  }

  static float exp_of(float x) { return _mm256_cvtss_f32(exp8(_mm256_set1_ps(x))); }

  void scale_row(float* row, float factor) {
    const __m256 f = _mm256_set1_ps(factor);
    for (int64_t h = 0; h < padded_; h += 8) {
      _mm256_storeu_ps(row + h, _mm256_mul_ps(load8(row + h), f));
    }
  }

  const AttentionCall& call_;
  const Tile& tile_;
  const int64_t heads_;
  const int rows_;
  const int64_t width_;
  const int64_t padded_;
  const int64_t page_groups_;
  const Number* keys_;
  const Number* values_;
  int64_t last_;   // position of the last query
  int64_t begin_;  // groups that any query may see
  int64_t end_;
  float* queries_;  // [head width][kMaxRows], scaled
  float* scores_;
  State all_;
  State range_;
};

}  // namespace llmplug
