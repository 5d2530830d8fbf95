// Nearest neighbours by looking at every point. A thread handles one query and keeps its K nearest
// points in registers.
//
// The caller defines K (neighbours) and THREADS (per block).

constexpr float MISSING = 1e10f;  // squared distance of a neighbour that does not exist

// The queries of a block belong to one cloud. Its points pass through shared memory, THREADS at a
// time. They come in the order of their indices, and a point is put before strictly farther ones
// only. So among equally near points the one with the lowest index stays first.
//   xyz: (batch, num_points, 3); queries: (batch, num_queries, 3); index, distance: (batch,
//   num_queries, K). Grid: (queries / THREADS, batch).
extern "C" __global__ void __launch_bounds__(THREADS) nearest_neighbours(
    const float* __restrict__ xyz, const float* __restrict__ queries,
    long long* __restrict__ index, float* __restrict__ distance, int num_points,
    int num_queries) {
    __shared__ float4 tile[THREADS];
    const long cloud = blockIdx.y;
    const int query = blockIdx.x * THREADS + threadIdx.x;
    const bool real = query < num_queries;
    const long row = cloud * num_queries + (real ? query : 0);
    const float px = queries[3 * row], py = queries[3 * row + 1], pz = queries[3 * row + 2];
    xyz += 3 * (long)num_points * cloud;
    float squared[K];
    int at[K];
#pragma unroll
    for (int n = 0; n < K; n++) squared[n] = MISSING, at[n] = 0;
    for (int start = 0; start < num_points; start += THREADS) {
        const int size = num_points - start < THREADS ? num_points - start : THREADS;
        __syncthreads();  // all threads have finished with the tile before
        if (threadIdx.x < size) {
            const float* p = xyz + 3 * (start + threadIdx.x);
            tile[threadIdx.x] = make_float4(p[0], p[1], p[2], 0);
        }
        __syncthreads();
        for (int j = 0; j < size; j++) {
            const float4 p = tile[j];
            const float dx = __fsub_rn(px, p.x), dy = __fsub_rn(py, p.y);
            const float dz = __fsub_rn(pz, p.z);
            const float d = __fadd_rn(__fadd_rn(__fmul_rn(dx, dx), __fmul_rn(dy, dy)),
                                      __fmul_rn(dz, dz));
            if (d < squared[K - 1]) {
#pragma unroll
                for (int n = K - 1; n > 0; n--) {
                    if (d < squared[n - 1]) {
                        squared[n] = squared[n - 1], at[n] = at[n - 1];
                    } else if (d < squared[n]) {
                        squared[n] = d, at[n] = start + j;
                    }
                }
                if (d < squared[0]) squared[0] = d, at[0] = start + j;
            }
        }
    }
    if (!real) return;
#pragma unroll
    for (int n = 0; n < K; n++) {
        index[row * K + n] = at[n];
        distance[row * K + n] = __fsqrt_rn(squared[n]);
    }
}
