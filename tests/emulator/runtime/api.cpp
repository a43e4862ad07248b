// The slice of the CUDA runtime API that is not about launching.
#include <string>

#include "errors.h"
#include "machine.h"

namespace dtk_emulator {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local cudaError_t described_error = cudaSuccess;
thread_local std::string description;
thread_local int current_device = 0;

}  // namespace

cudaError_t report(cudaError_t error, const std::string& text) {
  last_error = described_error = error;
  description = text;
  return error;
}

}  // namespace dtk_emulator

namespace {

struct ErrorName {
  cudaError_t error;
  const char* name;
  const char* text;
};
const ErrorName kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};

const ErrorName& entry_of(cudaError_t error) {
  static const ErrorName unknown = {cudaError_t(999), "cudaErrorUnknown", "unknown error"};
  for (const ErrorName& e : kErrors) {
    if (e.error == error) return e;
  }
  return unknown;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) { return entry_of(error).name; }

const char* cudaGetErrorString(cudaError_t error) {
  using namespace dtk_emulator;
  return error != cudaSuccess && error == described_error ? description.c_str() : entry_of(error).text;
}

cudaError_t cudaPeekAtLastError() { return dtk_emulator::last_error; }

cudaError_t cudaGetLastError() {
  cudaError_t error = dtk_emulator::last_error;
  dtk_emulator::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = int(dtk_emulator::settings().devices);
  return *count ? cudaSuccess : dtk_emulator::report(cudaErrorNoDevice, "no device");
}

cudaError_t cudaGetDevice(int* device) {
  *device = dtk_emulator::current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= dtk_emulator::settings().devices) {
    return dtk_emulator::report(cudaErrorInvalidDevice, "invalid device ordinal");
  }
  dtk_emulator::current_device = device;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 12080;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const dtk_emulator::Settings& s = dtk_emulator::settings();
  if (device < 0 || device >= s.devices)
    return dtk_emulator::report(cudaErrorInvalidDevice, "invalid device ordinal");
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *value = int(dtk_emulator::kMaxThreads); break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(dtk_emulator::kDefaultShared); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(s.shared_limit); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(s.shared_limit) + 1024; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = warpSize; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrMultiProcessorCount: *value = int(s.multiprocessors); break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    case cudaDevAttrComputeCapabilityMajor: *value = int(s.capability / 10); break;
    case cudaDevAttrComputeCapabilityMinor: *value = int(s.capability % 10); break;
    case cudaDevAttrCooperativeLaunch: *value = 0; break;
    default:
      return dtk_emulator::report(cudaErrorInvalidValue, "device attribute that the emulator does not know");
  }
  return cudaSuccess;
}
