// DTK_COUNT.
#include "machine.h"

namespace dtk_emulator {

void count(CounterSite* site, uint64_t n) {
  if (!site->slot) {
    int slot = 1;
    while (slot < machine.counters && !same_place({machine.counter_names[slot], 0}, {site->name, 0})) ++slot;
    if (slot == int(kMaxCounters)) return;
    machine.counter_names[slot] = site->name;
    if (slot == machine.counters) ++machine.counters;
    site->slot = slot;
  }
  machine.counter_values[site->slot] += n;
}

}  // namespace dtk_emulator
