// Per image: the mask as bits where a pass asks for it, the largest distance of every component where the
// formula does, and then the values, rows in parallel.
#include "remap.h"

#include <algorithm>
#include <cmath>

#include "pool.h"
#include "row_passes.h"
#include "scratch.h"

namespace dtk::cpu {

namespace {

constexpr int64_t kVoxelsPerThread = 1 << 16;  // less is not worth waking a thread for
constexpr int64_t kWholeImage = 1 << 21;       // voxels; one thread per smaller image, if there are enough

thread_local Scratch mask_scratch, component_scratch, line_scratch;

int64_t slabs_of(int64_t rows, int threads) {
  return threads == 1 ? 1 : std::min<int64_t>(rows, 4 * threads);
}

template <class Body>
void share(int threads, int64_t slabs, int64_t rows, size_t workspace, const Body& body) {
  parallel(threads, slabs, [&](TaskQueue& queue) {
    ScratchLease own(line_scratch, workspace);
    int64_t slab;
    while (queue.next(slab)) body(rows * slab / slabs, rows * (slab + 1) / slabs, own.data());
  });
}

MaskBits bits_of(const Image& image, int64_t index, bool closed, int spatial_dims) {
  MaskBits bits{};
  const int64_t classes = image.shape[1];
  bits.image = image;
  bits.offset = index / classes * image.stride[0] + index % classes * image.stride[1];
  bits.class_index = index % classes;
  bits.depth = image.shape[2];
  bits.height = image.shape[3];
  bits.width = image.shape[4];
  for (int axis = 0; axis < 3; axis++) bits.closed[axis] = closed && axis >= 3 - spatial_dims;
  return bits;
}

size_t mask_bytes(const Image& image) {
  return size_t(image.shape[2] * image.shape[3] * ((image.shape[4] + 63) / 64)) * 8;
}

void read_mask(const MaskBits& bits, int threads) {
  const int64_t rows = bits.depth * bits.height;
  share(threads, slabs_of(rows, threads), rows, size_t(bits.width),
        [&](int64_t begin, int64_t end, char* own) {
          row_passes().remap.read_rows(bits, begin, end, reinterpret_cast<uint8_t*>(own));
        });
}

// Calls body(image, threads) for every image of a batch, several at a time where they are small.
template <class Body>
void each_image(const Image& image, int most_threads, const Body& body) {
  const int64_t voxels = image.shape[2] * image.shape[3] * image.shape[4];
  const int64_t images = image.shape[0] * image.shape[1];
  const int threads =
      int(std::max<int64_t>(1, std::min<int64_t>(most_threads, images * voxels / kVoxelsPerThread)));
  if (threads == 1 || (images >= 2 * threads && voxels <= kWholeImage) || voxels < 2 * kVoxelsPerThread) {
    parallel(threads, images, [&](TaskQueue& queue) {
      int64_t index;
      while (queue.next(index)) body(index, 1);
    });
  } else {
    for (int64_t index = 0; index < images; index++) body(index, threads);
  }
}

bool has_voxels(const Image& image) {
  return std::all_of(image.shape, image.shape + 5, [](int64_t length) { return length > 0; });
}

class Batch {
 public:
  explicit Batch(const Remap& r)
      : r_(r),
        passes_(row_passes().remap),
        rows_(r.image.shape[2] * r.image.shape[3]),
        width_(r.image.shape[4]) {}

  void run() const {
    each_image(r_.image, r_.threads, [this](int64_t image, int threads) { remap_image(image, threads); });
  }

 private:
  void remap_image(int64_t image, int threads) const {
    const int64_t sample = image / r_.image.shape[1], slabs = slabs_of(rows_, threads);
    RemapTask task{};
    task.mask = bits_of(r_.image, image, r_.closed, r_.spatial_dims);
    task.map = r_.maps + image * rows_ * width_;
    task.inside = r_.inside;
    task.inner_zero = r_.inner_zero;
    task.formula = r_.formula;
    const ImageScale image_scale = scale(image, sample);
    task.lines = image_formula(r_.formula, image_scale);

    const bool asks_mask = r_.inner_zero || r_.inside == kByMask || r_.labels;
    ScratchLease bits(mask_scratch, asks_mask ? mask_bytes(r_.image) : 0);
    if (asks_mask) {
      task.mask.words = reinterpret_cast<uint64_t*>(bits.data());
      read_mask(task.mask, threads);
    }
    const int64_t components = r_.labels ? r_.counts[image] : 0;
    ScratchLease table(component_scratch, size_t(components) * (sizeof(float) + sizeof(FormulaLine)));
    if (r_.labels) {
      FormulaLine* lines = reinterpret_cast<FormulaLine*>(table.data());
      task.labels = r_.labels + image * rows_ * width_;
      task.components = lines;
      task.maxima = reinterpret_cast<float*>(lines + components);
      std::fill(task.maxima, task.maxima + components, 0.0f);
      share(threads, slabs, rows_, 0,
            [&](int64_t begin, int64_t end, char*) { passes_.take_maxima(task, begin, end); });
      for (int64_t i = 0; i < components; i++) {
        lines[i] = component_line(r_.formula, task.maxima[i], image_scale);
      }
    }
    share(threads, slabs, rows_, size_t(width_) / 8 + 8, [&](int64_t begin, int64_t end, char* own) {
      passes_.write_rows(task, begin, end, reinterpret_cast<uint64_t*>(own));
    });
  }

  ImageScale scale(int64_t image, int64_t sample) const {
    const double* spacing = r_.spacing ? r_.spacing + (r_.spacing_rows == 1 ? 0 : 3 * sample) : nullptr;
    double squares = 0;
    for (int axis = 3 - r_.spatial_dims; axis < 3; axis++) {
      const double extent = double(r_.image.shape[2 + axis]) * (spacing ? spacing[axis] : 1.0);
      squares += extent * extent;
    }
    const float* top = r_.extrema ? r_.extrema + 2 * image : nullptr;
    return {top ? std::sqrt(top[0]) : 0.0f, top ? std::sqrt(top[1]) : 0.0f,
            spacing ? float(spacing[2]) : 1.0f, std::sqrt(float(squares))};
  }

  const Remap& r_;
  const RemapPasses& passes_;
  const int64_t rows_, width_;
};

}  // namespace

void remap(const Remap& r) {
  if (has_voxels(r.image)) Batch(r).run();
}

void contour(const Contour& c) {
  if (!has_voxels(c.image)) return;
  const int64_t rows = c.image.shape[2] * c.image.shape[3], width = c.image.shape[4];
  each_image(c.image, c.threads, [&](int64_t image, int threads) {
    MaskBits bits = bits_of(c.image, image, c.closed, c.spatial_dims);
    ScratchLease words(mask_scratch, mask_bytes(c.image));
    bits.words = reinterpret_cast<uint64_t*>(words.data());
    read_mask(bits, threads);
    share(threads, slabs_of(rows, threads), rows, size_t(width) / 8 + 8,
          [&](int64_t begin, int64_t end, char* own) {
            row_passes().remap.write_contour(bits, c.connectivity, begin, end,
                                             reinterpret_cast<uint64_t*>(own), c.out + image * rows * width);
          });
  });
}

}  // namespace dtk::cpu
