// Tensor-core products and the copies that feed them, as thin functions (PTX ISA 7.0, sm_80).
#pragma once
#include "numeric.cuh"

#ifdef EMULATOR

// A place in shared memory.
using SharedAt = unsigned char*;
inline SharedAt shared_at(unsigned char* at) { return at; }
// Lane l gets, of each of the four 8 x 8 matrices whose rows start at lanes 8 j .. 8 j + 7's addresses, the two values
// in row l / 4 from column 2 (l % 4) on.
inline void load_matrices(unsigned (&to)[4], SharedAt at) {
  const f16* row = reinterpret_cast<const f16*>(at);
  if ((uintptr_t)row % 16) emulator::fail("ldmatrix from an address that is not a multiple of 16");
  struct Four { unsigned r[4]; };
  const unsigned lane = emulator::lane();
  Four four = emulator::exchange(row, [=](auto rows) {
    Four four;
    for (unsigned j = 0; j < 4; j++) std::memcpy(&four.r[j], rows[8 * j + lane / 4] + 2 * (lane % 4), 4);
    return four;
  });
  std::memcpy(to, four.r, sizeof to);
  __syncwarp();  // nobody may overwrite the rows before all have read
}
// The same of the transposed matrices.
inline void load_matrices_transposed(unsigned (&to)[4], SharedAt at) {
  const f16* row = reinterpret_cast<const f16*>(at);
  if ((uintptr_t)row % 16) emulator::fail("ldmatrix from an address that is not a multiple of 16");
  struct Four { unsigned r[4]; };
  const unsigned lane = emulator::lane();
  Four four = emulator::exchange(row, [=](auto rows) {
    Four four;
    for (unsigned j = 0; j < 4; j++) {
      const unsigned first = 8 * j + 2 * (lane % 4);
      four.r[j] = rows[first][lane / 4].bits | (unsigned)rows[first + 1][lane / 4].bits << 16;
    }
    return four;
  });
  std::memcpy(to, four.r, sizeof to);
  __syncwarp();
}
// sum += A B for A [16, 16] and B [16, 8] in the fragments of mma.m16n8k16.
inline void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Fragments { unsigned a[4], b[2]; };
  struct Sums { float v[4]; };
  const unsigned lane = emulator::lane();
  Sums result = emulator::exchange(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](auto all) {
    Sums sums{{sum[0], sum[1], sum[2], sum[3]}};
    for (unsigned owner = 0; owner < 4; owner++) {
      const Fragments rows = all[lane / 4 * 4 + owner];
      const Fragments columns[2] = {all[2 * (lane % 4) * 4 + owner], all[(2 * (lane % 4) + 1) * 4 + owner]};
      for (unsigned k = 0; k < 4; k++) {
        const unsigned high = k / 2, shift = 16 * (k % 2);
        auto half = [=](unsigned pair) { return to_f32(f16{(unsigned short)(pair >> shift)}); };
        const float upper = half(rows.a[2 * high]), lower = half(rows.a[2 * high + 1]);
        for (unsigned n = 0; n < 2; n++) {
          const float b = half(columns[n].b[high]);
          sums.v[n] += upper * b;
          sums.v[2 + n] += lower * b;
        }
      }
    }
    return sums;
  });
  std::memcpy(sum, result.v, sizeof sum);
}
inline void copy_whole(SharedAt shared, const void* global) { emulator::copy_async(shared, global, 16); }
inline void copy_part(SharedAt shared, const void* global, int bytes) { emulator::copy_async(shared, global, bytes); }
inline void copy_commit() { emulator::copy_commit(); }
template <int PENDING> inline void copy_wait() { emulator::copy_wait(PENDING); }

#else

// A place in shared memory as a number, which is added to more easily than a pointer.
using SharedAt = unsigned;
__device__ __forceinline__ SharedAt shared_at(const void* at) {
  SharedAt address;
  asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(at));
  return address;
}
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], SharedAt row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], SharedAt row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
}
__device__ __forceinline__ void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void copy_whole(SharedAt shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
// The first `bytes` of 16, and zeros.
__device__ __forceinline__ void copy_part(SharedAt shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#endif
