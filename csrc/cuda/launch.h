// The CUDA kernels of this build as a table, and the one way to launch them.
//
// A kernel is named by the C++ expression that instantiates it, which is also the key that
// dtkernels/plans asks for and the name expression that NVRTC compiles. Which kernel runs on which axis,
// with which grid, block, shared memory and parameter bytes, is decided there and nowhere else.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dtk::cuda {

struct DeviceInfo {
  int count;            // 0 with any error, also without a driver
  int driver, runtime;  // versions
  int error;            // of cudaGetDeviceCount; 0 is success
  const char* error_name;
  const char* error_string;
};

struct DeviceProperties {
  int multiprocessors;
  int shared_per_block_optin;  // bytes
  int major, minor;            // compute capability
};

struct KernelEntry {
  const char* name;
  size_t params_size;  // bytes of its parameter struct
};

bool built_with_cuda();
DeviceInfo device_info();
DeviceProperties device_properties(int device);

std::vector<KernelEntry> kernels();
// Position in kernels(), or -1.
int kernel_index(const char* name);

// Enqueues a kernel on `stream` of `device`. Neither allocates nor synchronises, so it may be captured in a
// graph, and leaves the current device as it was. Throws std::runtime_error, naming kernel, grid, block,
// shared memory and the error, when the launch is refused.
void launch(int kernel, const unsigned grid[3], unsigned block, size_t shared, const void* params,
            size_t params_size, uintptr_t stream, int device);

}  // namespace dtk::cuda
