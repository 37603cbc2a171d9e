// A persistent pool of threads: the caller and its workers share numbered tasks.
#pragma once

#include <type_traits>

namespace llmplug {

using Task = void (*)(void* context, int index);

// Runs task(context, i) for i in [0, num_tasks) and returns when all are done. Which thread runs
// which index is not fixed, so a result must not depend on it. A second caller at the same time
// runs its tasks alone.
void run_tasks(int num_tasks, Task task, void* context);

int num_threads();

template <class Function>
void parallel_for(int num_tasks, Function&& function) {
  using Plain = std::remove_reference_t<Function>;
  run_tasks(
      num_tasks, [](void* context, int index) { (*static_cast<Plain*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(&function)));
}

// What a thread's memory is used for; two uses at the same time must differ.
enum class Scratch : int {
  kQuants,
  kScales,
  kTileStarts,
  kTile,
  kParts,
  kPartSums,
  kNormed,
  kHeads,
  kAttended,
  kGateUp,
  kGated,
  kCount,
};

// Memory of the calling thread, page aligned, valid until its next call for the same use.
void* scratch(Scratch use, long long num_bytes);

inline float* scratch_floats(Scratch use, long long count) {
  return static_cast<float*>(scratch(use, 4 * count));
}

}  // namespace llmplug
