// The update of a sampling step with its noise, drawn where it is added.
//
// Words and normals are those of cdm/noise.py: element e of a sample takes word e % 4 of the
// Philox4x32-10 block with counter (e / 4, step, 0, 0). Points may be in any order: `order` names
// the original point at each place, and the noise belongs to the point.

typedef unsigned int u32;

__device__ __forceinline__ void philox(u32 (&c)[4], u32 k0, u32 k1) {
#pragma unroll
    for (int i = 0; i < 10; i++) {
        const u32 high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
        const u32 high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
        c[0] = high1 ^ c[1] ^ k0, c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1, c[3] = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

__device__ __forceinline__ float unit(u32 word) {
    return fmaf((float)word, 2.3283064365386963e-10f, 1.1641532182693481e-10f);
}

// x = a pred_xstart + b x + c previous + sigma noise(noise_step), with (a, b, sigma, c) the row of
// `table` and noise_step the entry of `noise_steps` at *position; then previous = pred_xstart, where
// there is one. One thread a point.
//   x, pred_xstart, previous: (batch, num_points, CONTACT_DIM); order: (batch, num_points);
//   keys: (batch, 2).
extern "C" __global__ void __launch_bounds__(256) sampling_step(
    float* __restrict__ x, const float* __restrict__ pred_xstart, float* __restrict__ previous,
    const long long* __restrict__ order, const long long* __restrict__ keys,
    const float* __restrict__ table, const long long* __restrict__ noise_steps,
    const long long* __restrict__ position, int num_points) {
    const int place = blockIdx.x * blockDim.x + threadIdx.x, sample = blockIdx.y;
    if (place >= num_points) return;
    const long long row = *position;
    const float a = table[4 * row], b = table[4 * row + 1], sigma = table[4 * row + 2];
    const float c = table[4 * row + 3];
    const long at = (long)sample * num_points + place;
    const u32 k0 = (u32)keys[2 * sample], k1 = (u32)keys[2 * sample + 1];
    const u32 first = (u32)(order ? order[at] : place) * CONTACT_DIM;
    u32 words[4], drawn = ~0u;
#pragma unroll
    for (int j = 0; j < CONTACT_DIM; j++) {
        const long i = at * CONTACT_DIM + j;
        float mean = b == 0 ? 0 : b * x[i];  // the start overwrites whatever x holds
        if (a != 0) mean = fmaf(a, pred_xstart[i], mean);
        if (c != 0) mean = fmaf(c, previous[i], mean);
        if (previous && a != 0) previous[i] = pred_xstart[i];  // the start predicts nothing
        if (sigma != 0) {
            const u32 e = first + j;
            if (e / 4 != drawn) {
                drawn = e / 4;
                words[0] = drawn, words[1] = (u32)noise_steps[row], words[2] = words[3] = 0;
                philox(words, k0, k1);
            }
            const bool second = e & 2;
            const float radius = sqrtf(-2 * logf(unit(second ? words[2] : words[0])));
            const float angle = 6.2831853071795865f * unit(second ? words[3] : words[1]);
            mean = fmaf(sigma, radius * (e & 1 ? sinf(angle) : cosf(angle)), mean);
        }
        x[i] = mean;
    }
}
