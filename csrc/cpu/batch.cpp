#include "batch.h"

namespace dtk::cpu {

namespace {

// --- Tuning ---

constexpr int64_t kVoxelsPerThread = 1 << 15;  // less is not worth waking a thread for
constexpr int64_t kWholeImage = 1 << 21;       // voxels; one thread per smaller image, if there are enough
constexpr size_t kScanTile = 512 << 10;        // bytes of codes that stay in L2 between the two scans
constexpr int64_t kWholeSlice = 1 << 18;       // pixels; a larger slice is shared by the threads

constexpr size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Two blocks per thread, since a caller's scratch outlives the parallel sections in which it takes part.
thread_local Scratch caller_scratch, participant_scratch;

}  // namespace

Batch::Batch(const Transform& t, const Image* sources, int count, const Consumer* consumer)
    : t_(t), sources_(sources), count_(count), consumer_(consumer), passes_(passes()) {
  const int64_t* shape = t.image.shape;
  images_ = shape[0] * shape[1];
  ImageTask& task = prototype_;
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
  task.to_faces = t.to_faces;
  task.wide_codes = shape[2 + task.scan_axis] > 128;
  task.streaming = !consumer && images_ * voxels_ * int64_t(sizeof(float)) > kStreamingBytes;
  columns_ = task.scan_axis == 0 ? int64_t(task.height) * task.width : task.scan_axis == 1 ? task.width : 1;
  const size_t line_bytes = size_t(shape[2 + task.scan_axis]) << task.wide_codes;
  // Columns of a scan tile: whole pages of a row where that fits in L2, and work for every thread.
  const int64_t fits = int64_t(kScanTile / line_bytes), share = columns_ / (2 * std::max(1, t.threads)) + 1;
  scan_tile_ = std::min<int64_t>(4096, std::min(fits, std::max<int64_t>(256, share)));
  scan_tile_ = std::min(columns_, std::max<int64_t>(64, scan_tile_ / 64 * 64));
  scan_tiles_ = (columns_ + scan_tile_ - 1) / scan_tile_;
  code_bytes_ = whole_lines((size_t(voxels_) << task.wide_codes) + kCodePadding);
  workspace_bytes_ = whole_lines(std::max(passes_.slice_workspace(task), scan_workspace()));
  turned_bytes_ = task.scan_axis == 0 ? passes_.turned_size(task) : 0;
  const int64_t unit = task.scan_axis == 0 ? plane() : std::min(kTile, task.height) * int64_t(task.width);
  map_bytes_ = consumer ? whole_lines(size_t(unit) * sizeof(float)) : 0;
}

void Batch::run() {
  if (!consumer_) advise_huge_pages(t_.out, size_t(images_ * voxels_) * sizeof(float));
  const int threads =
      int(std::max<int64_t>(1, std::min<int64_t>(t_.threads, images_ * voxels_ / kVoxelsPerThread)));
  const bool whole_images =
      threads == 1 || (images_ >= 2 * threads && voxels_ <= kWholeImage) || voxels_ < 2 * kVoxelsPerThread;
  const bool whole_slices = threads == 1 || (prototype_.depth >= threads && plane() <= kWholeSlice);
  const bool shared_slices = !whole_images && !whole_slices && prototype_.scan_axis == 0;

  const size_t codes = count_ * code_bytes_, unit = workspace_bytes_ + turned_bytes_ + count_ * map_bytes_;
  const size_t table_bytes = tables_size();
  ScratchLease shared(caller_scratch, table_bytes + (whole_images ? 0 : codes) +
                                          (shared_slices ? unit - workspace_bytes_ : 0));
  tabulate(reinterpret_cast<uint32_t*>(shared.data()));
  char* shared_codes = shared.data() + table_bytes;

  if (whole_images) {
    parallel(threads, images_, [&](TaskQueue& queue) {
      ScratchLease own(participant_scratch, codes + unit);
      char* workspace = own.data() + codes;
      int64_t image;
      while (queue.next(image)) {
        Job job = job_for(image, own.data());
        for (int64_t tile = 0; tile < count_ * scan_tiles_; tile++) scan(job, tile, workspace);
        for (int64_t i = 0; i < units(); i++) whole_unit(job, i, workspace);
      }
      passes_.finish();
    });
    return;
  }
  for (int64_t image = 0; image < images_; image++) {
    const Job job = job_for(image, shared_codes);
    parallel(threads, count_ * scan_tiles_, [&](TaskQueue& queue) {
      ScratchLease own(participant_scratch, scan_workspace());
      int64_t tile;
      while (queue.next(tile)) scan(job, tile, own.data());
    });
    if (shared_slices) {
      Job slices = job;
      for (int z = 0; z < prototype_.depth; z++) shared_slice(slices, z, threads, shared_codes + codes);
      passes_.finish();
    } else {
      parallel(threads, units(), [&](TaskQueue& queue) {
        ScratchLease own(participant_scratch, unit);
        Job mine = job;
        int64_t i;
        while (queue.next(i)) whole_unit(mine, i, own.data());
        passes_.finish();
      });
    }
  }
}

// --- Spacing ---

bool Batch::isotropic(int64_t row) const {
  for (int axis = 3 - t_.spatial_dims; axis < 2; axis++) {
    if (spacing(row, axis) != spacing(row, 2)) return false;
  }
  return true;
}

// Tables of costs: one of k^2 for all isotropic rows, then y's and x's of every row, unless all are
// isotropic.
static size_t table_entries(int n) { return 2 * size_t(n + kCostMargin) + 1; }
size_t Batch::exact_entries() const { return table_entries(std::max(prototype_.height, prototype_.width)); }
size_t Batch::row_entries() const {
  return table_entries(prototype_.height) + table_entries(prototype_.width);
}

size_t Batch::tables_size() const {
  size_t entries = exact_entries();
  for (int64_t row = 0; row < rows(); row++) {
    if (!isotropic(row)) entries = exact_entries() + size_t(rows()) * row_entries();
  }
  return whole_lines(entries * sizeof(uint32_t));
}

void Batch::tabulate(uint32_t* tables) {
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

// --- Images ---

Batch::Job Batch::job_for(int64_t image, char* codes) const {
  Job job{};
  job.image = image;
  for (int s = 0; s < count_; s++) job.task[s] = task_for(image, sources_[s], codes + s * code_bytes_);
  return job;
}

ImageTask Batch::task_for(int64_t image, const Image& source, char* codes) const {
  ImageTask task = prototype_;
  const int64_t classes = t_.image.shape[1], sample = image / classes, class_index = image % classes;
  task.image = source;
  task.offset = sample * source.stride[0] + class_index * source.stride[1];
  task.class_index = class_index;
  task.codes = codes;
  task.out = consumer_ ? nullptr : t_.out + image * voxels_;
  task.extrema = t_.extrema ? t_.extrema + 2 * image : nullptr;
  const int64_t row = rows() == 1 ? 0 : sample;
  task.exact = isotropic(row);
  for (int axis = 0; axis < 3; axis++) task.faces.half[axis] = 0.5f * float(spacing(row, axis));
  task.faces.z_tag = spacing(row, 0) <= spacing(row, 1);
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

// Large images have many of these pieces to a task of the pool; hence the checkpoints.
void Batch::scan(const Job& job, int64_t tile, char* workspace) const {
  checkpoint();
  const int64_t first = tile % scan_tiles_ * scan_tile_;
  passes_.scan_columns(job.task[tile / scan_tiles_], first, std::min(scan_tile_, columns_ - first),
                       workspace);
}

// `own` holds the workspace, what lies between y and x, and for a consumer the unit's maps.
void Batch::whole_unit(Job& job, int64_t unit, char* own) const {
  const bool volume = prototype_.scan_axis == 0;
  const int z = volume ? int(unit) : 0, y0 = volume ? 0 : int(unit) * kTile;
  const int y1 = volume ? prototype_.height : std::min(prototype_.height, y0 + kTile);
  for (int s = 0; s < count_; s++) {
    ImageTask& task = job.task[s];
    if (consumer_) {
      task.out = job.maps[s] =
          reinterpret_cast<float*>(own + workspace_bytes_ + turned_bytes_ + s * map_bytes_);
      task.out_begin = (int64_t(z) * task.height + y0) * task.width;
    }
    whole_slice(task, z, y0, y1, own);
  }
  if (consumer_) consumer_->consume(job.image, z, y0, y1, job.maps);
}

void Batch::whole_slice(const ImageTask& task, int z, int y0, int y1, char* workspace) const {
  checkpoint();
  const Box box = passes_.prepare_slice(task, z, y0, y1, workspace);
  if (box.y0 == box.y1) return;
  const bool volume = task.scan_axis == 0;
  uint32_t* turned = volume ? reinterpret_cast<uint32_t*>(workspace + workspace_bytes_) : nullptr;
  if (volume) {
    for (int i = 0; i < tiles(box.x1 - box.x0); i++) passes_.do_columns(task, z, box, i, workspace, turned);
  }
  for (int i = 0; i < tiles(box.y1 - box.y0); i++) passes_.do_rows(task, z, box, i, workspace, turned);
}

// `shared` holds what lies between y and x, and for a consumer the slice's maps.
void Batch::shared_slice(Job& job, int z, int threads, char* shared) const {
  uint32_t* turned = reinterpret_cast<uint32_t*>(shared);
  for (int s = 0; s < count_; s++) {
    ImageTask& task = job.task[s];
    if (consumer_) {
      task.out = job.maps[s] = reinterpret_cast<float*>(shared + turned_bytes_ + s * map_bytes_);
      task.out_begin = z * plane();
    }
    Box box;
    {
      ScratchLease own(participant_scratch, workspace_bytes_);
      box = passes_.prepare_slice(task, z, 0, task.height, own.data());
    }
    if (box.y0 == box.y1) continue;
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
  if (!consumer_) return;
  const int height = prototype_.height, width = prototype_.width;
  parallel(threads, tiles(height), [&](TaskQueue& queue) {
    int64_t tile;
    while (queue.next(tile)) {
      const int y0 = int(tile) * kTile;
      const float* maps[kMostSources];
      for (int s = 0; s < count_; s++) maps[s] = job.maps[s] + int64_t(y0) * width;
      consumer_->consume(job.image, z, y0, std::min(height, y0 + kTile), maps);
    }
    passes_.finish();
  });
}

}  // namespace dtk::cpu
