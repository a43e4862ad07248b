// The images of a batch on their way through the passes: what a thread does at a time, and how threads share
// the work. One source, a mask, becomes a map in memory; or two sources become maps slice by slice, which a
// consumer reads while they are in cache.
#pragma once
#include <algorithm>

#include "passes.h"
#include "pool.h"
#include "scratch.h"
#include "transform.h"

namespace dtk::cpu {

// For the instruction set of this machine.
const Passes& passes();

constexpr int tiles(int n) { return (n + kTile - 1) / kTile; }

// Reads rows [y0, y1) of slice z of an image from the maps of its sources, which begin at that row. Rows come
// in tiles: y0 is a multiple of kTile, and so is y1 but at the end.
class Consumer {
 public:
  virtual void consume(int64_t image, int z, int y0, int y1, const float* const* maps) const = 0;

 protected:
  ~Consumer() = default;
};

class Batch {
 public:
  // The source of `t` alone, transformed into t.out.
  explicit Batch(const Transform& t) : Batch(t, &t.image, 1, nullptr) {}
  // `count` sources of the shape of t.image, for a consumer; there is no t.out.
  Batch(const Transform& t, const Image* sources, int count, const Consumer* consumer);

  void run();

  static constexpr int kMostSources = 2;

 private:
  // One image of every source.
  struct Job {
    int64_t image;
    ImageTask task[kMostSources];
    float* maps[kMostSources];  // for a consumer: a unit of each
  };

  int64_t plane() const { return int64_t(prototype_.height) * prototype_.width; }
  size_t scan_workspace() const { return passes_.scan_workspace(prototype_, scan_tile_); }
  // What one thread does at a time after the scan: a slice of a volume, 16 rows of a 2-D image, or a line.
  int64_t units() const { return prototype_.scan_axis == 0 ? prototype_.depth : tiles(prototype_.height); }

  double spacing(int64_t row, int axis) const { return t_.spacing ? t_.spacing[3 * row + axis] : 1.0; }
  int64_t rows() const { return t_.spacing ? t_.spacing_rows : 1; }
  bool isotropic(int64_t row) const;
  float weight(int64_t row, int axis) const { return float(spacing(row, axis) * spacing(row, axis)); }
  size_t exact_entries() const;
  size_t row_entries() const;
  size_t tables_size() const;
  void tabulate(uint32_t* tables);

  Job job_for(int64_t image, char* codes) const;
  ImageTask task_for(int64_t image, const Image& source, char* codes) const;

  void scan(const Job& job, int64_t tile, char* workspace) const;
  void whole_unit(Job& job, int64_t unit, char* own) const;
  void whole_slice(const ImageTask& task, int z, int y0, int y1, char* workspace) const;
  void shared_slice(Job& job, int z, int threads, char* shared) const;

  const Transform& t_;
  const Image* sources_;
  const int count_;
  const Consumer* consumer_;
  const Passes& passes_;
  ImageTask prototype_{};
  int64_t images_, voxels_, columns_, scan_tile_, scan_tiles_;
  size_t code_bytes_;       // of all sources
  size_t workspace_bytes_;  // of the passes, for one thread
  size_t turned_bytes_;     // between y and x
  size_t map_bytes_;        // of one source's unit, for a consumer
  const uint32_t* tables_ = nullptr;
};

}  // namespace dtk::cpu
