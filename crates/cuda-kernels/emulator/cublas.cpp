// A stand-in for cuBLAS (libcublas.so.12), as driver.cpp is one for the driver: the functions that our host code calls, on
// memory of the stand-in driver. Stricter than the original: what a product reads and writes must lie within allocations,
// and a stream and a workspace must have been given to the handle since the last call that takes them away.
//
// Environment: EMULATED_CUBLAS_CREATE (what cublasCreate answers, default 0), EMULATED_CUBLAS_FAIL ("n status": what the
// n-th product of the process answers, from 0), EMULATED_CUBLAS_MS (milliseconds that a product takes longer).
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda.h"
// After the language.
#include "numeric.cuh"

namespace {

// cublas_api.h's cublasStatus_t.
enum Status { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, F16 = 2, COMPUTE_32F = 68 };

struct Handle {
  void* stream = nullptr;
  void* workspace = nullptr;
  size_t bytes = 0;
};

std::mutex lock;
long products = 0;

// Of the stand-in driver, which is loaded by now.
using Inside = int (*)(unsigned long long, size_t);
Inside inside() {
  static const Inside found = [] {
    void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    return driver ? reinterpret_cast<Inside>(dlsym(driver, "emulated_inside")) : nullptr;
  }();
  return found;
}
bool inside(const void* at, size_t bytes) {
  const Inside known = inside();
  if (known && known(reinterpret_cast<unsigned long long>(at), bytes)) return true;
  std::fprintf(stderr, "emulator: a product of cuBLAS touches %zu bytes at %p, not all of them allocated\n", bytes, at);
  return false;
}

// A column-major matrix of one of the products.
struct Matrix {
  int rows, columns, pitch;
  size_t values() const { return size_t(columns - 1) * pitch + rows; }
};

}  // namespace

#define CUBLAS extern "C" __attribute__((visibility("default"))) Status

CUBLAS cublasGetProperty(int type, int* value) {
  *value = type == 0 ? 12 : 0;
  return SUCCESS;
}
CUBLAS cublasCreate_v2(void** handle) {
  const char* answer = std::getenv("EMULATED_CUBLAS_CREATE");
  if (answer && std::atoi(answer)) return Status(std::atoi(answer));
  *handle = new Handle;
  return SUCCESS;
}
CUBLAS cublasDestroy_v2(void* handle) {
  delete static_cast<Handle*>(handle);
  return SUCCESS;
}
CUBLAS cublasSetStream_v2(void* handle, void* stream) {
  *static_cast<Handle*>(handle) = {stream, nullptr, 0};
  return SUCCESS;
}
CUBLAS cublasSetWorkspace_v2(void* handle, void* workspace, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(workspace) % 256) return INVALID_VALUE;
  static_cast<Handle*>(handle)->workspace = workspace;
  static_cast<Handle*>(handle)->bytes = bytes;
  return SUCCESS;
}
CUBLAS cublasSetMathMode(void*, int mode) { return mode == 0 || mode == 16 ? SUCCESS : INVALID_VALUE; }

// C [m, n] = alpha op(A) op(B) + beta C, down columns, f16 factors and f32 sums, as our host code asks for it.
CUBLAS cublasGemmStridedBatchedEx(void* handle, int ta, int tb, int m, int n, int k, const float* alpha, const void* a,
                                  int a_type, int a_pitch, long long a_stride, const void* b, int b_type, int b_pitch,
                                  long long b_stride, const float* beta, void* c, int c_type, int c_pitch,
                                  long long c_stride, int count, int compute, int) {
  std::lock_guard<std::mutex> guard(lock);
  if (const char* fail = std::getenv("EMULATED_CUBLAS_FAIL")) {
    long at = 0;
    int status = 0;
    if (std::sscanf(fail, "%ld %d", &at, &status) == 2 && products++ == at) return Status(status);
  }
  if (const char* ms = std::getenv("EMULATED_CUBLAS_MS"))
    std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(ms)));
  const Handle& of = *static_cast<Handle*>(handle);
  if (!of.stream || !of.workspace || !inside(of.workspace, of.bytes)) return INVALID_VALUE;
  if (a_type != F16 || b_type != F16 || c_type != F32 || compute != COMPUTE_32F) return NOT_SUPPORTED;
  const Matrix am = ta ? Matrix{k, m, a_pitch} : Matrix{m, k, a_pitch};
  const Matrix bm = tb ? Matrix{n, k, b_pitch} : Matrix{k, n, b_pitch};
  const Matrix cm{m, n, c_pitch};
  for (const Matrix& matrix : {am, bm, cm})
    if (matrix.rows < 1 || matrix.columns < 1 || matrix.pitch < matrix.rows || count < 1) return INVALID_VALUE;
  if (!inside(a, 2 * ((count - 1) * a_stride + am.values())) || !inside(b, 2 * ((count - 1) * b_stride + bm.values())) ||
      !inside(c, 4 * ((count - 1) * c_stride + cm.values())))
    return INVALID_VALUE;
  // What a workspace holds is anybody's guess.
  std::memset(of.workspace, 0xff, of.bytes);
  std::vector<float> left(size_t(m) * k), right(size_t(k) * n);
  for (int at = 0; at < count; at++) {
    const f16* av = static_cast<const f16*>(a) + at * a_stride;
    const f16* bv = static_cast<const f16*>(b) + at * b_stride;
    float* cv = static_cast<float*>(c) + at * c_stride;
    for (int i = 0; i < m; i++)
      for (int l = 0; l < k; l++)
        left[size_t(i) * k + l] = to_f32(av[ta ? size_t(i) * a_pitch + l : size_t(l) * a_pitch + i]);
    for (int j = 0; j < n; j++)
      for (int l = 0; l < k; l++)
        right[size_t(j) * k + l] = to_f32(bv[tb ? size_t(l) * b_pitch + j : size_t(j) * b_pitch + l]);
    for (int j = 0; j < n; j++)
      for (int i = 0; i < m; i++) {
        float sum = 0.0f;
        for (int l = 0; l < k; l++) sum += left[size_t(i) * k + l] * right[size_t(j) * k + l];
        float& to = cv[size_t(j) * c_pitch + i];
        to = *alpha * sum + (*beta == 0.0f ? 0.0f : *beta * to);
      }
  }
  return SUCCESS;
}
