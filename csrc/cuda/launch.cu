// Kernels, then the launcher. To add a kernel: include its header and add a line to kTable.
#include <cstring>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "../dtk/label.cuh"
#include "../dtk/lines.cuh"
#include "../dtk/nearest.cuh"
#include "../dtk/packed.cuh"
#include "../dtk/parabolas.cuh"
#include "../dtk/receivers.cuh"
#include "../dtk/remap.cuh"
#include "../dtk/scan.cuh"
#include "../dtk/slice.cuh"
#include "launch.h"

namespace dtk::cuda {

namespace {

struct Kernel {
  const char* name;
  size_t params_size;
  cudaError_t (*launch)(const cudaLaunchConfig_t& config, const void* params);
  cudaError_t (*allow_shared)(int bytes);
};

template <typename Params, void (*kKernel)(Params)>
struct Erased {
  static cudaError_t launch(const cudaLaunchConfig_t& config, const void* params) {
    Params copy;  // the bytes come unaligned
    std::memcpy(&copy, params, sizeof copy);
    return cudaLaunchKernelEx(&config, kKernel, copy);
  }
  static cudaError_t allow_shared(int bytes) {
    return cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  }
};

#define DTK_KERNEL(Params, ...)                                        \
  Kernel {                                                             \
    #__VA_ARGS__, sizeof(Params), Erased<Params, __VA_ARGS__>::launch, \
        Erased<Params, __VA_ARGS__>::allow_shared                      \
  }

const Kernel kTable[] = {
    DTK_KERNEL(Scan, dtk::scan<uint8_t>),
    DTK_KERNEL(Scan, dtk::scan<uint16_t>),
    DTK_KERNEL(Scan, dtk::scan_long<uint16_t>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, false, uint8_t, dtk::Divide, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, false, uint16_t, dtk::Divide, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, true, uint8_t, dtk::Divide, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, true, uint16_t, dtk::Divide, false>),
    DTK_KERNEL(Lines, dtk::lines<float, false, uint8_t, dtk::Divide, false>),
    DTK_KERNEL(Lines, dtk::lines<float, false, uint16_t, dtk::Divide, false>),
    DTK_KERNEL(Lines, dtk::lines<float, true, uint8_t, dtk::Divide, false>),
    DTK_KERNEL(Lines, dtk::lines<float, true, uint16_t, dtk::Divide, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, false, uint16_t, dtk::Strips, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, true, uint16_t, dtk::Strips, false>),
    DTK_KERNEL(Lines, dtk::lines<float, false, uint16_t, dtk::Strips, false>),
    DTK_KERNEL(Lines, dtk::lines<float, true, uint16_t, dtk::Strips, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, false, uint16_t, dtk::Divide, true>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, true, uint16_t, dtk::Divide, true>),
    DTK_KERNEL(Lines, dtk::lines<float, false, uint16_t, dtk::Divide, true>),
    DTK_KERNEL(Lines, dtk::lines<float, true, uint16_t, dtk::Divide, true>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, false, uint16_t, dtk::Envelope, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, true, uint16_t, dtk::Envelope, false>),
    DTK_KERNEL(Lines, dtk::lines<float, false, uint16_t, dtk::Envelope, false>),
    DTK_KERNEL(Lines, dtk::lines<float, true, uint16_t, dtk::Envelope, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, false, uint16_t, dtk::Window, false>),
    DTK_KERNEL(Lines, dtk::lines<int32_t, true, uint16_t, dtk::Window, false>),
    DTK_KERNEL(Lines, dtk::lines<float, false, uint16_t, dtk::Window, false>),
    DTK_KERNEL(Lines, dtk::lines<float, true, uint16_t, dtk::Window, false>),
    DTK_KERNEL(Slices, dtk::slices<int32_t, false, dtk::Strips>),
    DTK_KERNEL(Slices, dtk::slices<int32_t, true, dtk::Strips>),
    DTK_KERNEL(Slices, dtk::slices<float, false, dtk::Strips>),
    DTK_KERNEL(Slices, dtk::slices<float, true, dtk::Strips>),
    DTK_KERNEL(Slices, dtk::slices<int32_t, false, dtk::Strips, true>),
    DTK_KERNEL(Slices, dtk::slices<int32_t, true, dtk::Strips, true>),
    DTK_KERNEL(PackedSlices, dtk::packed_slices<uint8_t, false, 16>),
    DTK_KERNEL(PackedSlices, dtk::packed_slices<uint8_t, true, 16>),
    DTK_KERNEL(PackedSlices, dtk::packed_slices<uint8_t, false, 8>),
    DTK_KERNEL(PackedSlices, dtk::packed_slices<uint8_t, true, 8>),
    DTK_KERNEL(PackedSlices, dtk::packed_slices<uint16_t, false, 8>),
    DTK_KERNEL(PackedSlices, dtk::packed_slices<uint16_t, true, 8>),
    DTK_KERNEL(Weighed<Lines>,
               dtk::lines<int32_t, true, uint16_t, dtk::Strips, false, dtk::Weighed<dtk::Lines>>),
    DTK_KERNEL(Weighed<Lines>,
               dtk::lines<float, true, uint16_t, dtk::Strips, false, dtk::Weighed<dtk::Lines>>),
    DTK_KERNEL(Weighed<Lines>,
               dtk::lines<int32_t, true, uint16_t, dtk::Divide, true, dtk::Weighed<dtk::Lines>>),
    DTK_KERNEL(Weighed<Lines>,
               dtk::lines<float, true, uint16_t, dtk::Divide, true, dtk::Weighed<dtk::Lines>>),
    DTK_KERNEL(Weighed<Slices>, dtk::slices<int32_t, true, dtk::Strips, false, dtk::Weighed<dtk::Slices>>),
    DTK_KERNEL(Weighed<Slices>, dtk::slices<float, true, dtk::Strips, false, dtk::Weighed<dtk::Slices>>),
    DTK_KERNEL(Weighed<Slices>, dtk::slices<int32_t, true, dtk::Strips, true, dtk::Weighed<dtk::Slices>>),
    DTK_KERNEL(Weighed<PackedSlices>, dtk::packed_slices<uint8_t, true, 8, dtk::Weighed<dtk::PackedSlices>>),
    DTK_KERNEL(Weighed<PackedSlices>, dtk::packed_slices<uint16_t, true, 8, dtk::Weighed<dtk::PackedSlices>>),
    DTK_KERNEL(Weighed<PackedSlices>,
               dtk::packed_slices<uint8_t, true, 8, dtk::Weighed<dtk::PackedSlices>, true>),
    DTK_KERNEL(Weighed<PackedSlices>,
               dtk::packed_slices<uint16_t, true, 8, dtk::Weighed<dtk::PackedSlices>, true>),
    DTK_KERNEL(NearestRows, dtk::nearest_rows<uint16_t>),
    DTK_KERNEL(NearestLines, dtk::nearest_lines<dtk::Keyed, false>),
    DTK_KERNEL(NearestLines, dtk::nearest_lines<dtk::Exact, false>),
    DTK_KERNEL(NearestLines, dtk::nearest_lines<dtk::Exact, true>),
    DTK_KERNEL(NearestLines, dtk::nearest_lines<dtk::Rounded, false>),
    DTK_KERNEL(NearestLines, dtk::nearest_lines<dtk::Rounded, true>),
    DTK_KERNEL(Label, dtk::label_rows<uint32_t>),
    DTK_KERNEL(Label, dtk::label_unite<uint32_t>),
    DTK_KERNEL(Label, dtk::label_roots<uint32_t>),
    DTK_KERNEL(Label, dtk::label_count<uint32_t>),
    DTK_KERNEL(Label, dtk::label_write<uint32_t>),
    DTK_KERNEL(Parabolas, dtk::parabolas<float, true>),
    DTK_KERNEL(Parabolas, dtk::parabolas<float, false>),
    DTK_KERNEL(Parabolas, dtk::parabolas<double, true>),
    DTK_KERNEL(Parabolas, dtk::parabolas<double, false>),
    DTK_KERNEL(Receivers, dtk::receivers<float>),
    DTK_KERNEL(Receivers, dtk::receivers<double>),
    DTK_KERNEL(Remap, dtk::remap<false>),
    DTK_KERNEL(Remap, dtk::remap<true>),
    DTK_KERNEL(Contour, dtk::contour<uint8_t>),
    DTK_KERNEL(Remap, dtk::component_maxima<int32_t>),
};
// Room for what a kernel declares with DTK_SHARED, rounded up; dtkernels/plans keeps the same distance.
constexpr int kStaticShared = 1024;
constexpr int kKernelCount = int(sizeof kTable / sizeof kTable[0]);

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error) + ": " +
                             cudaGetErrorString(error));
}

// Makes `device` current, and the previous one again at the end.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device == previous_) {
      previous_ = -1;
    } else {
      check(cudaSetDevice(device), "cudaSetDevice");
    }
  }
  ~DeviceGuard() {
    if (previous_ >= 0) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = -1;
};

// A block gets more than 48 KB of dynamic shared memory only after the kernel was allowed it, on each device.
// The device's whole limit is asked for, so that once is enough.
cudaError_t allow_shared_once(int kernel, int device) {
  static std::mutex mutex;
  static std::set<std::pair<int, int>> done;
  const std::lock_guard<std::mutex> lock(mutex);
  if (done.count({kernel, device})) return cudaSuccess;
  int limit = 0;
  cudaError_t error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = kTable[kernel].allow_shared(limit - kStaticShared);
  if (error == cudaSuccess) done.insert({kernel, device});
  return error;
}

}  // namespace

bool built_with_cuda() { return true; }

DeviceInfo device_info() {
  DeviceInfo info{};
  cudaDriverGetVersion(&info.driver);
  cudaRuntimeGetVersion(&info.runtime);
  const cudaError_t error = cudaGetDeviceCount(&info.count);
  if (error != cudaSuccess) {
    info.count = 0;
    cudaGetLastError();  // the next caller of the runtime must not find this error
  }
  info.error = int(error);
  info.error_name = cudaGetErrorName(error);
  info.error_string = cudaGetErrorString(error);
  return info;
}

DeviceProperties device_properties(int device) {
  DeviceProperties p{};
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    check(cudaDeviceGetAttribute(value, attribute, device), "cudaDeviceGetAttribute");
  };
  get(&p.multiprocessors, cudaDevAttrMultiProcessorCount);
  get(&p.shared_per_block_optin, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  get(&p.major, cudaDevAttrComputeCapabilityMajor);
  get(&p.minor, cudaDevAttrComputeCapabilityMinor);
  return p;
}

std::vector<KernelEntry> kernels() {
  std::vector<KernelEntry> entries;
  for (const Kernel& k : kTable) entries.push_back({k.name, k.params_size});
  return entries;
}

int kernel_index(const char* name) {
  for (int i = 0; i < kKernelCount; ++i)
    if (std::strcmp(kTable[i].name, name) == 0) return i;
  return -1;
}

void launch(int kernel, const unsigned grid[3], unsigned block, size_t shared, const void* params,
            size_t params_size, uintptr_t stream, int device) {
  if (kernel < 0 || kernel >= kKernelCount)
    throw std::runtime_error("kernel must be an index below " + std::to_string(kKernelCount) + ", not " +
                             std::to_string(kernel));
  const Kernel& k = kTable[kernel];
  if (params_size != k.params_size)
    throw std::runtime_error(std::string(k.name) + " takes " + std::to_string(k.params_size) +
                             " bytes of parameters, not " + std::to_string(params_size));
  const DeviceGuard guard(device);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid[0], grid[1], grid[2]);
  config.blockDim = dim3(block);
  config.dynamicSmemBytes = shared;
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  // Without asking, what a kernel declares and what it is given must fit 48 KB together.
  const bool more = shared + kStaticShared > 48 * 1024;
  cudaError_t error = more ? allow_shared_once(kernel, device) : cudaSuccess;
  if (error == cudaSuccess) error = k.launch(config, params);
  if (error != cudaSuccess) {
    cudaGetLastError();  // as in device_info()
    throw std::runtime_error(std::string(k.name) + ", grid (" + std::to_string(grid[0]) + ", " +
                             std::to_string(grid[1]) + ", " + std::to_string(grid[2]) + "), block " +
                             std::to_string(block) + ", shared " + std::to_string(shared) +
                             " bytes, device " + std::to_string(device) + ": " + cudaGetErrorName(error) +
                             ": " + cudaGetErrorString(error));
  }
}

}  // namespace dtk::cuda
