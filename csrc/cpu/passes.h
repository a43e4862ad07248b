// What transform.cpp, compiled for any CPU, hands to the passes, compiled once per instruction set: plain
// structs and a table of functions, nothing inline, so that no code crosses the border.
#pragma once
#include <cstddef>

#include "../dtk/image.h"

namespace dtk::cpu {

// One axis of the line solver: cost[k] is w k^2 as the bits of a uint32 or a float, valid for
// |k| <= length + kCostMargin.
struct AxisCost {
  const uint32_t* cost;
  float inverse_weight;
};
constexpr int kCostMargin = 16;

// What a map gets whose zero level is at the faces between voxels (faces.h).
struct FaceTask {
  float half[3];   // of the spacings along (z, y, x)
  uint32_t z_tag;  // 1 where z wins a tie against y, else 0
};

// One image of the batch, with every decision taken.
struct ImageTask {
  Image image;
  int64_t offset;  // of its first element from image.data
  int64_t class_index;
  int depth, height, width;
  int scan_axis;  // the axis done in closed form: 0 is z, 1 is y, 2 is x; axes before it have length 1
  bool is_signed, squared, closed;
  bool to_faces;    // signed distances to faces
  bool exact;       // integer arithmetic (ExactSquares), else float32 (RoundedSquares)
  bool wide_codes;  // the scan's codes take two bytes
  bool streaming;   // the output is too large to stay in cache
  float scan_weight;
  AxisCost y, x;
  float scale;  // of the final distance, or squared distance
  FaceTask faces;
  void* codes;  // scratch: one code per voxel and kCodePadding bytes
  float* out;
  int64_t out_begin;    // the voxel that `out` begins with
  float* extrema;       // null, or the two of this image
  float extrema_scale;  // of the squared distance
};
constexpr size_t kCodePadding = 64;
constexpr int64_t kStreamingBytes = 2 << 20;  // larger outputs bypass the caches

// do_columns and do_rows take this many columns or rows at a time.
constexpr int kTile = 16;

// The part of a slice that is not all background.
struct Box {
  int y0, y1, x0, x1;  // half-open
};

struct Passes {
  const char* name;
  // Writes cost[-(n + kCostMargin)] .. cost[n + kCostMargin].
  void (*tabulate_cost)(bool exact, float weight, int n, uint32_t* cost);

  // First axis, for some columns of the plane of the other axes.
  size_t (*scan_workspace)(const ImageTask&, int64_t columns);
  void (*scan_columns)(const ImageTask&, int64_t first, int64_t columns, char* workspace);

  // Then slice by slice; `turned` (turned_size() bytes) holds the slice between y and x.
  size_t (*slice_workspace)(const ImageTask&);
  size_t (*turned_size)(const ImageTask&);
  Box (*prepare_slice)(const ImageTask&, int z, int y0, int y1, char* workspace);
  void (*do_columns)(const ImageTask&, int z, const Box&, int tile, char* workspace, uint32_t* turned);
  void (*do_rows)(const ImageTask&, int z, const Box&, int tile, char* workspace, uint32_t* turned_or_null);
  // Makes streaming stores visible to other threads.
  void (*finish)();
};

#if defined(__x86_64__)
extern const Passes kAvx512Passes, kAvx2Passes;
#endif
extern const Passes kBaselinePasses;

}  // namespace dtk::cpu
