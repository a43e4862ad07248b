// Launches: what is checked before, how the blocks are run, and what is said when it fails.
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <string>

#include "errors.h"
#include "machine.h"
#include "traffic.h"

namespace dtk_emulator {
namespace {

thread_local bool inside_launch = false;
thread_local std::string next_name;

std::string text_of(Location where) {
  std::string file = where.file;
  size_t slash = file.rfind('/');
  return (slash == std::string::npos ? file : file.substr(slash + 1)) + ":" + std::to_string(where.line);
}

std::string text_of(uint3 v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

std::string hexadecimal(unsigned v) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", v);
  return text;
}

std::string message(const char* key, const std::string& text) {
  return std::string("emulator [") + key + "]: " + text;
}

std::string kernel_name(const void* kernel) {
  std::string name;
  if (!next_name.empty()) {
    name.swap(next_name);
    return name;
  }
  Dl_info info;
  if (!dladdr(const_cast<void*>(kernel), &info) || !info.dli_sname || info.dli_saddr != kernel)
    return "kernel";
  int status = 0;
  char* demangled = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  name = status == 0 ? demangled : info.dli_sname;
  std::free(demangled);
  // "void dtk::pass<int, true>(dtk::Parameters)" becomes "dtk::pass<int, true>".
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    depth += (name[i] == '<') - (name[i] == '>');
    if (name[i] == '(' && depth == 0 && name.compare(i, 11, "(anonymous ") != 0) {
      name.resize(i);
      break;
    }
  }
  return name.rfind("void ", 0) == 0 ? name.substr(5) : name;
}

std::string describe_failure(const std::string& kernel) {
  std::string text = machine.failure->text;
  text += " at " + text_of(machine.here);
  if (machine.there.file) text += ", others at " + text_of(machine.there);
  const Thread& t = *machine.culprit;
  text += " (" + kernel + ", block " + text_of(t.block->index) + ", thread " + text_of(t.index) + ", lane " +
          std::to_string(t.lane) + ")";
  return message(machine.failure->key, text);
}

// The threads that wait, at most one per place and four in all.
std::string describe_deadlock(const std::string& kernel) {
  std::string text = std::string(kDeadlock.text) + " in " + kernel;
  int shown = 0;
  for (const Block& block : machine.blocks) {
    if (!block.active) continue;
    Location before = {nullptr, 0};
    for (size_t i = 0; i < machine.block_threads && shown < 4; ++i) {
      const Thread& t = block.threads[i];
      if (t.state != State::at_barrier && t.state != State::at_collective) continue;
      if (before.file && same_place(before, t.where)) continue;
      before = t.where;
      ++shown;
      text += "; block " + text_of(block.index) + " thread " + text_of(t.index) + " at " + text_of(t.where);
      if (t.state == State::at_barrier) {
        text += " (__syncthreads)";
        continue;
      }
      const Warp& warp = block.warps[t.warp];
      for (unsigned rest = warp.open; rest; rest &= rest - 1) {
        const Group& g = warp.groups[__builtin_ctz(rest)];
        if (g.mask != t.mask) continue;
        text += " (warp collective, mask " + hexadecimal(g.mask) + ", lanes " +
                hexadecimal(g.mask & ~g.arrived) + " missing)";
      }
    }
  }
  return message(kDeadlock.key, text);
}

std::map<const void*, size_t>& opted_in() {
  static std::map<const void*, size_t> limits;
  return limits;
}

cudaError_t check(const cudaLaunchConfig_t& config, const void* kernel, const std::string& name) {
  const dim3 g = config.gridDim, b = config.blockDim;
  const size_t threads = size_t(b.x) * b.y * b.z;
  if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
    return report(cudaErrorInvalidConfiguration,
                  message("invalid-grid", "grid " + text_of(g) + " for " + name));
  }
  if (!threads || b.x > kMaxThreads || b.y > kMaxThreads || b.z > 64 || threads > kMaxThreads) {
    return report(cudaErrorInvalidConfiguration,
                  message("invalid-block", "block " + text_of(b) + " for " + name));
  }
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& a = config.attrs[i];
    bool cluster = a.id == cudaLaunchAttributeClusterDimension &&
                   (a.val.clusterDim.x != 1 || a.val.clusterDim.y != 1 || a.val.clusterDim.z != 1);
    if (cluster || (a.id == cudaLaunchAttributeCooperative && a.val.cooperative)) {
      return report(cudaErrorNotSupported,
                    message("unsupported", "clusters and cooperative grids, asked for by " + name));
    }
  }
  const size_t limit = size_t(settings().shared_limit);
  auto found = opted_in().find(kernel);
  const bool asked = found != opted_in().end() && found->second > kDefaultShared;
  machine.shared_allowed = asked ? limit : std::min(kDefaultShared, limit);
  const size_t dynamic_allowed = asked ? found->second : machine.shared_allowed;
  const std::string bytes =
      std::to_string(config.dynamicSmemBytes) + " bytes of dynamic shared memory for " + name;
  if (config.dynamicSmemBytes > limit) {
    return report(cudaErrorInvalidValue, message("shared-limit", bytes + ", more than the device has"));
  }
  if (config.dynamicSmemBytes > dynamic_allowed) {
    return report(cudaErrorInvalidValue, message("shared-opt-in", bytes + " without cudaFuncSetAttribute"));
  }
  return cudaSuccess;
}

// Runs all blocks; returns an empty string, or the diagnosis, with its code in `error`.
std::string run(const std::string& kernel, cudaError_t& error) {
  const size_t count = size_t(gridDim.x) * gridDim.y * gridDim.z;
  // In random order block i of the order is start + i * stride: coprime to the count, it visits all.
  size_t stride = 1, start = 0;
  if (machine.random) {
    start = random_bits() % count;
    do {
      stride = 1 + random_bits() % count;
    } while (std::gcd(stride, count) != 1);
  }
  size_t next = 0;
  for (;;) {
    for (Block& block : machine.blocks) {
      if (block.active || next == count) continue;
      size_t id = size_t((start + (unsigned __int128)(next++) * stride) % count);
      uint3 index = {unsigned(id % gridDim.x), unsigned(id / gridDim.x % gridDim.y),
                     unsigned(id / gridDim.x / gridDim.y)};
      if (!start_block(block, index)) {
        error = cudaErrorMemoryAllocation;
        return message("memory", "cannot map shared memory");
      }
    }
    Thread* first = pop();
    if (!first) break;
    resume(nullptr, first);
    machine.current = nullptr;
    if (machine.failure) {
      error = machine.failure->error;
      return describe_failure(kernel);
    }
    if (machine.done) {
      const Block& done = *machine.done;
      machine.done->active = false;
      machine.done = nullptr;
      if (std::string array = overrun_array(done); !array.empty()) {
        error = kOverrun.error;
        return message(kOverrun.key, std::string(kOverrun.text) + ": " + array + " (" + kernel + ", block " +
                                         text_of(done.index) + ")");
      }
    }
  }
  for (const Block& block : machine.blocks) {
    if (!block.active) continue;
    error = kDeadlock.error;
    return describe_deadlock(kernel);
  }
  return "";
}

}  // namespace

void name_next_kernel(const char* name) { next_name = name; }

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*invoke)(void*),
                   void* argument) {
  if (inside_launch)
    return report(cudaErrorNotSupported, message("unsupported", "a launch from within a kernel"));
  std::lock_guard<std::mutex> lock(machine_mutex());
  const std::string name = kernel_name(kernel);
  if (cudaError_t error = check(config, kernel, name)) return error;

  const Settings& s = settings();
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  machine.invoke = invoke;
  machine.argument = argument;
  machine.block_threads = size_t(blockDim.x) * blockDim.y * blockDim.z;
  machine.dynamic_bytes = config.dynamicSmemBytes;
  const size_t grid = size_t(gridDim.x) * gridDim.y * gridDim.z;
  size_t resident = std::min(size_t(std::max<int64_t>(1, s.resident)), grid);
  // TSan has room for 8,128 fibers, its clocks grow with their number, and so does its memory.
  const size_t most = sanitizer::kThread ? 1024 : 65536;
  resident = std::max<size_t>(1, std::min(resident, most / machine.block_threads));
  const size_t threads = resident * machine.block_threads;

  machine.random = s.seed != 0;
  if (machine.seed != uint64_t(s.seed)) machine.sequence = 0;
  machine.seed = uint64_t(s.seed);
  machine.rng = (machine.seed * 0x9E3779B97F4A7C15ull + ++machine.sequence * 0xD1B54A32D192ED03ull) | 1;
  for (int i = 0; i < 4; ++i) random_bits();

  machine.blocks.clear();
  machine.blocks.resize(resident);
  machine.threads.assign(threads, Thread());
  machine.ring.resize(threads + 1);
  machine.head = machine.ready = 0;
  for (size_t k = 0; k < resident; ++k) {
    machine.blocks[k].threads = machine.threads.data() + k * machine.block_threads;
    for (size_t t = 0; t < machine.block_threads; ++t) {
      Thread& thread = machine.blocks[k].threads[t];
      thread.index = {unsigned(t % blockDim.x), unsigned(t / blockDim.x % blockDim.y),
                      unsigned(t / blockDim.x / blockDim.y)};
      thread.block = &machine.blocks[k];
      thread.lane = uint8_t(t % 32);
      thread.warp = uint8_t(t / 32);
    }
  }
  // See Stacks for why TSan gets twice as many; a fiber takes 0.6 MB and 0.7 ms to make, so not more.
  const size_t stacks = sanitizer::kThread ? 2 * threads : threads;
  if (!machine.stacks.reserve(stacks))
    return report(cudaErrorMemoryAllocation, message("memory", "cannot map stacks"));

  machine.main_fiber = sanitizer::current_fiber();
  machine.failure = nullptr;
  machine.done = nullptr;
  machine.idle = machine.switches = machine.barriers = machine.collectives = machine.atomics = 0;
  cudaError_t error = cudaSuccess;
  traffic::begin();
  inside_launch = true;
  const std::string text = run(name, error);
  inside_launch = false;
  machine.current = nullptr;

  // A launch is ordered before what follows it. Each fiber says so once, in the end, and not at the end of
  // each of its threads, because a release costs TSan time proportional to the number of fibers.
  machine.stacks.order_all_before(machine.main_fiber, &machine.end_tag);
  for (Thread& t : machine.threads) {
    if (t.stack) machine.stacks.destroy(t.stack);
  }
  for (Block& block : machine.blocks) {
    if (!block.tags) continue;
    sanitizer::unpoison(block.tags, arena_bytes());
    munmap(block.tags, arena_bytes());
  }

  Statistics& statistics_of = statistics()[name];
  ++statistics_of.launches;
  statistics_of.blocks += grid;
  statistics_of.threads += grid * machine.block_threads;
  statistics_of.switches += machine.switches;
  statistics_of.barriers += machine.barriers;
  statistics_of.collectives += machine.collectives;
  statistics_of.atomics += machine.atomics;
  for (int i = 1; i < machine.counters; ++i) {
    if (machine.counter_values[i])
      statistics_of.counters[machine.counter_names[i]] += machine.counter_values[i];
    machine.counter_values[i] = 0;
  }
  traffic::end(statistics_of);
  return error == cudaSuccess ? cudaSuccess : report(error, text);
}

cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  std::lock_guard<std::mutex> lock(machine_mutex());
  if (value < 0 || value > settings().shared_limit) {
    return report(cudaErrorInvalidValue,
                  message("shared-limit", "cudaFuncSetAttribute: " + std::to_string(value) +
                                              " bytes, more shared memory than the device has"));
  }
  opted_in()[kernel] = size_t(value);
  return cudaSuccess;
}

// A device with 2,048 threads, 32 blocks and 228 KiB of shared memory per multiprocessor, registers ignored.
cudaError_t occupancy(int* blocks, int block_threads, size_t dynamic_bytes) {
  if (block_threads < 1 || block_threads > int(kMaxThreads))
    return report(cudaErrorInvalidValue, "block size");
  size_t by_shared = (228 << 10) / (dynamic_bytes + 1024);
  *blocks = int(std::min(size_t(std::min(32, 2048 / block_threads)), by_shared));
  return cudaSuccess;
}

}  // namespace dtk_emulator
