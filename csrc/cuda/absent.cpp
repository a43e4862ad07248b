// launch.h for builds without a CUDA compiler.
#include <stdexcept>

#include "launch.h"

namespace dtk::cuda {

namespace {
[[noreturn]] void refuse() { throw std::runtime_error("this build of dtkernels has no CUDA kernels"); }
}  // namespace

bool built_with_cuda() { return false; }

DeviceInfo device_info() {
  return {0, 0, 0, -1, "dtkNotBuiltWithCuda", "this build of dtkernels has no CUDA kernels"};
}

DeviceProperties device_properties(int) { refuse(); }

std::vector<KernelEntry> kernels() { return {}; }

int kernel_index(const char*) { return -1; }

void launch(int, const unsigned[3], unsigned, size_t, const void*, size_t, uintptr_t, int) { refuse(); }

}  // namespace dtk::cuda
