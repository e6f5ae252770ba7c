// What the scheduler tells the queues of asynchronous copies.
#pragma once

namespace emulator {

unsigned thread_number();
void start_copies();   // a block starts: no copy is under way
void finish_copies();  // a thread returns: fails if it left copies that nobody waited for

}  // namespace emulator
