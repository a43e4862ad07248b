// Barriers, warp collectives, atomics and fences, and what each of them orders.
#include "machine.h"
#include "traffic.h"

namespace dtk_emulator {

bool same_place(const Location& a, const Location& b) {
  if (a.line != b.line) return false;
  if (a.file == b.file) return true;
  const char *p = a.file, *q = b.file;
  while (*p && *p == *q) ++p, ++q;
  return *p == *q;
}

void open_barrier(Block& block, Thread* except) {
  traffic::met(block);
  for (size_t i = 0; i < machine.block_threads; ++i) {
    Thread& t = block.threads[i];
    if (t.state != State::at_barrier) continue;
    t.result = uint64_t(block.accumulated);
    if (&t != except) push(&t);
  }
  block.waiting = 0;
  ++block.phase;
  ++machine.barriers;
  machine.idle = 0;
}

int barrier(BarrierKind kind, bool predicate, Location where) {
  Thread* self = machine.current;
  Block& block = *self->block;
  if (!block.waiting) {
    block.kind = kind;
    block.where = where;
    block.accumulated = kind == BarrierKind::all;
  } else if (kind != block.kind || !same_place(where, block.where)) {
    fail(kDivergentBarrier, where, block.where);
  }
  switch (kind) {
    case BarrierKind::plain: break;
    case BarrierKind::any: block.accumulated |= predicate; break;
    case BarrierKind::all: block.accumulated &= predicate; break;
    case BarrierKind::count: block.accumulated += predicate; break;
  }
  // Everyone releases the tag before and acquires it after, which orders all before with all after. With a
  // single tag, a thread that is already past this barrier and has reached the next one would release it
  // again, while others still sleep here; waking, they would acquire that too, and look ordered after
  // accesses that nothing orders them with. Two tags in turn are enough: nobody reaches the next barrier
  // but one before the last sleeper has left this one.
  char* tag = block.tags + kTagBarrier + 8 * (block.phase & 1);
  block.used_arena = true;
  sanitizer::release(tag);
  self->where = where;
  self->state = State::at_barrier;
  if (++block.waiting == block.alive) {
    open_barrier(block, machine.random ? nullptr : self);
    if (machine.random) {
      wait();
    } else {
      self->state = State::running;
    }
  } else {
    wait();
  }
  sanitizer::acquire(tag);
  return int(self->result);
}

namespace {

// The lanes of `mask` have all arrived: computes every lane's result.
void complete(Thread* lanes, unsigned mask, Collective kind) {
  uint64_t total = 0;
  bool first = true;
  for (unsigned rest = mask; rest; rest &= rest - 1, first = false) {
    unsigned i = unsigned(__builtin_ctz(rest));
    uint64_t v = lanes[i].value;
    switch (kind) {
      case Collective::ballot:
      case Collective::any: total |= uint64_t(v != 0) << i; break;
      case Collective::all: total = (first || total) && v; break;
      case Collective::min_unsigned: total = first || unsigned(v) < unsigned(total) ? v : total; break;
      case Collective::max_unsigned: total = first || unsigned(v) > unsigned(total) ? v : total; break;
      case Collective::min_signed: total = first || int64_t(v) < int64_t(total) ? v : total; break;
      case Collective::max_signed: total = first || int64_t(v) > int64_t(total) ? v : total; break;
      case Collective::add: total += v; break;
      case Collective::bit_and: total = first ? v : total & v; break;
      case Collective::bit_or: total |= v; break;
      case Collective::bit_xor: total ^= v; break;
      default: break;
    }
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    int i = __builtin_ctz(rest);
    Thread& t = lanes[i];
    int segment = i & ~(t.width - 1), source = i;
    switch (kind) {
      case Collective::shuffle: source = segment + (t.argument & (t.width - 1)); break;
      case Collective::shuffle_up:
        if (i - t.argument >= segment) source = i - t.argument;
        break;
      case Collective::shuffle_down:
        if (i + t.argument < segment + t.width) source = i + t.argument;
        break;
      case Collective::shuffle_xor:
        if ((i ^ t.argument) < segment + t.width) source = i ^ t.argument;
        break;
      case Collective::match_any:
      case Collective::match_all: {
        unsigned equal = 0;
        for (unsigned others = mask; others; others &= others - 1) {
          int k = __builtin_ctz(others);
          if (lanes[k].value == t.value) equal |= 1u << k;
        }
        t.result = kind == Collective::match_any ? equal : equal == mask ? mask : 0;
        continue;
      }
      case Collective::any: t.result = total != 0; continue;
      default: t.result = total; continue;
    }
    // A lane outside the mask has no value to give; the device leaves the result undefined.
    t.result = mask >> (source & 31) & 1 ? lanes[source & 31].value : 0xDEADBEEFDEADBEEFull;
  }
}

}  // namespace

uint64_t collective(Collective kind, unsigned mask, uint64_t value, int argument, int width, Location where) {
  Thread* self = machine.current;
  Block& block = *self->block;
  Warp& warp = block.warps[self->warp];
  if (!(mask >> self->lane & 1)) fail(kNotInMask, where);
  // The full mask is also right for the incomplete last warp of a block.
  if (mask == 0xffffffffu) mask = warp.exist;
  if (mask & ~warp.exist) fail(kNoSuchLane, where);
  if (mask & warp.finished) fail(kReturnedLane, where);
  if (width < 1 || width > 32 || width & (width - 1)) fail(kBadWidth, where);
  self->value = value;
  self->argument = argument;
  self->width = width;
  self->mask = mask;
  self->where = where;
  self->state = State::at_collective;

  // Masks of open groups may overlap: half a warp may already wait for all 32 lanes while the other half is
  // still busy among itself. A lane waits in one group at a time, so lanes that never come are a deadlock.
  Group* group = nullptr;
  for (unsigned rest = warp.open; rest && !group; rest &= rest - 1) {
    Group& g = warp.groups[__builtin_ctz(rest)];
    if (g.mask == mask) group = &g;
  }
  if (!group) {
    int slot = __builtin_ctz(~warp.open);
    warp.open |= 1u << slot;
    group = &warp.groups[slot];
    // Two tags in turn per lowest lane, for the reason given in barrier(). A lane that sleeps through two
    // further collectives of its mask's lowest lane, with masks that lack it, may look ordered too much:
    // that can hide a race from one schedule, never invent one.
    int leader = __builtin_ctz(mask);
    char* tag = block.tags + kTagWarps +
                ((size_t(self->warp) * 32 + size_t(leader)) * 2 + (warp.parity >> leader & 1)) * 8;
    warp.parity ^= 1u << leader;
    *group = {mask, 0, kind, where, tag};
  } else if (group->kind != kind || !same_place(group->where, where)) {
    fail(kMismatch, where, group->where);
  }
  char* tag = group->tag;
  const bool orders = kind == Collective::syncwarp || settings().collectives_order;
  if (orders) {
    block.used_arena = true;
    sanitizer::release(tag);
  }
  group->arrived |= 1u << self->lane;
  if (group->arrived == mask) {
    Thread* lanes = block.threads + self->warp * 32;
    warp.open &= ~(1u << (group - warp.groups));
    ++machine.collectives;
    machine.idle = 0;
    complete(lanes, mask, kind);
    for (unsigned rest = mask; rest; rest &= rest - 1) {
      Thread* t = lanes + __builtin_ctz(rest);
      if (t != self || machine.random) push(t);
    }
    if (machine.random) {
      wait();
    } else {
      self->state = State::running;
    }
  } else {
    wait();
  }
  if (orders) sanitizer::acquire(tag);
  return self->result;
}

unsigned lane() { return machine.current->lane; }

void yield(Location where) {
  if (++machine.idle > kSpinLimit) fail(kSpin, where);
  push(machine.current);
  machine.current->where = where;
  wait();
}

void atomic_begin(const void* address, size_t bytes, Location where) {
  ++machine.atomics;
  if (reinterpret_cast<uintptr_t>(address) & (bytes - 1)) fail(kMisaligned, where);
  // In order, a thread may spin on an atomic for a while, but not for ever.
  if (machine.random ? (random_bits() & 3) == 0 : ++machine.streak >= kAtomicsPerTurn) yield(where);
  if (!sanitizer::kThread) return;
  Thread* self = machine.current;
  if (self->fenced) {
    sanitizer::switch_fiber(self->stack->fence_fiber);
    sanitizer::release(address);
    sanitizer::switch_fiber(self->stack->fiber);
  }
  for (const void* seen : self->touched) {
    if (seen == address) return;
  }
  self->touched[self->touched_count++ & 3] = address;
}

void atomic_end(bool changed) {
  if (changed) machine.idle = 0;
}

// Message passing needs four steps: write the data, fence, set the flag; read the flag, fence, read the
// data. TSan has no fences, so this builds them from clocks.
//
// Releasing: an atomic publishes what its thread did before its last fence, and nothing it did after. That
// is an older clock than the thread's own, so a second fiber keeps it: it learns from the thread at every
// fence, and atomic_begin() releases in its name. Acquiring: a fence acquires the atomics that the thread
// touched since its last fence (the last four addresses, which is one more than any loop here spins on).
// So a missing fence on either side, or one on the wrong side of the flag, leaves a race for TSan to report.
void fence(Location where) {
  if (sanitizer::kThread) {
    Thread* self = machine.current;
    Stack* stack = self->stack;
    for (const void*& address : self->touched) {
      if (address) sanitizer::acquire(address);
      address = nullptr;
    }
    if (!stack->fence_fiber) stack->fence_fiber = sanitizer::create_fiber();
    char* tag = self->block->tags + kTagFences + size_t(self - self->block->threads) * 8;
    self->block->used_arena = true;
    sanitizer::release(tag);
    sanitizer::switch_fiber(stack->fence_fiber);
    sanitizer::acquire(tag);
    sanitizer::switch_fiber(stack->fiber);
    self->fenced = true;
  }
  if (machine.random && (random_bits() & 3) == 0) yield(where);
}

uint64_t clock_ticks() { return machine.switches + machine.atomics; }

void trap(Location where) { fail(kTrap, where); }

}  // namespace dtk_emulator
