// The smallest complete use of the emulator: a kernel, its launcher, and a C function for ctypes. The tests
// load it into Python in every mode.
#include "dtk/config.h"

namespace example {

constexpr int kThreads = 64;

struct ReverseTiles {
  const float* in;
  float* out;
  int n;        // a multiple of kThreads
  int overrun;  // elements written beyond the end, to test that this is found
  int race;     // whether the barrier is left out
};

template <int THREADS>
__global__ void __launch_bounds__(THREADS) reverse_tiles(ReverseTiles p) {
  DTK_SHARED(float, tile, THREADS);
  for (int start = int(blockIdx.x) * THREADS; start < p.n; start += int(gridDim.x) * THREADS) {
    tile[threadIdx.x] = __ldg(p.in + start + threadIdx.x);
    DTK_COUNT(bytes_read, sizeof(float));
    if (!p.race) __syncthreads();
    p.out[start + threadIdx.x] = tile[THREADS - 1 - threadIdx.x];
    if (!p.race) __syncthreads();
  }
  if (blockIdx.x == 0 && int(threadIdx.x) < p.overrun) p.out[p.n + threadIdx.x] = 0.0f;
}

}  // namespace example

// Returns the error's text, or null.
extern "C" __attribute__((visibility("default"))) const char* reverse(const float* in, float* out, int n,
                                                                      int overrun, int race) {
  cudaLaunchConfig_t config{};
  config.gridDim = 5;
  config.blockDim = example::kThreads;
  cudaError_t error = cudaLaunchKernelEx(&config, example::reverse_tiles<example::kThreads>,
                                         example::ReverseTiles{in, out, n, overrun, race});
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
