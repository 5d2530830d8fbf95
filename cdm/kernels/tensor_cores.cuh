// Products on tensor cores (sm_80 and newer).
//
// Include elements.cuh first, with BF16 or FP16.

typedef unsigned int u32;

#if FP16
#define OPERANDS "f16.f16"
#else
#define OPERANDS "bf16.bf16"
#endif

// d += a b, 16 x 16 times 16 x 8: a and b in 16 bits, d in float. With g = lane / 4 and
// c = lane % 4, lane (g, c) holds of a the rows g and g + 8, columns 2c, 2c + 1, then rows g and
// g + 8, columns 2c + 8, 2c + 9; of b the rows 2c, 2c + 1, then 2c + 8, 2c + 9, of column g; of d
// columns 2c, 2c + 1 of row g, then of row g + 8.
__device__ __forceinline__ void mma(float (&d)[4], const uint4& a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." OPERANDS ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// Transpose an 8x8 matrix of two-byte values that is spread over the warp.
__device__ __forceinline__ u32 transpose(u32 pair) {
    u32 result;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}
