// The update of a sampling step. Its noise is drawn where it is added, so that the noise never
// goes through memory.
//
// The random words and the normal numbers are those of cdm/noise.py: element e of a sample takes
// word e % 4 of the Philox4x32-10 block with counter (e / 4, step, 0, 0). The points may be in any
// order: `order` gives the original point at each place, and the noise belongs to the point.
//
// The caller defines CONTACT_DIM.

typedef unsigned int u32;

// Ten rounds of Philox4x32 (Salmon et al. 2011) on counter c with the key (k0, k1).
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

// A word as a number in (0, 1).
__device__ __forceinline__ float unit(u32 word) {
    return fmaf((float)word, 2.3283064365386963e-10f, 1.1641532182693481e-10f);
}

// x <- x0_coef pred_xstart + x_coef x + noise_coef noise(noise_step) + prev_x0_coef previous, and
// then previous <- pred_xstart if there is a `previous`. (x0_coef, x_coef, noise_coef,
// prev_x0_coef) is the row of `table` at *position, and noise_step is the entry of `noise_steps`
// there. A term whose coefficient is 0 is left out. One thread computes one point.
//   x, pred_xstart, previous: (batch, num_points, CONTACT_DIM); order: (batch, num_points);
//   keys: (batch, 2). Grid: (points / blockDim.x, batch).
extern "C" __global__ void __launch_bounds__(256) sampling_step(
    float* __restrict__ x, const float* __restrict__ pred_xstart, float* __restrict__ previous,
    const long long* __restrict__ order, const long long* __restrict__ keys,
    const float* __restrict__ table, const long long* __restrict__ noise_steps,
    const long long* __restrict__ position, int num_points) {
    const int place = blockIdx.x * blockDim.x + threadIdx.x, sample = blockIdx.y;
    if (place >= num_points) return;
    const long long row = *position;
    const float x0_coef = table[4 * row], x_coef = table[4 * row + 1];
    const float noise_coef = table[4 * row + 2], prev_x0_coef = table[4 * row + 3];
    const long at = (long)sample * num_points + place;
    const u32 k0 = (u32)keys[2 * sample], k1 = (u32)keys[2 * sample + 1];
    const u32 first = (u32)(order ? order[at] : place) * CONTACT_DIM;
    u32 words[4], drawn = ~0u;
#pragma unroll
    for (int j = 0; j < CONTACT_DIM; j++) {
        const long i = at * CONTACT_DIM + j;
        // Prediction and last x. The first row of a chain (the start) uses neither.
        float mean = x_coef == 0 ? 0 : x_coef * x[i];
        if (x0_coef != 0) mean = fmaf(x0_coef, pred_xstart[i], mean);
        if (prev_x0_coef != 0) mean = fmaf(prev_x0_coef, previous[i], mean);
        if (previous && x0_coef != 0) previous[i] = pred_xstart[i];
        // Noise: one Philox block gives the words of four elements, so draw it once for them.
        if (noise_coef != 0) {
            const u32 e = first + j;
            if (e / 4 != drawn) {
                drawn = e / 4;
                words[0] = drawn, words[1] = (u32)noise_steps[row], words[2] = words[3] = 0;
                philox(words, k0, k1);
            }
            const bool second = e & 2;
            const float radius = sqrtf(-2 * logf(unit(second ? words[2] : words[0])));
            const float angle = 6.2831853071795865f * unit(second ? words[3] : words[1]);
            mean = fmaf(noise_coef, radius * (e & 1 ? sinf(angle) : cosf(angle)), mean);
        }
        x[i] = mean;
    }
}
