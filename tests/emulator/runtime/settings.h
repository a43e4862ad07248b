// Settings and statistics of the emulator, and the C functions that give tests access to both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace dtk_emulator {

// Each setting starts from the environment variable DTK_EMULATOR_<NAME>.
struct Settings {
  int64_t seed = 0;      // 0: blocks and threads in order; else a random order, different every launch
  int64_t resident = 1;  // blocks that run interleaved
  int64_t poison = 1;    // shared memory starts as bytes 0xFB
  int64_t shared_limit = 232448;  // bytes of shared memory per block that a kernel can opt in to (227 KiB)
  int64_t multiprocessors = 4;    // few, so that persistent grids take more than one round
  int64_t devices = 1;
  int64_t capability = 90;        // major * 10 + minor
  int64_t collectives_order = 0;  // whether shuffles and votes order memory (CUDA says they do not)
};
Settings& settings();

namespace traffic {

enum class Memory : uint8_t { shared, read, write };

struct Place {
  uintptr_t offset;  // of an instruction within the library
  Memory memory;
  bool operator<(const Place& other) const {
    return offset != other.offset ? offset < other.offset : memory < other.memory;
  }
};

struct Cost {
  uint64_t requests = 0, units = 0;  // of warps; wavefronts of shared memory, sectors of global memory
};

}  // namespace traffic

struct Statistics {
  uint64_t launches = 0, blocks = 0, threads = 0, switches = 0, barriers = 0, collectives = 0, atomics = 0;
  std::map<std::string, uint64_t> counters;  // DTK_COUNT
  // In a build of mode "traffic": by instruction, and bytes of the different sectors that launches touched.
  std::map<traffic::Place, traffic::Cost> accesses;
  uint64_t memory_read = 0, memory_written = 0;
};
std::map<std::string, Statistics>& statistics();  // by kernel

// Held for the length of a launch; whoever reads the statistics or changes a setting takes it too.
std::mutex& machine_mutex();

}  // namespace dtk_emulator

extern "C" {
// Returns 0, or -1 if there is no such setting.
__attribute__((visibility("default"))) int dtk_emulator_set(const char* setting, int64_t value);
// Writes the value and returns 0, or -1 if there is no such setting.
__attribute__((visibility("default"))) int dtk_emulator_get(const char* setting, int64_t* value);
// Writes the statistics as JSON, {"kernel": {"launches": 1, ..., "counters": {"name": 1}, "accesses":
// [[offset, "shared", requests, units]]}}, cut at `capacity`
// bytes and always terminated; returns the length of the whole text.
__attribute__((visibility("default"))) size_t dtk_emulator_statistics(char* json, size_t capacity);
__attribute__((visibility("default"))) void dtk_emulator_reset_statistics(void);
}
