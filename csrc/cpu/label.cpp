// Union-find over the runs of foreground along x.
//
//   1. every row becomes bits, and its runs are counted       rows in parallel
//   2. a prefix sum of the counts gives each run its number   serial, one addition per row
//   3. runs are united with those of earlier rows             slabs of rows in parallel
//   4. and across the seams of slabs                          serial, a slice of rows per seam
//   5. roots are numbered                                     serial, one look-up per run
//   6. labels are written                                     rows in parallel
//
// Raster order comes for free. Runs are numbered in raster order, and a union always keeps the smaller root:
// so a component's root is the run that holds its first voxel, parents never follow their children, and one
// ascending sweep numbers the components by their first voxels. The result depends on neither the threads
// nor the order of unions.
//
// The mask is read once. A voxel takes one bit of scratch and a run 4 bytes, so that thick objects cost
// little more than writing the labels.
#include "label.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "pool.h"
#include "row_passes.h"
#include "scratch.h"

namespace dtk::cpu {

namespace {

constexpr int64_t kVoxelsPerThread = 1 << 16;  // less is not worth waking a thread for
constexpr int64_t kWholeImage = 1 << 21;       // voxels; one thread per smaller image, if there are enough

// Two blocks, since the number of runs is known only when the rows have been read; and a row of bytes.
thread_local Scratch row_scratch, run_scratch, line_scratch;

class Batch {
 public:
  explicit Batch(const Label& l)
      : l_(l),
        passes_(row_passes().label),
        rows_(l.image.shape[2] * l.image.shape[3]),
        width_(l.image.shape[4]),
        images_(l.image.shape[0] * l.image.shape[1]) {}

  void run() const {
    const int64_t voxels = rows_ * width_;
    advise_huge_pages(l_.labels, size_t(images_ * voxels) * sizeof(int32_t));
    const int threads =
        int(std::max<int64_t>(1, std::min<int64_t>(l_.threads, images_ * voxels / kVoxelsPerThread)));
    if (threads == 1 || (images_ >= 2 * threads && voxels <= kWholeImage) || voxels < 2 * kVoxelsPerThread) {
      parallel(threads, images_, [&](TaskQueue& queue) {
        int64_t image;
        while (queue.next(image)) label_image(image, 1);
      });
    } else {
      for (int64_t image = 0; image < images_; image++) label_image(image, threads);
    }
  }

 private:
  void label_image(int64_t image, int threads) const {
    LabelTask task{};
    const int64_t classes = l_.image.shape[1];
    task.image = l_.image;
    task.offset = image / classes * l_.image.stride[0] + image % classes * l_.image.stride[1];
    task.depth = l_.image.shape[2];
    task.height = l_.image.shape[3];
    task.width = width_;
    task.connectivity = l_.connectivity;
    task.labels = l_.labels + image * rows_ * width_;

    const int64_t words = rows_ * ((width_ + 63) / 64);
    ScratchLease rows(row_scratch, size_t(words + rows_ + 1) * 8);
    task.words = reinterpret_cast<uint64_t*>(rows.data());
    task.first = reinterpret_cast<int64_t*>(task.words + words);
    const int64_t slabs = threads == 1 ? 1 : std::min<int64_t>(rows_, 2 * threads);
    share(threads, slabs, [&](int64_t begin, int64_t end) {
      ScratchLease line(line_scratch, size_t(width_));
      passes_.read_rows(task, begin, end, reinterpret_cast<uint8_t*>(line.data()));
    });

    const uint32_t runs = number_runs(task);
    ScratchLease parents(run_scratch, size_t(runs) * sizeof(uint32_t));
    task.parent = reinterpret_cast<uint32_t*>(parents.data());
    share(threads, slabs, [&](int64_t begin, int64_t end) {
      for (int64_t i = task.first[begin]; i < task.first[end]; i++) task.parent[i] = uint32_t(i);
      passes_.unite_rows(task, begin, end, begin, end);
    });
    for (int64_t slab = 1; slab < slabs; slab++) {
      const int64_t seam = first_row(slab, slabs);
      passes_.unite_rows(task, seam, std::min(rows_, seam + task.height + 1), 0, seam);
    }
    l_.count[image] = number_components(task.parent, runs);
    share(threads, slabs, [&](int64_t begin, int64_t end) { passes_.write_rows(task, begin, end); });
  }

  int64_t first_row(int64_t slab, int64_t slabs) const { return rows_ * slab / slabs; }

  template <class Body>
  void share(int threads, int64_t slabs, const Body& body) const {
    parallel(threads, slabs, [&](TaskQueue& queue) {
      int64_t slab;
      while (queue.next(slab)) body(first_row(slab, slabs), first_row(slab + 1, slabs));
    });
  }

  uint32_t number_runs(const LabelTask& task) const {
    int64_t* first = task.first;
    first[0] = 0;
    for (int64_t row = 0; row < rows_; row++) first[row + 1] += first[row];
    if (first[rows_] > std::numeric_limits<int32_t>::max()) {
      throw std::length_error("mask: expected at most 2^31 - 1 runs of foreground along the last axis, got " +
                              std::to_string(first[rows_]));
    }
    return uint32_t(first[rows_]);
  }

  // Parents become labels.
  static int32_t number_components(uint32_t* parent, uint32_t runs) {
    uint32_t components = 0;
    for (uint32_t i = 0; i < runs; i++) parent[i] = parent[i] == i ? ++components : parent[parent[i]];
    return int32_t(components);
  }

  const Label& l_;
  const LabelPasses& passes_;
  const int64_t rows_, width_, images_;
};

}  // namespace

void label(const Label& l) {
  for (const int64_t length : l.image.shape) {
    if (length == 0) return;
  }
  Batch(l).run();
}

}  // namespace dtk::cpu
