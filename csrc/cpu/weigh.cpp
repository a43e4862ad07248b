#include "weigh.h"

#include <vector>

#include "batch.h"
#include "row_passes.h"

namespace dtk::cpu {

namespace {

// Sums are taken tile by tile of kTile rows and then in the order of the tiles, so that they do not depend on
// who computed which.
class Weigher final : public Consumer {
 public:
  explicit Weigher(const Weigh& w) : w_(w), weigh_rows_(row_passes().weigh_rows) {
    const int64_t* shape = w.prediction.shape;
    images_ = shape[0] * shape[1];
    depth_ = shape[2];
    height_ = shape[3];
    width_ = shape[4];
    tiles_ = (height_ + kTile - 1) / kTile;
    partial_.resize(size_t(images_ * depth_ * tiles_));
    streaming_ = images_ * depth_ * height_ * width_ * int64_t(sizeof(float)) > kStreamingBytes;
  }

  void consume(int64_t image, int z, int y0, int y1, const float* const* maps) const override {
    const int64_t classes = w_.prediction.shape[1], sample = image / classes, class_index = image % classes;
    const auto start = [&](const Image& x) {
      return sample * x.stride[0] + class_index * x.stride[1] + (z * height_ + y0) * width_;
    };
    WeighTask task{};
    task.measure = w_.measure;
    task.shift = w_.shift;
    task.soft = w_.soft;
    task.streaming = streaming_;
    task.target_dtype = w_.target.dtype;
    task.target = w_.target.data;
    task.width = int(width_);
    for (int y = y0; y < y1; y += kTile) {
      const int64_t done = (y - y0) * width_;
      task.rows = std::min(kTile, y1 - y);
      task.p = static_cast<const float*>(w_.prediction.data) + start(w_.prediction) + done;
      task.target_begin = start(w_.target) + done;
      task.of_target = maps[0] + done;
      task.of_prediction = w_.measure == kTwoSided || w_.measure == kInside ? maps[1] + done : nullptr;
      task.gradient = w_.gradient + ((image * depth_ + z) * height_ + y) * width_;
      partial_[size_t((image * depth_ + z) * tiles_ + y / kTile)] = weigh_rows_(task);
    }
  }

  void advise() const {
    advise_huge_pages(w_.gradient, size_t(images_ * depth_ * height_ * width_) * sizeof(float));
  }

  void add_up() const {
    for (int64_t image = 0; image < images_; image++) {
      double sum = 0;
      for (int64_t i = 0; i < depth_ * tiles_; i++) sum += partial_[size_t(image * depth_ * tiles_ + i)];
      w_.sums[image] = float(sum);
    }
  }

 private:
  const Weigh& w_;
  double (*weigh_rows_)(const WeighTask&);
  int64_t images_, depth_, height_, width_, tiles_;
  mutable std::vector<double> partial_;  // every tile has its own
  bool streaming_;
};

}  // namespace

void weigh(const Weigh& w) {
  for (const int64_t length : w.prediction.shape) {
    if (length == 0) return;
  }
  Transform t{};
  t.image = w.target;
  t.spacing = w.spacing;
  t.spacing_rows = w.spacing_rows;
  t.is_signed = true;
  t.squared = w.squared;
  t.spatial_dims = w.spatial_dims;
  t.threads = w.threads;
  const Image sources[] = {w.target, w.prediction};
  const Weigher weigher(w);
  weigher.advise();
  Batch(t, sources, w.measure == kTwoSided || w.measure == kInside ? 2 : 1, &weigher).run();
  weigher.add_up();
}

}  // namespace dtk::cpu
