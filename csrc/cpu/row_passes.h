// What the operators that work row by row (nearest.cpp, label.cpp, envelope.cpp; compiled for any CPU) hand
// to their passes, compiled once per instruction set: plain structs and tables of functions.
#pragma once
#include "../dtk/formula.h"
#include "../dtk/measure.h"
#include "passes.h"

namespace dtk::cpu {

// --- nearest ---

// How an axis finds its minimisers.
struct ArgAxis {
  AxisCost cost;
  int bits;  // packed: the low bits of a value that hold the position; -1: positions are kept apart
};

// One image of the batch, with every decision taken.
struct NearestTask {
  Image image;
  int64_t offset;  // of its first element from image.data
  int64_t class_index;
  int depth, height, width;
  bool exact;                // integer squares, else float32
  bool streaming;            // the output is too large to stay in cache
  float x_weight, y_weight;  // of the squares along x and y
  ArgAxis y, z;
  float scale;  // of the distance
  // Scratch between the passes over slices and the z pass. Per y and tile of 16 columns, depth rows of 16:
  uint32_t* places;  // of the nearest voxel within the slice, y above 16 bits of x
  uint8_t* busy;     // one per row: 0 where all 16 are background and the row is not stored
  float* distance;   // null: somebody else computes it
  int64_t* index;
};

struct NearestPasses {
  size_t (*workspace)(int depth, int height, int width);
  // x axis: for rows [y0, y1) of slice z, the x of the nearest background voxel of the row. `near_x` has
  // near_x_size(height, width) bytes.
  size_t (*near_x_size)(int height, int width);
  void (*scan_rows)(const NearestTask&, int z, int y0, int y1, char* workspace, uint16_t* near_x);
  // y axis, for 16 columns.
  void (*do_columns)(const NearestTask&, int z, int tile, char* workspace, const uint16_t* near_x);
  // z axis, for 16 columns of the volume.
  void (*do_depth)(const NearestTask&, int y, int tile, char* workspace);
  // Makes streaming stores visible to other threads.
  void (*finish)();
};

// --- label ---

// One image of the batch and its scratch.
struct LabelTask {
  Image image;
  int64_t offset;  // of its first element from image.data
  int64_t depth, height, width;
  int connectivity;
  uint64_t* words;   // the mask, words_per_row for each row
  int64_t* first;    // per row the number of its first run, and the number of all runs at the end
  uint32_t* parent;  // per run: a run of its component that is not above it; in the end, its label
  int32_t* labels;
};

struct LabelPasses {
  // Packs rows [begin, end), and writes the number of runs of each to first[row + 1]. `buffer` holds a row.
  void (*read_rows)(const LabelTask&, int64_t begin, int64_t end, uint8_t* buffer);
  // Unites the runs of rows [begin, end) with those of earlier rows that lie in [low, high).
  void (*unite_rows)(const LabelTask&, int64_t begin, int64_t end, int64_t low, int64_t high);
  void (*write_rows)(const LabelTask&, int64_t begin, int64_t end);
};

// --- envelope ---

// One image of the batch and its tables, float or, where `wide`, double.
struct EnvelopeTask {
  const void* f;  // its first element
  bool wide;
  int64_t stride[3];  // of f, elements; axes are (z, y, x)
  int length[3];
  const void* cost[3];  // per axis: cost[k] = w k^2 for |k| <= length + kCostMargin
  double weight[3];     // w
  void* values;         // contiguous
  int64_t* index;       // contiguous, or null
};

struct EnvelopePasses {
  void (*tabulate)(bool wide, double weight, int n, void* cost);
  size_t (*workspace)(bool wide, int n);  // n: the longest axis
  // Up to 64 bytes of neighbouring lines at a time: `count` rows from number `first` on; and columns along
  // axis 0 or 1, from the one on that holds element `first`.
  void (*do_rows)(const EnvelopeTask&, int64_t first, int count, char* workspace);
  void (*do_columns)(const EnvelopeTask&, int axis, int64_t first, int count, char* workspace);
};

// --- remap ---

// A mask of one image, one bit a voxel.
struct MaskBits {
  Image image;
  int64_t offset;  // of its first element from image.data
  int64_t class_index;
  int64_t depth, height, width;
  bool closed[3];   // whether beyond the image along (z, y, x) is background
  uint64_t* words;  // words_per_row for each row; null where nobody asks for the mask
};

// One image of the batch and what its formula has become.
struct RemapTask {
  MaskBits mask;
  float* map;
  int32_t inside;  // Inside
  bool inner_zero;
  Formula formula;
  ImageFormula lines;
  const int32_t* labels;          // null where all components are alike
  float* maxima;                  // per component, the largest finite distance
  const FormulaLine* components;  // per component, in place of lines.inside
};

struct RemapPasses {
  // Packs rows [begin, end) of the mask; `buffer` holds a row.
  void (*read_rows)(const MaskBits&, int64_t begin, int64_t end, uint8_t* buffer);
  // Zeros on the contour, ones elsewhere; `bits` holds the words of a row.
  void (*write_contour)(const MaskBits&, int connectivity, int64_t begin, int64_t end, uint64_t* bits,
                        uint8_t* out);
  void (*take_maxima)(const RemapTask&, int64_t begin, int64_t end);
  void (*write_rows)(const RemapTask&, int64_t begin, int64_t end, uint64_t* bits);
};

// --- weigh ---

// A few rows of one image, contiguous but for what lies between images.
struct WeighTask {
  int32_t measure;  // Measure
  bool shift, soft;
  bool streaming;  // the gradient is too large to stay in cache
  int rows, width;
  const float* p;
  const void* target;  // where soft: element `target_begin` is the first row's first
  int64_t target_begin;
  int32_t target_dtype;        // DType
  const float* of_target;      // signed distances, or signs times squared ones
  const float* of_prediction;  // the same, where the measure asks for it
  float* gradient;
};

struct RowPasses {
  NearestPasses nearest;
  LabelPasses label;
  EnvelopePasses envelope;
  RemapPasses remap;
  double (*weigh_rows)(const WeighTask&);  // the sum of what the voxels cost
};

#if defined(__x86_64__)
extern const RowPasses kAvx512RowPasses, kAvx2RowPasses;
#endif
extern const RowPasses kBaselineRowPasses;

// For the instruction set that the distance transform has chosen.
const RowPasses& row_passes();

}  // namespace dtk::cpu
