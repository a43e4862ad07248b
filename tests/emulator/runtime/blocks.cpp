// Blocks and their shared memory.
#include <string>

#include "machine.h"

namespace dtk_emulator {
namespace {

void fill(char* p, size_t bytes, unsigned char value) {
  uint64_t word = 0x0101010101010101ull * value;
  size_t i = 0;
  for (; i + 8 <= bytes; i += 8) *reinterpret_cast<uint64_t*>(p + i) = word;
  for (; i < bytes; ++i) p[i] = char(value);
}

bool intact(const char* p) {
  for (size_t i = 0; i < kRedzone; ++i) {
    if (static_cast<unsigned char>(p[i]) != kCanary) return false;
  }
  return true;
}

// The next address that is a multiple of `alignment` and of no higher power of two, so that code that needs
// more than it declared meets a misaligned address here, not only on some device.
char* place(char* p, size_t alignment) {
  uintptr_t a = (reinterpret_cast<uintptr_t>(p) + alignment - 1) & ~uintptr_t(alignment - 1);
  if (!(a & alignment)) a += alignment;
  return reinterpret_cast<char*>(a);
}

}  // namespace

// Arrays get their place when a block first declares them, between red zones: ASan stops at the access, and
// the other modes find an overwritten zone when the block ends.
void* shared_array(const SharedSite* site, size_t bytes, size_t alignment) {
  Block& block = *machine.current->block;
  for (size_t i = 0; i < block.arrays; ++i) {
    if (block.array[i].site == site) return block.array[i].data;
  }
  if (block.static_bytes + bytes + machine.dynamic_bytes > machine.shared_allowed ||
      block.static_bytes + bytes > kDefaultShared) {
    fail(kStaticLimit, site->where);
  }
  char* p = place(block.statics + block.static_used, alignment < 8 ? 8 : alignment);
  if (block.arrays == kMaxArrays || p + bytes + kRedzone > block.statics + kStaticBytes) {
    fail(kTooManyArrays, site->where);
  }
  sanitizer::unpoison(p, bytes);
  if (settings().poison) fill(p, bytes, kPoison);
  if (!sanitizer::kAddress) fill(p + bytes, kRedzone, kCanary);
  block.array[block.arrays++] = {site, p, bytes};
  block.used_arena = true;
  block.static_used = size_t(p - block.statics) + bytes + kRedzone;
  block.static_bytes += bytes;
  return p;
}

void* shared_dynamic(size_t alignment, Location where) {
  if (alignment > 16) fail(kMisaligned, where);  // config.h promises 16
  return machine.current->block->dynamic;
}

size_t arena_bytes() {
  return (kTagBytes + kStaticBytes + 64 + machine.dynamic_bytes + kRedzone + kPage - 1) / kPage * kPage;
}

// Under TSan every block gets a fresh mapping for its shared memory and its tags. At a reused address, the
// accesses of the previous block would be races with those of the next, as nothing orders blocks; and a
// reused tag would bring along the clocks of the previous block, and order what must stay unordered.
bool start_block(Block& block, uint3 index) {
  char* arena = block.tags;
  if (sanitizer::kThread && arena && block.used_arena) {
    munmap(arena, arena_bytes());
    arena = nullptr;
  }
  if (!arena) arena = map_pages(arena_bytes());
  block.tags = arena;
  if (!arena) return false;
  block.used_arena = machine.dynamic_bytes != 0;
  block.statics = arena + kTagBytes;
  block.dynamic = place(block.statics + kStaticBytes, 16);
  block.index = index;
  block.active = true;
  block.alive = unsigned(machine.block_threads);
  block.waiting = block.phase = 0;
  block.static_used = block.static_bytes = block.arrays = 0;
  sanitizer::unpoison(arena, arena_bytes());
  if (settings().poison) fill(block.dynamic, machine.dynamic_bytes, kPoison);
  fill(block.dynamic + machine.dynamic_bytes, kRedzone, kCanary);
  sanitizer::poison(block.statics, kStaticBytes);
  sanitizer::poison(block.dynamic + machine.dynamic_bytes, kRedzone);
  for (size_t w = 0; w * 32 < machine.block_threads; ++w) {
    size_t lanes = machine.block_threads - w * 32;
    block.warps[w].exist = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    block.warps[w].finished = block.warps[w].open = block.warps[w].parity = 0;
  }
  for (size_t t = 0; t < machine.block_threads; ++t) {
    Thread& thread = block.threads[t];
    thread.state = State::unstarted;
    thread.fenced = false;
    for (const void*& address : thread.touched) address = nullptr;
    push(&thread);
  }
  sanitizer::release(&machine.start_tag);
  return true;
}

std::string overrun_array(const Block& block) {
  if (!intact(block.dynamic + machine.dynamic_bytes)) {
    return "dynamic shared memory of " + std::to_string(machine.dynamic_bytes) + " bytes";
  }
  for (size_t i = 0; i < block.arrays && !sanitizer::kAddress; ++i) {
    const Array& a = block.array[i];
    if (!intact(a.data + a.bytes))
      return std::string(a.site->name) + " declared at line " + std::to_string(a.site->where.line);
  }
  return "";
}

}  // namespace dtk_emulator
