// The Python module `_C`: pointers and integers in, nothing of Python's tensor libraries. Arguments are
// validated in Python (dtkernels/arguments.py); what is checked here is only what would corrupt memory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <string>

#include "cpu/envelope.h"
#include "cpu/interrupt.h"
#include "cpu/label.h"
#include "cpu/nearest.h"
#include "cpu/remap.h"
#include "cpu/transform.h"
#include "cpu/weigh.h"
#include "cuda/launch.h"

// The emulator's tests build this same file under another name.
#ifndef DTK_MODULE_NAME
#define DTK_MODULE_NAME _C
#endif

namespace py = pybind11;

namespace {

// Other Python threads run while the kernels do, and signals are answered: an exception of their handlers,
// such as KeyboardInterrupt, ends the work. Python handles signals on its main thread alone; elsewhere this
// asks in vain.
bool signal_raised() {
  py::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() != 0;
}

class Unlocked {
  py::gil_scoped_release release_;
  dtk::cpu::Watch watch_{signal_raised};
};

using Axes = std::array<int64_t, 5>;

dtk::Image make_image(uintptr_t data, int dtype, const Axes& shape, const Axes& stride, int rule,
                      double threshold) {
  dtk::Image image{};
  image.data = reinterpret_cast<const void*>(data);
  for (int axis = 0; axis < 5; ++axis) {
    image.shape[axis] = shape[axis];
    image.stride[axis] = stride[axis];
  }
  image.threshold = threshold;
  image.dtype = dtype;
  image.rule = rule;
  return image;
}

void cpu_transform(uintptr_t data, int dtype, const Axes& shape, const Axes& stride, int rule,
                   double threshold, int spatial_dims, uintptr_t spacing, int64_t spacing_rows,
                   bool is_signed, bool squared, bool closed, bool to_faces, uintptr_t out, uintptr_t extrema,
                   int threads) {
  dtk::cpu::Transform t{};
  t.image = make_image(data, dtype, shape, stride, rule, threshold);
  t.spatial_dims = spatial_dims;
  t.spacing = reinterpret_cast<const double*>(spacing);
  t.spacing_rows = spacing_rows;
  t.is_signed = is_signed;
  t.squared = squared;
  t.closed = closed;
  t.to_faces = to_faces;
  t.out = reinterpret_cast<float*>(out);
  t.extrema = reinterpret_cast<float*>(extrema);
  t.threads = threads;
  Unlocked unlocked;
  dtk::cpu::transform(t);
}

void cpu_nearest(uintptr_t data, int dtype, const Axes& shape, const Axes& stride, int rule, double threshold,
                 int spatial_dims, uintptr_t spacing, int64_t spacing_rows, uintptr_t distance,
                 uintptr_t index, int threads) {
  dtk::cpu::Nearest n{};
  n.image = make_image(data, dtype, shape, stride, rule, threshold);
  n.spatial_dims = spatial_dims;
  n.spacing = reinterpret_cast<const double*>(spacing);
  n.spacing_rows = spacing_rows;
  n.distance = reinterpret_cast<float*>(distance);
  n.index = reinterpret_cast<int64_t*>(index);
  n.threads = threads;
  Unlocked unlocked;
  dtk::cpu::nearest(n);
}

void cpu_label(uintptr_t data, int dtype, const Axes& shape, const Axes& stride, int rule, double threshold,
               int connectivity, uintptr_t labels, uintptr_t count, int threads) {
  dtk::cpu::Label l{};
  l.image = make_image(data, dtype, shape, stride, rule, threshold);
  l.connectivity = connectivity;
  l.labels = reinterpret_cast<int32_t*>(labels);
  l.count = reinterpret_cast<int32_t*>(count);
  l.threads = threads;
  Unlocked unlocked;
  dtk::cpu::label(l);
}

void cpu_envelope(uintptr_t f, bool wide, const Axes& shape, const Axes& stride, uintptr_t spacing,
                  int64_t spacing_rows, uintptr_t values, uintptr_t index, int threads) {
  dtk::cpu::Envelope e{};
  e.f = reinterpret_cast<const void*>(f);
  e.wide = wide;
  for (int axis = 0; axis < 5; ++axis) {
    e.shape[axis] = shape[axis];
    e.stride[axis] = stride[axis];
  }
  e.spacing = reinterpret_cast<const double*>(spacing);
  e.spacing_rows = spacing_rows;
  e.values = reinterpret_cast<void*>(values);
  e.index = reinterpret_cast<int64_t*>(index);
  e.threads = threads;
  Unlocked unlocked;
  dtk::cpu::envelope(e);
}

void cpu_scatter(uintptr_t grad, bool wide, uintptr_t index, int64_t images, int64_t voxels, uintptr_t sums,
                 int threads) {
  dtk::cpu::Scatter s{};
  s.grad = reinterpret_cast<const void*>(grad);
  s.wide = wide;
  s.index = reinterpret_cast<const int64_t*>(index);
  s.images = images;
  s.voxels = voxels;
  s.sums = reinterpret_cast<void*>(sums);
  s.threads = threads;
  Unlocked unlocked;
  dtk::cpu::scatter(s);
}

void cpu_remap(uintptr_t maps, uintptr_t data, int dtype, const Axes& shape, const Axes& stride, int rule,
               double threshold, int spatial_dims, uintptr_t spacing, int64_t spacing_rows, int inside,
               bool inner_zero, bool closed, const std::array<float, 32>& formula, uintptr_t extrema,
               uintptr_t labels, uintptr_t counts, int threads) {
  dtk::cpu::Remap r{};
  r.maps = reinterpret_cast<float*>(maps);
  r.image = make_image(data, dtype, shape, stride, rule, threshold);
  r.spatial_dims = spatial_dims;
  r.spacing = reinterpret_cast<const double*>(spacing);
  r.spacing_rows = spacing_rows;
  r.inside = inside;
  r.inner_zero = inner_zero;
  r.closed = closed;
  static_assert(sizeof(r.formula) == sizeof(formula), "the numbers of dtkernels/formula.py");
  std::memcpy(&r.formula, formula.data(), sizeof(formula));
  r.extrema = reinterpret_cast<const float*>(extrema);
  r.labels = reinterpret_cast<const int32_t*>(labels);
  r.counts = reinterpret_cast<const int32_t*>(counts);
  r.threads = threads;
  Unlocked unlocked;
  dtk::cpu::remap(r);
}

// The prediction is float32, and foreground where it is above the threshold.
void cpu_weigh(uintptr_t prediction, const Axes& shape, const Axes& prediction_stride, double threshold,
               uintptr_t target, int dtype, const Axes& target_stride, int rule, double target_threshold,
               int spatial_dims, uintptr_t spacing, int64_t spacing_rows, int measure, bool squared,
               bool shift, bool soft, uintptr_t sums, uintptr_t gradient, int threads) {
  dtk::cpu::Weigh w{};
  w.prediction = make_image(prediction, dtk::kFloat32, shape, prediction_stride, dtk::kAbove, threshold);
  w.target = make_image(target, dtype, shape, target_stride, rule, target_threshold);
  w.spatial_dims = spatial_dims;
  w.spacing = reinterpret_cast<const double*>(spacing);
  w.spacing_rows = spacing_rows;
  w.measure = measure;
  w.squared = squared;
  w.shift = shift;
  w.soft = soft;
  w.sums = reinterpret_cast<float*>(sums);
  w.gradient = reinterpret_cast<float*>(gradient);
  w.threads = threads;
  Unlocked unlocked;
  dtk::cpu::weigh(w);
}

void cpu_contour(uintptr_t data, int dtype, const Axes& shape, const Axes& stride, int rule, double threshold,
                 int spatial_dims, int connectivity, bool closed, uintptr_t out, int threads) {
  dtk::cpu::Contour c{};
  c.image = make_image(data, dtype, shape, stride, rule, threshold);
  c.spatial_dims = spatial_dims;
  c.connectivity = connectivity;
  c.closed = closed;
  c.out = reinterpret_cast<uint8_t*>(out);
  c.threads = threads;
  Unlocked unlocked;
  dtk::cpu::contour(c);
}

void cuda_launch(int kernel, const std::array<unsigned, 3>& grid, unsigned block, size_t shared,
                 const py::bytes& params, uintptr_t stream, int device) {
  char* bytes = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(params.ptr(), &bytes, &size) != 0) throw py::error_already_set();
  py::gil_scoped_release release;
  dtk::cuda::launch(kernel, grid.data(), block, shared, bytes, static_cast<size_t>(size), stream, device);
}

}  // namespace

PYBIND11_MODULE(DTK_MODULE_NAME, m) {
  m.doc() = "Compiled kernels of dtkernels; private, use the functions of the package.";
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const dtk::cpu::Interrupted&) {
      // The handler's exception is set already.
    }
  });
  m.attr("built_with_cuda") = dtk::cuda::built_with_cuda();
  m.def("cpu_instruction_set", &dtk::cpu::instruction_set);
  m.def("cpu_transform", &cpu_transform);
  m.def("cpu_nearest", &cpu_nearest);
  m.def("cpu_label", &cpu_label);
  m.def("cpu_envelope", &cpu_envelope);
  m.def("cpu_scatter", &cpu_scatter);
  m.def("cpu_remap", &cpu_remap);
  m.def("cpu_contour", &cpu_contour);
  m.def("cpu_weigh", &cpu_weigh);

  m.def("cuda_device_info", [] {
    const dtk::cuda::DeviceInfo info = dtk::cuda::device_info();
    py::dict result;
    result["count"] = info.count;
    result["driver"] = info.driver;
    result["runtime"] = info.runtime;
    result["error"] = info.error;
    result["error_name"] = info.error_name;
    result["error_string"] = info.error_string;
    return result;
  });
  m.def("cuda_device_properties", [](int device) {
    const dtk::cuda::DeviceProperties p = dtk::cuda::device_properties(device);
    return py::make_tuple(p.multiprocessors, p.shared_per_block_optin, p.major, p.minor);
  });
  m.def("cuda_kernels", [] {
    py::list result;
    for (const auto& entry : dtk::cuda::kernels()) {
      result.append(py::make_tuple(std::string(entry.name), entry.params_size));
    }
    return result;
  });
  m.def("cuda_launch", &cuda_launch);
}
