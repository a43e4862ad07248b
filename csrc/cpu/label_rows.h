// Connected components, row by row: 64 voxels at a time while rows are read and compared.
#pragma once
#include "row_passes.h"
#include "runs.h"

namespace dtk::cpu::DTK_ISA {

inline uint64_t* row_bits(const LabelTask& task, int64_t row) {
  return task.words + row * words_for(task.width);
}

inline void label_read_rows(const LabelTask& task, int64_t begin, int64_t end, uint8_t* buffer) {
  const int64_t* stride = task.image.stride + 2;
  for (int64_t row = begin; row < end; row++) {
    const int64_t z = row / task.height, y = row % task.height;
    uint64_t* bits = row_bits(task, row);
    pack_row(task.image, task.offset + z * stride[0] + y * stride[1], stride[2], task.width, buffer, bits);
    task.first[row + 1] = count_runs(bits, task.width);
  }
}

// The root of a run. Halves the path on the way: what is skipped is still an ancestor, and not above it.
inline uint32_t find_root(uint32_t* parent, uint32_t i) {
  while (parent[i] != i) {
    parent[i] = parent[parent[i]];
    i = parent[i];
  }
  return i;
}

inline void unite(uint32_t* parent, uint32_t i, uint32_t j) {
  if (parent[i] == parent[j]) return;
  i = find_root(parent, i);
  j = find_root(parent, j);
  if (i < j) {
    parent[j] = i;
  } else {
    parent[i] = j;
  }
}

// Unites the runs of two rows that touch; `diagonal`: those, too, that only touch at a corner.
//
// Of two runs that touch, the later beginning is at a voxel p that belongs to both, or (diagonal) follows the
// last voxel of the other. So every such pair shows at one p, where one of them begins, and a few bit
// operations find these for 64 voxels at once; most words have none. The runs in question are the last that
// begin at or before p in either row: their numbers are counts of beginnings.
inline void unite_two_rows(const LabelTask& task, int64_t row, int64_t other, bool diagonal) {
  const uint64_t *a = row_bits(task, row), *b = row_bits(task, other);
  uint64_t carry_a = 0, carry_b = 0;
  uint32_t i = uint32_t(task.first[row]) - 1, j = uint32_t(task.first[other]) - 1;
  const uint64_t corners = diagonal ? ~uint64_t(0) : 0;
  for (int64_t w = 0; w < words_for(task.width); w++) {
    const uint64_t before_a = a[w] << 1 | carry_a, before_b = b[w] << 1 | carry_b;
    carry_a = a[w] >> 63;
    carry_b = b[w] >> 63;
    const uint64_t begin_a = a[w] & ~before_a, begin_b = b[w] & ~before_b;
    uint64_t touching = (begin_a & (b[w] | (before_b & corners))) | (begin_b & (a[w] | (before_a & corners)));
    for (; touching; touching &= touching - 1) {
      const uint64_t up_to = touching ^ (touching - 1);  // the bits up to and with the lowest
      unite(task.parent, i + uint32_t(__builtin_popcountll(begin_a & up_to)),
            j + uint32_t(__builtin_popcountll(begin_b & up_to)));
    }
    i += uint32_t(__builtin_popcountll(begin_a));
    j += uint32_t(__builtin_popcountll(begin_b));
  }
}

// Neighbours differ in at most `connectivity` coordinates, and the step to another row takes one or two of
// them; what is left decides about the diagonals along x.
inline void label_unite_rows(const LabelTask& task, int64_t begin, int64_t end, int64_t low, int64_t high) {
  const int64_t height = task.height;
  for (int64_t row = begin; row < end; row++) {
    if (task.first[row] == task.first[row + 1]) continue;
    const int64_t z = row / height, y = row % height;
    const auto with = [&](int64_t other, int coordinates) {
      if (other < low || other >= high || task.first[other] == task.first[other + 1]) return;
      unite_two_rows(task, row, other, task.connectivity > coordinates);
    };
    if (y > 0) with(row - 1, 1);
    if (z == 0) continue;
    with(row - height, 1);
    if (task.connectivity < 2) continue;
    if (y > 0) with(row - height - 1, 2);
    if (y + 1 < height) with(row - height + 1, 2);
  }
}

inline void label_write_rows(const LabelTask& task, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    int32_t* out = task.labels + row * task.width;
    if (task.first[row] == task.first[row + 1]) {
      memset(out, 0, size_t(task.width) * sizeof(int32_t));
      continue;
    }
    const uint32_t* label = task.parent + task.first[row];
    int done = 0;
    for_each_run(row_bits(task, row), int(task.width), [&](int from, int to) {
      const int32_t value = int32_t(*label++);
      for (int x = done; x < from; x++) out[x] = 0;
      for (int x = from; x < to; x++) out[x] = value;
      done = to;
    });
    for (int64_t x = done; x < task.width; x++) out[x] = 0;
  }
}

constexpr LabelPasses label_table() { return {label_read_rows, label_unite_rows, label_write_rows}; }

}  // namespace dtk::cpu::DTK_ISA
