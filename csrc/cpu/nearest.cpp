#include "nearest.h"

#include <algorithm>
#include <cstring>

#include "pool.h"
#include "row_passes.h"
#include "scratch.h"
#include "transform.h"

namespace dtk::cpu {

namespace {

constexpr int64_t kVoxelsPerThread = 1 << 14;  // less is not worth waking a thread for
constexpr int64_t kWholeImage = 1 << 20;       // voxels; one thread per smaller image, if there are enough
constexpr int kRowsPerTask = 16;

thread_local Scratch caller_scratch, participant_scratch;

bool has_voxels(const Image& image) {
  return std::all_of(image.shape, image.shape + 5, [](int64_t length) { return length > 0; });
}

size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

class Batch {
 public:
  explicit Batch(const Nearest& n) : n_(n), passes_(row_passes().nearest) {
    const int64_t* shape = n.image.shape;
    images_ = shape[0] * shape[1];
    depth_ = int(shape[2]);
    height_ = int(shape[3]);
    width_ = int(shape[4]);
    voxels_ = shape[2] * shape[3] * shape[4];
    tiles_ = (width_ + kTile - 1) / kTile;
    table_bytes_ = round_up((table_entries(height_) + table_entries(depth_)) * sizeof(uint32_t));
    near_x_bytes_ = round_up(passes_.near_x_size(height_, width_));
    const size_t rows = depth_ == 1 ? 0 : size_t(height_) * tiles_ * depth_;
    places_bytes_ = rows * kTile * sizeof(uint32_t);
    busy_bytes_ = round_up(rows);
    workspace_bytes_ = passes_.workspace(depth_, height_, width_);
  }

  void run() {
    advise_huge_pages(n_.index, size_t(images_ * voxels_) * sizeof(int64_t));
    distances();
    const int threads =
        int(std::max<int64_t>(1, std::min<int64_t>(n_.threads, images_ * voxels_ / kVoxelsPerThread)));
    const bool whole_images =
        threads == 1 || (images_ >= 2 * threads && voxels_ <= kWholeImage) || voxels_ < 2 * kVoxelsPerThread;
    const size_t image_bytes = table_bytes_ + places_bytes_ + busy_bytes_;
    if (whole_images) {
      parallel(threads, images_, [&](TaskQueue& queue) {
        ScratchLease own(participant_scratch, image_bytes + near_x_bytes_ + workspace_bytes_);
        char* near_x = own.data() + image_bytes;
        char* workspace = near_x + near_x_bytes_;
        int64_t image;
        while (queue.next(image)) {
          const NearestTask task = task_for(image, own.data());
          for (int z = 0; z < depth_; z++) slice(task, z, workspace, near_x);
          for (int y = 0; y < height_ && depth_ > 1; y++) row(task, y, workspace);
        }
        passes_.finish();
      });
      return;
    }
    const bool shared_slices = depth_ < 2 * threads;
    ScratchLease shared(caller_scratch, image_bytes + (shared_slices ? near_x_bytes_ : 0));
    for (int64_t image = 0; image < images_; image++) {
      const NearestTask task = task_for(image, shared.data());
      if (shared_slices) {
        for (int z = 0; z < depth_; z++) shared_slice(task, z, threads, shared.data() + image_bytes);
      } else {
        share(threads, depth_, near_x_bytes_ + workspace_bytes_,
              [&](int z, char* own) { slice(task, z, own + near_x_bytes_, own); });
      }
      if (depth_ > 1) {
        share(threads, height_, workspace_bytes_, [&](int y, char* own) { row(task, y, own); });
      }
    }
  }

 private:
  // --- Decisions ---

  double spacing(int64_t row, int axis) const { return n_.spacing ? n_.spacing[3 * row + axis] : 1.0; }
  bool isotropic(int64_t row) const {
    for (int axis = 3 - n_.spatial_dims; axis < 2; axis++) {
      if (spacing(row, axis) != spacing(row, 2)) return false;
    }
    return true;
  }
  float weight(int64_t row, int axis) const { return float(spacing(row, axis) * spacing(row, axis)); }
  int64_t spacing_row(int64_t image) const {
    return n_.spacing && n_.spacing_rows > 1 ? image / n_.image.shape[1] : 0;
  }

  // The bits below a square that an axis of length n needs, -1 if the largest square does not fit above them:
  // it and all costs of the axis must stay below the solver's "none", 2^31 - 1.
  static int packed_bits(int n, int64_t largest_square) {
    int bits = 0;
    while ((int64_t(1) << bits) < n) bits++;
    return (largest_square + 1) << bits < 0x7fffffff ? bits : -1;
  }

  static size_t table_entries(int n) { return 2 * size_t(n + kCostMargin) + 1; }

  // An axis with its table of costs, written from `table` on.
  ArgAxis axis_for(int n, bool exact, int64_t largest_square, float weight, uint32_t* table) const {
    ArgAxis axis;
    axis.bits = exact ? packed_bits(n, largest_square) : -1;
    uint32_t* cost = table + n + kCostMargin;
    for (int k = 0; k <= n + kCostMargin; k++) {
      uint32_t c = uint32_t(k) * uint32_t(k) << (axis.bits > 0 ? axis.bits : 0);
      if (!exact) {
        const float product = weight * float(int64_t(k) * k);
        std::memcpy(&c, &product, sizeof c);
      }
      cost[k] = cost[-k] = c;
    }
    const float unit = exact ? float(int64_t(1) << std::max(axis.bits, 0)) : weight;
    axis.cost = {cost, 1.0f / unit};
    return axis;
  }

  NearestTask task_for(int64_t image, char* scratch) const {
    NearestTask task{};
    const int64_t classes = n_.image.shape[1], row = spacing_row(image);
    task.image = n_.image;
    task.offset = image / classes * n_.image.stride[0] + image % classes * n_.image.stride[1];
    task.class_index = image % classes;
    task.depth = depth_;
    task.height = height_;
    task.width = width_;
    task.exact = isotropic(row);
    task.x_weight = weight(row, 2);
    task.y_weight = weight(row, 1);
    task.scale = float(spacing(row, 2));
    const auto square = [](int64_t n) { return (n - 1) * (n - 1); };
    const int64_t in_slice = square(height_) + square(width_);
    uint32_t* tables = reinterpret_cast<uint32_t*>(scratch);
    task.y = axis_for(height_, task.exact, in_slice, weight(row, 1), tables);
    task.z = axis_for(depth_, task.exact, in_slice + square(depth_), weight(row, 0),
                      tables + table_entries(height_));
    task.places = reinterpret_cast<uint32_t*>(scratch + table_bytes_);
    task.busy = reinterpret_cast<uint8_t*>(scratch + table_bytes_ + places_bytes_);
    task.streaming = images_ * voxels_ * int64_t(sizeof(int64_t)) > kStreamingBytes;
    task.distance = task.exact ? n_.distance + image * voxels_ : nullptr;
    task.index = n_.index + image * voxels_;
    return task;
  }

  // --- Work ---

  // Where the squares are rounded, the distances are the distance transform's own.
  void distances() const {
    bool any = false;
    for (int64_t image = 0; image < images_; image++) any = any || !isotropic(spacing_row(image));
    if (!any) {
      advise_huge_pages(n_.distance, size_t(images_ * voxels_) * sizeof(float));
      return;
    }
    Transform t{};
    t.image = n_.image;
    t.spacing = n_.spacing;
    t.spacing_rows = n_.spacing_rows;
    t.out = n_.distance;
    t.spatial_dims = n_.spatial_dims;
    t.threads = n_.threads;
    transform(t);
  }

  void slice(const NearestTask& task, int z, char* workspace, char* near_x_bytes) const {
    checkpoint();
    uint16_t* near_x = reinterpret_cast<uint16_t*>(near_x_bytes);
    passes_.scan_rows(task, z, 0, height_, workspace, near_x);
    for (int tile = 0; tile < tiles_; tile++) passes_.do_columns(task, z, tile, workspace, near_x);
  }

  void row(const NearestTask& task, int y, char* workspace) const {
    checkpoint();
    for (int tile = 0; tile < tiles_; tile++) passes_.do_depth(task, y, tile, workspace);
  }

  void shared_slice(const NearestTask& task, int z, int threads, char* near_x_bytes) const {
    uint16_t* near_x = reinterpret_cast<uint16_t*>(near_x_bytes);
    const int blocks = (height_ + kRowsPerTask - 1) / kRowsPerTask;
    share(threads, blocks, workspace_bytes_, [&](int block, char* own) {
      const int y0 = block * kRowsPerTask, y1 = std::min(height_, y0 + kRowsPerTask);
      passes_.scan_rows(task, z, y0, y1, own, near_x);
    });
    share(threads, tiles_, workspace_bytes_,
          [&](int tile, char* own) { passes_.do_columns(task, z, tile, own, near_x); });
  }

  template <class Body>
  void share(int threads, int count, size_t bytes, const Body& body) const {
    parallel(threads, count, [&](TaskQueue& queue) {
      ScratchLease own(participant_scratch, bytes);
      int64_t task;
      while (queue.next(task)) body(int(task), own.data());
      passes_.finish();
    });
  }

  const Nearest& n_;
  const NearestPasses& passes_;
  int64_t images_, voxels_;
  int depth_, height_, width_, tiles_;
  size_t table_bytes_, near_x_bytes_, places_bytes_, busy_bytes_, workspace_bytes_;
};

}  // namespace

void nearest(const Nearest& n) {
  if (has_voxels(n.image)) Batch(n).run();
}

}  // namespace dtk::cpu
