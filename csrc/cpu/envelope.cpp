// Axis by axis, the last first: the minimum over a volume is the minimum over z of those over y of those over
// x. Rows of a slice, then its columns while it is in cache, then the columns along z; values and positions
// in place. Of positions that tie, the lowest wins on every axis, so that the result is the first in raster
// order.
#include "envelope.h"

#include <algorithm>
#include <climits>

#include "pool.h"
#include "row_passes.h"
#include "scratch.h"

namespace dtk::cpu {

namespace {

constexpr int64_t kVoxelsPerThread = 1 << 12;  // less is not worth waking a thread for
constexpr int64_t kWholeImage = 1 << 20;       // voxels; one thread per smaller image, if there are enough

thread_local Scratch caller_scratch, participant_scratch;

size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

class Batch {
 public:
  explicit Batch(const Envelope& e)
      : e_(e),
        passes_(row_passes().envelope),
        value_bytes_(e.wide ? sizeof(double) : sizeof(float)),
        lanes_(int(64 / value_bytes_)),
        samples_(e.shape[0]),
        classes_(e.shape[1]),
        sample_stride_(e.stride[0]),
        class_stride_(e.stride[1]) {
    for (int axis = 0; axis < 3; axis++) {
      length_[axis] = int(e.shape[2 + axis]);
      stride_[axis] = e.stride[2 + axis];
      solved_[axis] = axis == 2 || length_[axis] > 1;
    }
    if (length_[0] == 1 && length_[1] == 1 && samples_ <= INT_MAX && classes_ <= INT_MAX) fold();
    slice_ = int64_t(length_[1]) * length_[2];
    voxels_ = length_[0] * slice_;
    const int longest =
        std::max(length_[2], std::max(solved_[0] ? length_[0] : 1, solved_[1] ? length_[1] : 1));
    workspace_bytes_ = round_up(passes_.workspace(e.wide, longest));
    table_bytes_ = 0;
    for (int axis = 0; axis < 3; axis++) table_bytes_ += table_bytes(axis);
  }

  void run() const {
    const int64_t images = samples_ * classes_;
    advise_huge_pages(e_.values, size_t(images * voxels_) * value_bytes_);
    if (e_.index) advise_huge_pages(e_.index, size_t(images * voxels_) * sizeof(int64_t));
    const int threads =
        int(std::max<int64_t>(1, std::min<int64_t>(e_.threads, images * voxels_ / kVoxelsPerThread)));
    if (threads == 1 || (images >= 2 * threads && voxels_ <= kWholeImage)) {
      parallel(threads, images, [&](TaskQueue& queue) {
        ScratchLease own(participant_scratch, table_bytes_ + workspace_bytes_);
        char* workspace = own.data() + table_bytes_;
        int64_t image;
        while (queue.next(image)) {
          const EnvelopeTask task = task_for(image, own.data());
          for (int z = 0; z < length_[0]; z++) slice(task, z, workspace);
          if (solved_[0]) {
            for (int64_t i = 0; i < tiles(slice_); i++) depth_tile(task, i, workspace);
          }
        }
      });
      return;
    }
    ScratchLease shared(caller_scratch, table_bytes_);
    for (int64_t image = 0; image < images; image++) {
      const EnvelopeTask task = task_for(image, shared.data());
      if (length_[0] >= 2 * threads) {
        share(threads, length_[0], [&](int64_t z, char* own) { slice(task, z, own); });
      } else {
        share(threads, tiles(length_[0] * int64_t(length_[1])),
              [&](int64_t i, char* own) { row_tile(task, i, own); });
        if (solved_[1]) {
          const int64_t in_slice = tiles(length_[2]);
          share(threads, length_[0] * in_slice,
                [&](int64_t i, char* own) { column_tile(task, i / in_slice, i % in_slice, own); });
        }
      }
      if (solved_[0]) {
        share(threads, tiles(slice_), [&](int64_t i, char* own) { depth_tile(task, i, own); });
      }
    }
  }

 private:
  // Images of one axis: the batch becomes rows that no pass but the first connects.
  void fold() {
    length_[1] = int(classes_);
    stride_[1] = class_stride_;
    classes_ = 1;
    if (e_.spacing_rows > 1) return;
    length_[0] = int(samples_);
    stride_[0] = sample_stride_;
    samples_ = 1;
  }

  size_t table_bytes(int axis) const {
    return solved_[axis] ? round_up((2 * size_t(length_[axis] + kCostMargin) + 1) * value_bytes_) : 0;
  }

  EnvelopeTask task_for(int64_t image, char* tables) const {
    EnvelopeTask task{};
    const int64_t sample = image / classes_;
    const double* spacing = e_.spacing ? e_.spacing + 3 * (e_.spacing_rows > 1 ? sample : 0) : nullptr;
    const int64_t offset = sample * sample_stride_ + image % classes_ * class_stride_;
    task.f = static_cast<const char*>(e_.f) + offset * int64_t(value_bytes_);
    task.wide = e_.wide;
    for (int axis = 0; axis < 3; axis++) {
      task.stride[axis] = stride_[axis];
      task.length[axis] = length_[axis];
      task.weight[axis] = spacing ? spacing[axis] * spacing[axis] : 1.0;
      if (!solved_[axis]) continue;
      char* cost = tables + (length_[axis] + kCostMargin) * value_bytes_;
      passes_.tabulate(e_.wide, task.weight[axis], length_[axis], cost);
      task.cost[axis] = cost;
      tables += table_bytes(axis);
    }
    task.values = static_cast<char*>(e_.values) + size_t(image * voxels_) * value_bytes_;
    task.index = e_.index ? e_.index + image * voxels_ : nullptr;
    return task;
  }

  int64_t tiles(int64_t lines) const { return (lines + lanes_ - 1) / lanes_; }

  // Rows, and columns along z, are counted through the volume; columns along y lie in a slice.
  void row_tile(const EnvelopeTask& task, int64_t i, char* workspace) const {
    const int64_t first = i * lanes_, rows = length_[0] * int64_t(length_[1]);
    passes_.do_rows(task, first, int(std::min<int64_t>(lanes_, rows - first)), workspace);
  }
  void column_tile(const EnvelopeTask& task, int64_t z, int64_t i, char* workspace) const {
    const int64_t x = i * lanes_;
    passes_.do_columns(task, 1, z * slice_ + x, int(std::min<int64_t>(lanes_, length_[2] - x)), workspace);
  }
  void depth_tile(const EnvelopeTask& task, int64_t i, char* workspace) const {
    checkpoint();
    const int64_t first = i * lanes_;
    passes_.do_columns(task, 0, first, int(std::min<int64_t>(lanes_, slice_ - first)), workspace);
  }
  void slice(const EnvelopeTask& task, int64_t z, char* workspace) const {
    checkpoint();
    for (int64_t y = 0; y < length_[1]; y += lanes_) {
      const int count = int(std::min<int64_t>(lanes_, length_[1] - y));
      passes_.do_rows(task, z * length_[1] + y, count, workspace);
    }
    if (!solved_[1]) return;
    for (int64_t i = 0; i < tiles(length_[2]); i++) column_tile(task, z, i, workspace);
  }

  template <class Body>
  void share(int threads, int64_t count, const Body& body) const {
    parallel(threads, count, [&](TaskQueue& queue) {
      ScratchLease own(participant_scratch, workspace_bytes_);
      int64_t task;
      while (queue.next(task)) body(task, own.data());
    });
  }

  const Envelope& e_;
  const EnvelopePasses& passes_;
  const size_t value_bytes_;
  const int lanes_;
  int64_t samples_, classes_, sample_stride_, class_stride_;
  int length_[3];      // (z, y, x)
  int64_t stride_[3];  // of the input
  bool solved_[3];     // axes of length 1 have nothing to solve; x passes in the input
  int64_t slice_, voxels_;
  size_t workspace_bytes_, table_bytes_;
};

}  // namespace

void envelope(const Envelope& e) {
  for (const int64_t length : e.shape) {
    if (length == 0) return;
  }
  Batch(e).run();
}

}  // namespace dtk::cpu
