// Launches a kernel of faults.cu by its name: 32 threads, 128 bytes of dynamic shared memory, 256 values in, 1 out.
#include <cstdio>
#include <vector>

#include "emulator.h"

int main(int count, char** names) {
  if (count != 2) return 2;
  std::vector<float> in(256, 1.0f), out(1);
  const float* from = in.data();
  float* to = out.data();
  void* arguments[] = {&from, &to};
  const unsigned grid[3] = {1, 1, 1}, block[3] = {32, 1, 1};
  const char* wrong = emulator_launch(names[1], grid, block, 128, arguments);
  if (wrong) std::fprintf(stderr, "%s\n", wrong);
  return wrong != nullptr;
}
