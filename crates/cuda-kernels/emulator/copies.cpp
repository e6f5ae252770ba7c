// cp.async as late as the language allows: the destination is NaN from the moment the copy is issued, and the data
// lands only when its thread waits for it. A missing wait, or a buffer overwritten while it is still read, shows.
#include "copies.h"

#include <vector>

#include "emulator.h"

namespace emulator {
namespace {

constexpr size_t copy_bytes = 16;

struct Copy { void* to; const void* from; size_t bytes; };

struct Queue {
  std::vector<Copy> copies;
  std::vector<size_t> groups;  // where each committed group ends
};

std::vector<Queue> queues(1024);

}  // namespace

void copy_async(void* shared, const void* global, int bytes) {
  if (reinterpret_cast<uintptr_t>(shared) % copy_bytes || (bytes && reinterpret_cast<uintptr_t>(global) % copy_bytes))
    fail("cp.async between addresses that are not multiples of %zu", copy_bytes);
  if (bytes < 0 || size_t(bytes) > copy_bytes) fail("cp.async of %d bytes, 0 to %zu", bytes, copy_bytes);
  std::memset(shared, 0xff, copy_bytes);
  queues[thread_number()].copies.push_back({shared, global, size_t(bytes)});
}

void copy_commit() {
  Queue& queue = queues[thread_number()];
  queue.groups.push_back(queue.copies.size());
}

void copy_wait(int pending) {
  Queue& queue = queues[thread_number()];
  if (queue.groups.size() <= size_t(pending)) return;
  size_t groups = queue.groups.size() - pending, landed = queue.groups[groups - 1];
  for (size_t i = 0; i < landed; i++) {
    const Copy& copy = queue.copies[i];
    std::memcpy(copy.to, copy.from, copy.bytes);
    std::memset(static_cast<unsigned char*>(copy.to) + copy.bytes, 0, copy_bytes - copy.bytes);
  }
  queue.copies.erase(queue.copies.begin(), queue.copies.begin() + landed);
  queue.groups.erase(queue.groups.begin(), queue.groups.begin() + groups);
  for (size_t& end : queue.groups) end -= landed;
}

void start_copies() {
  for (Queue& queue : queues) {
    queue.copies.clear();
    queue.groups.clear();
  }
}

void finish_copies() {
  if (!queues[thread_number()].copies.empty()) fail("returned while cp.async was still writing its shared memory");
}

}  // namespace emulator
