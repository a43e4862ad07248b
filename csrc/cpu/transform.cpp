#include "transform.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "passes.h"
#include "pool.h"
#include "scratch.h"

namespace dtk::cpu {

namespace {

// --- Which instruction set ---

// DTK_CPU_ISA forbids what is above it: avx512 > avx2 > portable.
const Passes& choose_passes() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("DTK_CPU_ISA");
  const auto allowed = [wanted](const char* name) {
    return !wanted || !*wanted || !std::strcmp(wanted, name);
  };
  const bool has_avx2 = __builtin_cpu_supports("avx2");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx512 && allowed("avx512")) return kAvx512Passes;
  if (has_avx2 && (allowed("avx2") || allowed("avx512"))) return kAvx2Passes;
#endif
  return kBaselinePasses;
}

const Passes& passes() {
  static const Passes& chosen = choose_passes();
  return chosen;
}

// --- Tuning ---

constexpr int64_t kVoxelsPerThread = 1 << 15;  // less is not worth waking a thread for (about 10 us)
constexpr int64_t kWholeImage = 1 << 21;       // voxels; one thread per smaller image, if there are enough
constexpr size_t kScanTile = 512 << 10;        // bytes of codes that stay in L2 between the two scans
constexpr int64_t kStreamingBytes = 2 << 20;   // larger outputs bypass the caches
constexpr int64_t kWholeSlice = 1 << 18;       // pixels; a larger slice is shared by the threads

int tiles(int n) { return (n + kTile - 1) / kTile; }

// Two blocks per thread, since a caller's scratch outlives the parallel sections in which it takes part.
thread_local Scratch caller_scratch, participant_scratch;

// --- One call ---

class Batch {
 public:
  explicit Batch(const Transform& t) : t_(t), passes_(passes()) {
    const int64_t* shape = t.image.shape;
    images_ = shape[0] * shape[1];
    ImageTask& task = prototype_;
    task.image = t.image;
    task.depth = int(shape[2]);
    task.height = int(shape[3]);
    task.width = int(shape[4]);
    voxels_ = shape[2] * shape[3] * shape[4];
    // An axis of length 1 changes nothing, unless there is background beyond its ends.
    const bool has_z = task.depth > 1 || (t.closed && t.spatial_dims == 3);
    const bool has_y = task.height > 1 || (t.closed && t.spatial_dims >= 2);
    task.scan_axis = has_z ? 0 : has_y ? 1 : 2;
    task.is_signed = t.is_signed;
    task.squared = t.squared;
    task.closed = t.closed;
    task.wide_codes = shape[2 + task.scan_axis] > 128;
    task.streaming = images_ * voxels_ * int64_t(sizeof(float)) > kStreamingBytes;
    columns_ = task.scan_axis == 0 ? int64_t(task.height) * task.width : task.scan_axis == 1 ? task.width : 1;
    const size_t line_bytes = size_t(shape[2 + task.scan_axis]) << task.wide_codes;
    // Columns of a scan tile: whole pages of a row where that fits in L2, and work for every thread.
    const int64_t fits = int64_t(kScanTile / line_bytes), share = columns_ / (2 * std::max(1, t.threads)) + 1;
    scan_tile_ = std::min<int64_t>(4096, std::min(fits, std::max<int64_t>(256, share)));
    scan_tile_ = std::min(columns_, std::max<int64_t>(64, scan_tile_ / 64 * 64));
    scan_tiles_ = (columns_ + scan_tile_ - 1) / scan_tile_;
    code_bytes_ = ((size_t(voxels_) << task.wide_codes) + kCodePadding + 63) / 64 * 64;
    workspace_bytes_ =
        (std::max(passes_.slice_workspace(task.height, task.width), scan_workspace()) + 63) / 64 * 64;
    turned_bytes_ = task.scan_axis == 0 ? passes_.turned_size(task.height, task.width) : 0;
  }

  void run() {
    advise_huge_pages(t_.out, size_t(images_ * voxels_) * sizeof(float));
    const int threads =
        int(std::max<int64_t>(1, std::min<int64_t>(t_.threads, images_ * voxels_ / kVoxelsPerThread)));
    const bool whole_images =
        threads == 1 || (images_ >= 2 * threads && voxels_ <= kWholeImage) || voxels_ < 2 * kVoxelsPerThread;
    const bool whole_slices = threads == 1 || (prototype_.depth >= threads && plane() <= kWholeSlice);
    const bool shared_slices = !whole_images && !whole_slices && prototype_.scan_axis == 0;

    const size_t table_bytes = tables_size();
    ScratchLease shared(caller_scratch,
                        table_bytes + (whole_images ? 0 : code_bytes_) + (shared_slices ? turned_bytes_ : 0));
    tabulate(reinterpret_cast<uint32_t*>(shared.data()));
    char* shared_codes = shared.data() + table_bytes;

    if (whole_images) {
      parallel(threads, images_, [&](TaskQueue& queue) {
        ScratchLease own(participant_scratch, code_bytes_ + workspace_bytes_ + turned_bytes_);
        char* workspace = own.data() + code_bytes_;
        int64_t image;
        while (queue.next(image)) {
          const ImageTask task = task_for(image, own.data());
          for (int64_t tile = 0; tile < scan_tiles_; tile++) scan(task, tile, workspace);
          for (int64_t unit = 0; unit < units(); unit++) whole_slice(task, unit, workspace);
        }
        passes_.finish();
      });
      return;
    }
    for (int64_t image = 0; image < images_; image++) {
      const ImageTask task = task_for(image, shared_codes);
      parallel(threads, scan_tiles_, [&](TaskQueue& queue) {
        ScratchLease own(participant_scratch, scan_workspace());
        int64_t tile;
        while (queue.next(tile)) scan(task, tile, own.data());
      });
      if (shared_slices) {
        for (int z = 0; z < task.depth; z++) {
          shared_slice(task, z, threads, reinterpret_cast<uint32_t*>(shared_codes + code_bytes_));
        }
        passes_.finish();
      } else {
        parallel(threads, units(), [&](TaskQueue& queue) {
          ScratchLease own(participant_scratch, workspace_bytes_ + turned_bytes_);
          int64_t unit;
          while (queue.next(unit)) whole_slice(task, unit, own.data());
          passes_.finish();
        });
      }
    }
  }

 private:
  int64_t plane() const { return int64_t(prototype_.height) * prototype_.width; }
  size_t scan_workspace() const { return passes_.scan_workspace(prototype_, scan_tile_); }

  // What one thread does at a time after the scan: a slice of a volume, 16 rows of a 2-D image, or a line.
  int64_t units() const { return prototype_.scan_axis == 0 ? prototype_.depth : tiles(prototype_.height); }

  // --- Spacing ---

  // A row's spacing, or that of axes all alike.
  double spacing(int64_t row, int axis) const { return t_.spacing ? t_.spacing[3 * row + axis] : 1.0; }
  int64_t rows() const { return t_.spacing ? t_.spacing_rows : 1; }
  bool isotropic(int64_t row) const {
    for (int axis = 3 - t_.spatial_dims; axis < 2; axis++) {
      if (spacing(row, axis) != spacing(row, 2)) return false;
    }
    return true;
  }
  float weight(int64_t row, int axis) const { return float(spacing(row, axis) * spacing(row, axis)); }

  // Tables of costs: one of k^2 for all isotropic rows, then y's and x's of every row, unless all are
  // isotropic.
  static size_t table_entries(int n) { return 2 * size_t(n + kCostMargin) + 1; }
  size_t exact_entries() const { return table_entries(std::max(prototype_.height, prototype_.width)); }
  size_t row_entries() const { return table_entries(prototype_.height) + table_entries(prototype_.width); }
  size_t tables_size() const {
    size_t entries = exact_entries();
    for (int64_t row = 0; row < rows(); row++) {
      if (!isotropic(row)) entries = exact_entries() + size_t(rows()) * row_entries();
    }
    return (entries * sizeof(uint32_t) + 63) / 64 * 64;
  }
  void tabulate(uint32_t* tables) {
    tables_ = tables;
    const int height = prototype_.height, width = prototype_.width, longest = std::max(height, width);
    passes_.tabulate_cost(true, 1.0f, longest, tables + longest + kCostMargin);
    for (int64_t row = 0; row < rows(); row++) {
      if (isotropic(row)) continue;
      uint32_t* y = tables + exact_entries() + size_t(row) * row_entries();
      uint32_t* x = y + table_entries(height);
      passes_.tabulate_cost(false, weight(row, 1), height, y + height + kCostMargin);
      passes_.tabulate_cost(false, weight(row, 2), width, x + width + kCostMargin);
    }
  }

  ImageTask task_for(int64_t image, char* codes) const {
    ImageTask task = prototype_;
    const int64_t classes = t_.image.shape[1], sample = image / classes, class_index = image % classes;
    task.offset = sample * t_.image.stride[0] + class_index * t_.image.stride[1];
    task.class_index = class_index;
    task.codes = codes;
    task.out = t_.out + image * voxels_;
    task.extrema = t_.extrema ? t_.extrema + 2 * image : nullptr;
    const int64_t row = rows() == 1 ? 0 : sample;
    task.exact = isotropic(row);
    const int height = task.height, width = task.width;
    if (task.exact) {
      const double s = spacing(row, 2);
      task.scale = float(task.squared ? s * s : s);
      task.extrema_scale = float(s * s);
      task.scan_weight = 1.0f;
      task.x = task.y = {tables_ + std::max(height, width) + kCostMargin, 1.0f};
      return task;
    }
    const uint32_t* y = tables_ + exact_entries() + size_t(row) * row_entries();
    const uint32_t* x = y + table_entries(height);
    task.scale = task.extrema_scale = 1.0f;
    task.scan_weight = weight(row, task.scan_axis);
    task.y = {y + height + kCostMargin, 1.0f / weight(row, 1)};
    task.x = {x + width + kCostMargin, 1.0f / weight(row, 2)};
    return task;
  }

  // --- Work ---

  void scan(const ImageTask& task, int64_t tile, char* workspace) const {
    const int64_t first = tile * scan_tile_;
    passes_.scan_columns(task, first, std::min(scan_tile_, columns_ - first), workspace);
  }

  void whole_slice(const ImageTask& task, int64_t unit, char* workspace) const {
    const bool volume = task.scan_axis == 0;
    const int z = volume ? int(unit) : 0, y0 = volume ? 0 : int(unit) * kTile;
    const int y1 = volume ? task.height : std::min(task.height, y0 + kTile);
    const Box box = passes_.prepare_slice(task, z, y0, y1, workspace);
    if (box.y0 == box.y1) return;
    uint32_t* turned = volume ? reinterpret_cast<uint32_t*>(workspace + workspace_bytes_) : nullptr;
    if (volume) {
      for (int i = 0; i < tiles(box.x1 - box.x0); i++) passes_.do_columns(task, z, box, i, workspace, turned);
    }
    for (int i = 0; i < tiles(box.y1 - box.y0); i++) passes_.do_rows(task, z, box, i, workspace, turned);
  }

  void shared_slice(const ImageTask& task, int z, int threads, uint32_t* turned) const {
    Box box;
    {
      ScratchLease own(participant_scratch, workspace_bytes_);
      box = passes_.prepare_slice(task, z, 0, task.height, own.data());
    }
    if (box.y0 == box.y1) return;
    const auto share = [&](int count, auto pass) {
      parallel(threads, count, [&](TaskQueue& queue) {
        ScratchLease own(participant_scratch, workspace_bytes_);
        int64_t tile;
        while (queue.next(tile)) pass(task, z, box, int(tile), own.data(), turned);
        passes_.finish();
      });
    };
    share(tiles(box.x1 - box.x0), passes_.do_columns);
    share(tiles(box.y1 - box.y0), passes_.do_rows);
  }

  const Transform& t_;
  const Passes& passes_;
  ImageTask prototype_{};
  int64_t images_, voxels_, columns_, scan_tile_, scan_tiles_;
  size_t code_bytes_, workspace_bytes_, turned_bytes_;
  const uint32_t* tables_ = nullptr;
};

}  // namespace

void transform(const Transform& t) {
  for (const int64_t length : t.image.shape) {
    if (length == 0) return;
  }
  Batch(t).run();
}

const char* instruction_set() { return passes().name; }

}  // namespace dtk::cpu
