// Fibers: stacks of their own that give way to each other where they say so.
#pragma once
#include <cstddef>

namespace emulator {

struct Fiber {
  void* context = nullptr;         // the stack pointer while it does not run; a ucontext_t elsewhere than on x86-64
  unsigned char* stack = nullptr;  // null for the thread's own
};

constexpr size_t stack_bytes = 64 * 1024;

// Makes `fiber` start at `entry` when it is first switched to. `entry` must not return.
void prepare(Fiber& fiber, void (*entry)());

// Saves the running fiber in `from` and goes on with `to`.
void switch_fiber(Fiber& from, Fiber& to);

}  // namespace emulator
