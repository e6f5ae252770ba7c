#include "fibers.h"

#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#if defined(__x86_64__)
// 20 times faster than swapcontext, which asks the kernel for the signal mask.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
#else
#include <ucontext.h>
#endif

namespace emulator {

void prepare(Fiber& fiber, void (*entry)()) {
  if (!fiber.stack) fiber.stack = static_cast<unsigned char*>(aligned_alloc(64, stack_bytes));
#if defined(__SANITIZE_ADDRESS__)
  // A launch that failed has left its fibers in the middle of their functions.
  __asan_unpoison_memory_region(fiber.stack, stack_bytes);
#endif
#if defined(__x86_64__)
  auto top = reinterpret_cast<uintptr_t*>(fiber.stack + stack_bytes - 64);
  *--top = 0;  // where `entry` would return to; keeps the stack aligned as a call leaves it
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int saved = 0; saved < 6; saved++) *--top = 0;
  fiber.context = top;
#else
  if (!fiber.context) fiber.context = new ucontext_t;
  auto context = static_cast<ucontext_t*>(fiber.context);
  getcontext(context);
  context->uc_stack.ss_sp = fiber.stack;
  context->uc_stack.ss_size = stack_bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
#if defined(__x86_64__)
  emulator_switch(&from.context, to.context);
#else
  if (!from.context) from.context = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.context), static_cast<ucontext_t*>(to.context));
#endif
}

}  // namespace emulator
