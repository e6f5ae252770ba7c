// The scheduler: one block at a time, its threads as fibers, in an order that tries to break the kernel.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "copies.h"
#include "emulator.h"
#include "fibers.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// The bounds of the section in which `__shared__` variables lie; absent where no kernel has one.
extern "C" {
extern unsigned char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
}

namespace emulator {
namespace {

enum class State { ready, at_barrier, in_collective, done };

struct Thread {
  Fiber fiber;
  Index index;
  unsigned number;
  State state;
  unsigned collectives;  // how many it has taken part in; the parity chooses the buffer
};

struct Warp {
  unsigned arrived;
  alignas(32) unsigned char slots[2][32 * stride];
};

constexpr unsigned largest_block = 1024;
constexpr unsigned largest_shared = 227 * 1024;

alignas(1024) unsigned char shared_memory[largest_shared];
std::vector<Thread> threads(largest_block);
std::vector<Warp> warps(largest_block / 32);
Fiber scheduler;
Thread* running = nullptr;
Index grid_index, block_size, grid_size;
unsigned block_threads, live, waiting, barrier_line;
std::string error;
Entry entry;
void** entry_arguments;
Schedule schedule = Schedule::forward;
unsigned seed = 0;

struct Registered { Entry entry; size_t arguments; };
std::map<std::string, Registered>& kernels() {
  static std::map<std::string, Registered> map;
  return map;
}

void give_way() { switch_fiber(running->fiber, scheduler); }

[[noreturn]] void run_thread() {
  entry(entry_arguments);
  finish_copies();
  running->state = State::done;
  live--;
  give_way();
  __builtin_unreachable();
}

void poison_shared(unsigned bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(shared_memory, sizeof shared_memory);
#endif
  std::memset(shared_memory, 0xff, bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(shared_memory + bytes, sizeof shared_memory - bytes);
#endif
  if (__start_emulated_shared)
    for (auto at = __start_emulated_shared; at != __stop_emulated_shared; at++) *at = 0xff;
}

// Lets each ready lane of a warp run to its next collective. False if none was ready.
bool step(unsigned warp, const std::vector<unsigned>& lanes) {
  bool any = false;
  for (unsigned lane : lanes) {
    Thread& next = threads[warp * 32 + lane];
    if (next.state != State::ready || !error.empty()) continue;
    any = true;
    running = &next;
    switch_fiber(scheduler, next.fiber);
  }
  return any;
}

void report_deadlock() {
  unsigned at_barrier = 0, in_collective = 0;
  for (unsigned t = 0; t < block_threads; t++) {
    at_barrier += threads[t].state == State::at_barrier;
    in_collective += threads[t].state == State::in_collective;
  }
  char text[256];
  std::snprintf(text, sizeof text,
                "deadlock in block (%u, %u, %u): of %u threads %u wait at a barrier (line %u), %u in a warp collective, "
                "%u have returned",
                grid_index.x, grid_index.y, grid_index.z, block_threads, at_barrier, at_barrier ? barrier_line : 0,
                in_collective, block_threads - live);
  error = text;
}

void run_block(std::mt19937& random, std::vector<unsigned>& warp_order, std::vector<unsigned>& lanes) {
  live = block_threads;
  waiting = 0;
  start_copies();
  for (unsigned w = 0; w < block_threads / 32; w++) warps[w].arrived = 0;
  for (unsigned t = 0; t < block_threads; t++) {
    Index index{t % block_size.x, t / block_size.x % block_size.y, t / block_size.x / block_size.y};
    threads[t].index = index;
    threads[t].number = t;
    threads[t].state = State::ready;
    threads[t].collectives = 0;
    prepare(threads[t].fiber, run_thread);
  }
  while (live && error.empty()) {
    if (schedule == Schedule::random) {
      std::shuffle(warp_order.begin(), warp_order.end(), random);
      std::shuffle(lanes.begin(), lanes.end(), random);
    }
    bool any = false;
    for (unsigned warp : warp_order) {
      unsigned steps = schedule == Schedule::lockstep ? 1 : schedule == Schedule::random ? 1 + random() % 16 : ~0u;
      while (steps-- && step(warp, lanes)) any = true;
    }
    if (!any && error.empty()) report_deadlock();
  }
}

const char* check_launch(const char* name, const Index& grid, const Index& block, unsigned shared) {
  uint64_t size = uint64_t(block.x) * block.y * block.z, blocks = uint64_t(grid.x) * grid.y * grid.z;
  char text[256];
  if (size == 0 || size > largest_block || size % 32) {
    std::snprintf(text, sizeof text, "%s: a block of %llu threads; 32 to 1024, a multiple of 32", name,
                  (unsigned long long)size);
  } else if (blocks == 0 || grid.y > 65535 || grid.z > 65535) {
    std::snprintf(text, sizeof text, "%s: a grid of %u x %u x %u blocks", name, grid.x, grid.y, grid.z);
  } else if (shared > largest_shared) {
    std::snprintf(text, sizeof text, "%s: %u bytes of shared memory; at most %u", name, shared, largest_shared);
  } else {
    return nullptr;
  }
  error = text;
  return error.c_str();
}

}  // namespace

const Index& thread() { return running->index; }
const Index& block() { return grid_index; }
const Index& block_dim() { return block_size; }
const Index& grid_dim() { return grid_size; }
unsigned lane() { return running->number % 32; }
unsigned thread_number() { return running->number; }
unsigned char* dynamic_shared() { return shared_memory; }

void fail(const char* format, ...) {
  char what[256], text[400];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  const Index& t = running->index;
  std::snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u): %s", grid_index.x, grid_index.y,
                grid_index.z, t.x, t.y, t.z, what);
  error = text;
  give_way();
  __builtin_unreachable();
}

void barrier(int line) {
  if (waiting && barrier_line != unsigned(line))
    fail("waits at the barrier in line %d, others at that in line %u", line, barrier_line);
  barrier_line = line;
  running->state = State::at_barrier;
  if (++waiting == block_threads) {
    waiting = 0;
    for (unsigned t = 0; t < block_threads; t++) threads[t].state = State::ready;
  }
  give_way();
}

const unsigned char* rendezvous(const void* value, size_t bytes) {
  Warp& warp = warps[running->number / 32];
  unsigned char* slots = warp.slots[running->collectives++ % 2];
  std::memcpy(slots + lane() * stride, value, bytes);
  if (++warp.arrived < 32) {
    running->state = State::in_collective;
    give_way();
  } else {
    warp.arrived = 0;
    Thread* first = &threads[running->number / 32 * 32];
    for (unsigned i = 0; i < 32; i++)
      if (first[i].state == State::in_collective) first[i].state = State::ready;
  }
  return slots;
}

Kernel::Kernel(const char* name, Entry entry, size_t arguments) { kernels()[name] = {entry, arguments}; }

}  // namespace emulator

using namespace emulator;

void emulator_schedule(unsigned chosen) {
  schedule = Schedule(chosen & 0xff);
  seed = chosen >> 8;
}

int emulator_arguments(const char* name) {
  auto found = kernels().find(name);
  return found == kernels().end() ? -1 : int(found->second.arguments);
}

const char* emulator_launch(const char* name, const unsigned* grid, const unsigned* block, unsigned shared,
                            void** arguments) {
  error.clear();
  auto found = kernels().find(name);
  if (found == kernels().end()) return (error = std::string("no kernel ") + name).c_str();
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {block[0], block[1], block[2]};
  if (const char* wrong = check_launch(name, grid_size, block_size, shared)) return wrong;
  entry = found->second.entry;
  entry_arguments = arguments;
  block_threads = block[0] * block[1] * block[2];

  std::mt19937 random(seed);
  std::vector<unsigned> warp_order(block_threads / 32), lanes(32), blocks(grid[0] * grid[1] * grid[2]);
  for (auto order : {&warp_order, &lanes, &blocks}) {
    std::iota(order->begin(), order->end(), 0);
    if (schedule == Schedule::reverse) std::reverse(order->begin(), order->end());
  }
  if (schedule == Schedule::random) std::shuffle(blocks.begin(), blocks.end(), random);
  for (unsigned b : blocks) {
    grid_index = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    poison_shared(shared);
    run_block(random, warp_order, lanes);
    if (!error.empty()) return (error = std::string(name) + ": " + error).c_str();
  }
  return nullptr;
}
