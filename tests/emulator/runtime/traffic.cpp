// Traffic. An access is an address, a size and the instruction that makes it. Lanes of a warp run one after
// another here; on a device they execute an instruction together. So a lane's i-th execution of an
// instruction since its block last met is put together with the i-th ones of the other lanes: exact where
// lanes take the same path or leave a loop early, an estimate where they part within a loop.
//
// Shared memory has 32 banks of four bytes, and serves 128 bytes at a time: a request of a warp takes a
// wavefront for every different word that its busiest bank has to give. Global memory moves sectors of 32
// bytes: those of every request, which the caches see, and those of a launch, each once, which memory sees at
// the least.
#ifdef DTK_EMULATOR_TRAFFIC
#include "traffic.h"

#include <link.h>
#include <pthread.h>

#include <unordered_map>
#include <unordered_set>

#include "machine.h"

namespace dtk_emulator::traffic {
namespace {

constexpr unsigned kSector = 32, kBanks = 32, kWord = 4;

struct Request {
  uintptr_t address[32];
  uint32_t lanes = 0;
};

struct Instruction {
  std::vector<Request> requests;
  unsigned executions[32] = {};
  unsigned bytes = 0;
};

using Sectors = std::unordered_set<uintptr_t>;

std::vector<std::map<Place, Instruction>> logs;  // [resident block][warp]
std::map<Place, Cost> costs;
Sectors read, written;                     // of the launch
uintptr_t image_begin = 0, image_end = 0;  // code, constants and variables of this library
// Of the OS thread that launches: it holds the parameters, which are constants to a device.
uintptr_t stack_begin = 0, stack_end = 0;

int find_image(dl_phdr_info* info, size_t, void*) {
  uintptr_t begin = ~uintptr_t(0), end = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const uintptr_t from = info->dlpi_addr + segment.p_vaddr;
    begin = std::min(begin, from);
    end = std::max(end, uintptr_t(from + segment.p_memsz));
  }
  const uintptr_t inside = reinterpret_cast<uintptr_t>(&machine);
  if (inside < begin || inside >= end) return 0;
  image_begin = begin;
  image_end = end;
  return 1;
}

unsigned wavefronts(const Request& request, unsigned bytes) {
  const unsigned together = bytes <= kWord ? 32 : std::max(1u, 32 * kWord / bytes);
  unsigned sum = 0;
  for (unsigned first = 0; first < 32; first += together) {
    std::unordered_set<uintptr_t> words;
    unsigned busy[kBanks] = {}, most = 0;
    for (unsigned lane = first; lane < first + together; ++lane) {
      if (!(request.lanes >> lane & 1)) continue;
      const uintptr_t last = (request.address[lane] + bytes - 1) / kWord;
      for (uintptr_t word = request.address[lane] / kWord; word <= last; ++word) {
        if (words.insert(word).second) most = std::max(most, ++busy[word % kBanks]);
      }
    }
    sum += most;
  }
  return sum;
}

unsigned sectors(const Request& request, unsigned bytes, Sectors& of_launch) {
  Sectors found;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(request.lanes >> lane & 1)) continue;
    const uintptr_t last = (request.address[lane] + bytes - 1) / kSector;
    for (uintptr_t sector = request.address[lane] / kSector; sector <= last; ++sector) found.insert(sector);
  }
  of_launch.insert(found.begin(), found.end());
  return unsigned(found.size());
}

void access(const volatile void* pointer, size_t bytes, bool writes, const void* where) {
  const Thread* self = machine.current;
  if (!self) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  const auto within = [address](const char* from, size_t size) {
    return address - reinterpret_cast<uintptr_t>(from) < size;
  };
  if (address - image_begin < image_end - image_begin) return;  // built-in variables, tables
  if (address - stack_begin < stack_end - stack_begin) return;
  if (within(self->stack->base, kStackBytes)) return;  // local variables
  const Block& block = *self->block;
  const Memory memory = within(block.tags, arena_bytes()) ? Memory::shared
                        : writes                          ? Memory::write
                                                          : Memory::read;
  auto& log = logs[size_t(&block - machine.blocks.data()) * kWarps + self->warp];
  Instruction& instruction = log[{reinterpret_cast<uintptr_t>(where) - image_begin, memory}];
  instruction.bytes = unsigned(bytes);
  const unsigned number = instruction.executions[self->lane]++;
  if (number >= instruction.requests.size()) instruction.requests.resize(number + 1);
  Request& request = instruction.requests[number];
  request.lanes |= 1u << self->lane;
  request.address[self->lane] = address;
}

}  // namespace

void begin() {
  if (!image_end) dl_iterate_phdr(find_image, nullptr);
  pthread_attr_t attributes;
  void* lowest = nullptr;
  size_t bytes = 0;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &lowest, &bytes);
    pthread_attr_destroy(&attributes);
  }
  stack_begin = reinterpret_cast<uintptr_t>(lowest);
  stack_end = stack_begin + bytes;
  logs.clear();
  logs.resize(machine.blocks.size() * kWarps);
  costs.clear();
  read.clear();
  written.clear();
}

void met(const Block& block) {
  for (size_t warp = 0; warp * 32 < machine.block_threads; ++warp) {
    for (auto& [place, instruction] : logs[size_t(&block - machine.blocks.data()) * kWarps + warp]) {
      for (const Request& request : instruction.requests) {
        Cost& cost = costs[place];
        ++cost.requests;
        cost.units += place.memory == Memory::shared ? wavefronts(request, instruction.bytes)
                                                     : sectors(request, instruction.bytes,
                                                               place.memory == Memory::read ? read : written);
      }
      instruction = {};
    }
  }
}

void end(Statistics& statistics) {
  for (const auto& [place, cost] : costs) {
    statistics.accesses[place].requests += cost.requests;
    statistics.accesses[place].units += cost.units;
  }
  statistics.memory_read += kSector * read.size();
  statistics.memory_written += kSector * written.size();
}

}  // namespace dtk_emulator::traffic

// What -fsanitize=thread calls. Atomics are performed, and counted as reads.
using dtk_emulator::traffic::access;
#define DTK_HOOK(T) extern "C" __attribute__((visibility("hidden"))) T
#define DTK_HERE __builtin_return_address(0)
#define DTK_ACCESS(bytes)                                                                     \
  DTK_HOOK(void) __tsan_read##bytes(void* p) { access(p, bytes, false, DTK_HERE); }           \
  DTK_HOOK(void) __tsan_write##bytes(void* p) { access(p, bytes, true, DTK_HERE); }           \
  DTK_HOOK(void) __tsan_unaligned_read##bytes(void* p) { access(p, bytes, false, DTK_HERE); } \
  DTK_HOOK(void) __tsan_unaligned_write##bytes(void* p) { access(p, bytes, true, DTK_HERE); }
DTK_ACCESS(1)
DTK_ACCESS(2)
DTK_ACCESS(4)
DTK_ACCESS(8)
DTK_ACCESS(16)
DTK_HOOK(void) __tsan_read_range(void* p, size_t bytes) { access(p, bytes, false, DTK_HERE); }
DTK_HOOK(void) __tsan_write_range(void* p, size_t bytes) { access(p, bytes, true, DTK_HERE); }
#define DTK_ATOMICS(bits)                                                                                \
  DTK_HOOK(uint##bits##_t) __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int) {           \
    access(p, sizeof *p, false, DTK_HERE);                                                               \
    return __atomic_load_n(p, __ATOMIC_RELAXED);                                                         \
  }                                                                                                      \
  DTK_HOOK(void) __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t v, int) {        \
    access(p, sizeof *p, true, DTK_HERE);                                                                \
    __atomic_store_n(p, v, __ATOMIC_RELAXED);                                                            \
  }                                                                                                      \
  DTK_HOOK(bool)                                                                                         \
  __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* p, uint##bits##_t* expected,    \
                                                uint##bits##_t desired, int, int) {                      \
    access(p, sizeof *p, false, DTK_HERE);                                                               \
    return __atomic_compare_exchange_n(p, expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
  }
DTK_ATOMICS(8)
DTK_ATOMICS(16)
DTK_ATOMICS(32)
DTK_ATOMICS(64)
DTK_HOOK(void) __tsan_init() {}
DTK_HOOK(void) __tsan_func_entry(void*) {}
DTK_HOOK(void) __tsan_func_exit() {}
DTK_HOOK(void) __tsan_vptr_update(void**, void*) {}
DTK_HOOK(void) __tsan_vptr_read(void**) {}
#endif
