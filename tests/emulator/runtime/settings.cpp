#include "settings.h"

#include <cstdlib>
#include <cstring>

namespace dtk_emulator {
namespace {

struct Name {
  const char* name;
  const char* variable;
  int64_t Settings::* field;
};
const Name kNames[] = {
    {"seed", "DTK_EMULATOR_SEED", &Settings::seed},
    {"resident", "DTK_EMULATOR_RESIDENT", &Settings::resident},
    {"poison", "DTK_EMULATOR_POISON", &Settings::poison},
    {"shared_limit", "DTK_EMULATOR_SHARED_LIMIT", &Settings::shared_limit},
    {"multiprocessors", "DTK_EMULATOR_MULTIPROCESSORS", &Settings::multiprocessors},
    {"devices", "DTK_EMULATOR_DEVICES", &Settings::devices},
    {"capability", "DTK_EMULATOR_CAPABILITY", &Settings::capability},
    {"collectives_order", "DTK_EMULATOR_COLLECTIVES_ORDER", &Settings::collectives_order},
};

const Name* find(const char* setting) {
  for (const Name& n : kNames) {
    if (!std::strcmp(n.name, setting)) return &n;
  }
  return nullptr;
}

std::string quoted(const std::string& text) {
  std::string r = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') r += '\\';
    r += c;
  }
  return r + "\"";
}

std::string to_json() {
  std::string r = "{";
  for (const auto& [kernel, s] : statistics()) {
    if (r.size() > 1) r += ", ";
    r += quoted(kernel) + ": {";
    const std::pair<const char*, uint64_t> fields[] = {
        {"launches", s.launches}, {"blocks", s.blocks},           {"threads", s.threads},
        {"switches", s.switches}, {"barriers", s.barriers},       {"collectives", s.collectives},
        {"atomics", s.atomics},   {"memory_read", s.memory_read}, {"memory_written", s.memory_written},
    };
    for (const auto& [name, value] : fields) r += quoted(name) + ": " + std::to_string(value) + ", ";
    r += "\"counters\": {";
    const char* separator = "";
    for (const auto& [name, value] : s.counters) {
      r += separator + quoted(name) + ": " + std::to_string(value);
      separator = ", ";
    }
    r += "}, \"accesses\": [";
    separator = "";
    for (const auto& [place, cost] : s.accesses) {
      const char* memory[] = {"shared", "read", "write"};
      r += separator + ("[" + std::to_string(place.offset)) + ", " + quoted(memory[int(place.memory)]) +
           ", " + std::to_string(cost.requests) + ", " + std::to_string(cost.units) + "]";
      separator = ", ";
    }
    r += "]}";
  }
  return r + "}";
}

}  // namespace

Settings& settings() {
  static Settings s = [] {
    Settings from_environment;
    for (const Name& n : kNames) {
      if (const char* v = std::getenv(n.variable)) from_environment.*n.field = std::strtoll(v, nullptr, 10);
    }
    return from_environment;
  }();
  return s;
}

std::mutex& machine_mutex() {
  static std::mutex m;
  return m;
}

std::map<std::string, Statistics>& statistics() {
  static std::map<std::string, Statistics> s;
  return s;
}

}  // namespace dtk_emulator

int dtk_emulator_set(const char* setting, int64_t value) {
  const dtk_emulator::Name* n = dtk_emulator::find(setting);
  if (!n) return -1;
  std::lock_guard<std::mutex> lock(dtk_emulator::machine_mutex());
  dtk_emulator::settings().*n->field = value;
  return 0;
}

int dtk_emulator_get(const char* setting, int64_t* value) {
  const dtk_emulator::Name* n = dtk_emulator::find(setting);
  if (!n) return -1;
  *value = dtk_emulator::settings().*n->field;
  return 0;
}

size_t dtk_emulator_statistics(char* json, size_t capacity) {
  std::lock_guard<std::mutex> lock(dtk_emulator::machine_mutex());
  std::string text = dtk_emulator::to_json();
  if (capacity) {
    size_t n = text.size() < capacity ? text.size() : capacity - 1;
    std::memcpy(json, text.data(), n);
    json[n] = 0;
  }
  return text.size();
}

void dtk_emulator_reset_statistics(void) {
  std::lock_guard<std::mutex> lock(dtk_emulator::machine_mutex());
  dtk_emulator::statistics().clear();
}
