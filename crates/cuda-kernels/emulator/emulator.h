// Runs CUDA kernels on one CPU thread. Every thread of a block is a fiber; blocks run one after another.
//
// A fiber gives way only at barriers and warp collectives, where the schedule decides who goes on. A kernel whose
// threads are properly synchronised computes the same bits under every schedule; one that is not differs between the
// schedules that favour one warp, which is how races and missing barriers show.
//
// Strict where hardware is lenient: collectives take all 32 lanes, barriers all threads of the block (also those that
// hardware would let return early), and all of them at the same line.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace emulator {

struct Index { unsigned x, y, z; };

enum class Schedule {
  lockstep,  // a lane of each warp at a time
  forward,   // each warp as far as it gets, first to last
  reverse,   // the same from the last warp, lane and block to the first
  random,    // a random warp for a random number of steps, lanes and blocks shuffled
};

const Index& thread();
const Index& block();
const Index& block_dim();
const Index& grid_dim();
unsigned lane();

// The launch's dynamic shared memory, NaN when a block starts.
unsigned char* dynamic_shared();

// Ends the launch with this message, which names the block and thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void barrier(int line);

inline void require_full(unsigned mask) {
  if (mask != 0xffffffffu) fail("a warp collective with the mask %08x: only full warps are emulated", mask);
}

// Leaves `bytes` of this lane's value, waits for the other lanes and returns where the values of all 32 lie, `stride`
// bytes apart. They stay there until the next collective but one.
constexpr size_t stride = 32;
const unsigned char* rendezvous(const void* value, size_t bytes);

// What each lane has handed in.
template <class T>
struct Lanes {
  const unsigned char* slots;
  T operator[](unsigned lane) const {
    T value;
    std::memcpy(&value, slots + lane * stride, sizeof value);
    return value;
  }
};

// Every lane hands in a value and computes its result from all of them.
template <class T, class F>
inline auto exchange(T value, F result) {
  static_assert(sizeof(T) <= stride, "a lane's value is too large");
  return result(Lanes<T>{rendezvous(&value, sizeof(T))});
}

// ---- Asynchronous copies: see copies.cpp
// 16 bytes to `shared`: so many from `global`, and zeros.
void copy_async(void* shared, const void* global, int bytes);
void copy_commit();
void copy_wait(int pending);

// ---- Kernels by name
using Entry = void (*)(void** arguments);
struct Kernel {
  Kernel(const char* name, Entry entry, size_t arguments);
};

template <class... A, size_t... I>
inline void unpack(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(arguments[I])...);
}
template <class... A>
inline void unpack(void (*kernel)(A...), void** arguments) {
  unpack(kernel, arguments, std::index_sequence_for<A...>{});
}
template <class... A>
constexpr size_t arity(void (*)(A...)) { return sizeof...(A); }

}  // namespace emulator

// Makes a kernel launchable by its name.
#define EXPORT_KERNEL(name)                                                                       \
  static emulator::Kernel emulated_##name(                                                        \
      #name, [](void** arguments) { emulator::unpack(name, arguments); }, emulator::arity(name));

extern "C" {
// `schedule` is a Schedule, with the seed of `random` above bit 8.
void emulator_schedule(unsigned schedule);
// How many arguments a kernel takes; -1 if there is no such kernel.
int emulator_arguments(const char* name);
// Runs a kernel. Returns null, or what is wrong.
const char* emulator_launch(const char* name, const unsigned* grid, const unsigned* block, unsigned shared,
                            void** arguments);
}
