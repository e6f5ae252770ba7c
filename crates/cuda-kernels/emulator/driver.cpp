// A stand-in for NVIDIA's driver library (libcuda.so.1), linked with emulated kernels: what our host code calls through
// cudarc runs unmodified on a CPU. Device memory is host memory that starts as NaN; everything happens at once, so
// missing synchronisation between host and device does not show.
//
// Environment: EMULATED_DEVICES (default 1), EMULATED_CAPABILITY (default 80), EMULATED_DRIVER (default 12000),
// EMULATED_MEMORY (bytes, default 1 GiB). `emulated_fail_allocation(n)` makes the n-th allocation from now on fail, from 0,
// `emulated_fail_launch(n)` the n-th launch of a kernel, which then does nothing; -1: none.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "emulator.h"

namespace {

using Pointer = unsigned long long;

// cuda.h's CUresult.
enum Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_PTX = 218,
  UNSUPPORTED_PTX_VERSION = 222,
  NOT_FOUND = 500,
  LAUNCH_FAILED = 719,
};

struct Function {
  std::string name;
  int most_dynamic_shared = 48 * 1024;
};

// One thread at a time: tests run on several.
std::recursive_mutex lock;
std::map<Pointer, size_t> allocations;
size_t used = 0, most_used = 0, launches = 0;
long fail_after = -1, fail_launch_after = -1;
thread_local void* current_context = nullptr;

long setting(const char* name, long otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atol(text) : otherwise;
}
size_t memory() { return size_t(setting("EMULATED_MEMORY", 1L << 30)); }

// Whether the bytes lie in one allocation.
bool inside(Pointer at, size_t bytes) {
  auto next = allocations.upper_bound(at);
  if (next == allocations.begin()) return false;
  --next;
  return at + bytes <= next->first + next->second;
}

Result allocate(Pointer* out, size_t bytes) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (bytes == 0) return INVALID_VALUE;
  if (fail_after >= 0 && fail_after-- == 0) return OUT_OF_MEMORY;
  if (used + bytes > memory()) return OUT_OF_MEMORY;
  void* at = nullptr;
  if (posix_memalign(&at, 256, bytes)) return OUT_OF_MEMORY;
  std::memset(at, 0xff, bytes);
  *out = reinterpret_cast<Pointer>(at);
  allocations[*out] = bytes;
  used += bytes;
  if (used > most_used) most_used = used;
  return SUCCESS;
}

Result release(Pointer at) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  auto found = allocations.find(at);
  if (found == allocations.end()) return INVALID_VALUE;
  used -= found->second;
  allocations.erase(found);
  std::free(reinterpret_cast<void*>(at));
  return SUCCESS;
}

}  // namespace

#define DRIVER extern "C" __attribute__((visibility("default"))) Result

extern "C" __attribute__((visibility("default"))) void emulated_fail_allocation(long n) { fail_after = n; }
extern "C" __attribute__((visibility("default"))) void emulated_fail_launch(long n) { fail_launch_after = n; }
extern "C" __attribute__((visibility("default"))) size_t emulated_memory_used() { return used; }
// Whether the bytes are device memory: for cublas.cpp.
extern "C" __attribute__((visibility("default"))) int emulated_inside(Pointer at, size_t bytes) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  return inside(at, bytes);
}
// The most that was in use since this was last called.
extern "C" __attribute__((visibility("default"))) size_t emulated_memory_peak() {
  const size_t peak = most_used;
  most_used = used;
  return peak;
}

// Events recorded since this was last called.
static size_t events = 0;
extern "C" __attribute__((visibility("default"))) size_t emulated_events() {
  const size_t count = events;
  events = 0;
  return count;
}

// Kernels launched since this was last called.
extern "C" __attribute__((visibility("default"))) size_t emulated_launches() {
  const size_t count = launches;
  launches = 0;
  return count;
}

DRIVER cuInit(unsigned) { return setting("EMULATED_DEVICES", 1) ? SUCCESS : NO_DEVICE; }
DRIVER cuDriverGetVersion(int* version) { *version = int(setting("EMULATED_DRIVER", 12000)); return SUCCESS; }
DRIVER cuDeviceGetCount(int* count) { *count = int(setting("EMULATED_DEVICES", 1)); return SUCCESS; }
DRIVER cuDeviceGet(int* device, int ordinal) {
  if (ordinal >= setting("EMULATED_DEVICES", 1)) return INVALID_DEVICE;
  *device = ordinal;
  return SUCCESS;
}
DRIVER cuDeviceGetName(char* name, int size, int) { std::snprintf(name, size, "emulated"); return SUCCESS; }
DRIVER cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = memory(); return SUCCESS; }
DRIVER cuMemGetInfo_v2(size_t* free, size_t* total) { *total = memory(); *free = memory() - used; return SUCCESS; }
DRIVER cuDeviceGetAttribute(int* value, int attribute, int) {
  const long capability = setting("EMULATED_CAPABILITY", 80);
  switch (attribute) {
    case 75: *value = int(capability / 10); break;  // major
    case 76: *value = int(capability % 10); break;  // minor
    case 97: *value = 99 * 1024; break;             // largest dynamic shared memory of a block: the smallest sm_8x's
    case 115: *value = 1; break;                    // memory pools, and with them asynchronous allocation
    default: *value = 0;
  }
  return SUCCESS;
}
DRIVER cuDevicePrimaryCtxRetain(void** context, int) { *context = reinterpret_cast<void*>(0x1000); return SUCCESS; }
DRIVER cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
DRIVER cuCtxSetCurrent(void* context) { current_context = context; return SUCCESS; }
DRIVER cuCtxGetCurrent(void** context) { *context = current_context; return SUCCESS; }
DRIVER cuCtxSynchronize() { return SUCCESS; }

DRIVER cuStreamCreate(void** stream, unsigned) { *stream = std::malloc(1); return SUCCESS; }
DRIVER cuStreamDestroy_v2(void* stream) { std::free(stream); return SUCCESS; }
DRIVER cuStreamSynchronize(void*) { return SUCCESS; }
DRIVER cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
DRIVER cuStreamIsCapturing(void*, int* status) { *status = 0; return SUCCESS; }
DRIVER cuEventCreate(void** event, unsigned) { *event = new double(0); return SUCCESS; }
DRIVER cuEventDestroy_v2(void* event) { delete static_cast<double*>(event); return SUCCESS; }
DRIVER cuEventRecord(void* event, void*) {
  events++;
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  *static_cast<double*>(event) = std::chrono::duration<double, std::milli>(now).count();
  return SUCCESS;
}
DRIVER cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  *milliseconds = float(*static_cast<double*>(to) - *static_cast<double*>(from));
  return SUCCESS;
}
DRIVER cuEventSynchronize(void*) { return SUCCESS; }
DRIVER cuEventQuery(void*) { return SUCCESS; }

// The device's memory pool: what it is told to keep, and nothing else of it.
static uint64_t pool_keeps = 0;
constexpr int RELEASE_THRESHOLD = 4;
DRIVER cuDeviceGetMemPool(void** pool, int) { *pool = &pool_keeps; return SUCCESS; }
DRIVER cuMemPoolGetAttribute(void* pool, int attribute, void* value) {
  if (pool != &pool_keeps || attribute != RELEASE_THRESHOLD) return INVALID_VALUE;
  *static_cast<uint64_t*>(value) = pool_keeps;
  return SUCCESS;
}
DRIVER cuMemPoolSetAttribute(void* pool, int attribute, void* value) {
  if (pool != &pool_keeps || attribute != RELEASE_THRESHOLD) return INVALID_VALUE;
  pool_keeps = *static_cast<uint64_t*>(value);
  return SUCCESS;
}

DRIVER cuMemAlloc_v2(Pointer* at, size_t bytes) { return allocate(at, bytes); }
DRIVER cuMemAllocAsync(Pointer* at, size_t bytes, void*) { return allocate(at, bytes); }
DRIVER cuMemFree_v2(Pointer at) { return release(at); }
DRIVER cuMemFreeAsync(Pointer at, void*) { return release(at); }
DRIVER cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void*) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (!inside(to, bytes)) return INVALID_VALUE;
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return SUCCESS;
}
DRIVER cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void*) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (!inside(from, bytes)) return INVALID_VALUE;
  std::memcpy(to, reinterpret_cast<void*>(from), bytes);
  return SUCCESS;
}
DRIVER cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void*) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (!inside(to, bytes) || !inside(from, bytes)) return INVALID_VALUE;
  std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
  return SUCCESS;
}
DRIVER cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void*) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (!inside(to, bytes)) return INVALID_VALUE;
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return SUCCESS;
}

// A module is PTX text: its version is checked as a driver would; its kernels are the emulated ones of the same names.
DRIVER cuModuleLoadData(void** module, const void* image) {
  const char* text = static_cast<const char*>(image);
  const char* version = std::strstr(text, ".version ");
  if (!version) return INVALID_PTX;
  int major = 0, minor = 0;
  std::sscanf(version, ".version %d.%d", &major, &minor);
  // PTX 8.0 came with CUDA 12.0, 7.8 with 11.8.
  const long driver = setting("EMULATED_DRIVER", 12000);
  if (major > 7 && driver < 12000) return UNSUPPORTED_PTX_VERSION;
  *module = new std::string(text);
  return SUCCESS;
}
DRIVER cuModuleUnload(void* module) { delete static_cast<std::string*>(module); return SUCCESS; }
DRIVER cuModuleGetFunction(void** function, void* module, const char* name) {
  const std::string entry = std::string(".entry ") + name + "(";
  if (static_cast<std::string*>(module)->find(entry) == std::string::npos || emulator_arguments(name) < 0) return NOT_FOUND;
  *function = new Function{name};
  return SUCCESS;
}
DRIVER cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute == 8) {  // largest dynamic shared memory
    if (value > 99 * 1024) return INVALID_VALUE;
    static_cast<Function*>(function)->most_dynamic_shared = value;
  }
  return SUCCESS;
}
DRIVER cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void*, void** arguments, void**) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  const Function& function = *static_cast<Function*>(handle);
  const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
  launches++;
  if (fail_launch_after >= 0 && fail_launch_after-- == 0) return LAUNCH_FAILED;
  if (int(shared) > function.most_dynamic_shared) {
    std::fprintf(stderr, "emulator: %s asks for %u bytes of shared memory, allowed %d\n", function.name.c_str(), shared,
                 function.most_dynamic_shared);
    return INVALID_VALUE;
  }
  if (const char* wrong = emulator_launch(function.name.c_str(), grid, block, shared, arguments)) {
    std::fprintf(stderr, "emulator: %s\n", wrong);
    return LAUNCH_FAILED;
  }
  return SUCCESS;
}
DRIVER cuGetErrorName(Result, const char** name) { *name = "emulated error"; return SUCCESS; }
DRIVER cuGetErrorString(Result, const char** text) { *text = "an error of the emulated driver"; return SUCCESS; }
