"""The selective scan for CPUs, compiled by numba (float32).

A block is WIDTH channels, one or two vector registers wide. It takes a tile of TILE steps at a
time, so that its states stay in the L1 cache, while the tile's inputs wait in L2 for the next
block. What needs no state (delta, delta * u, D * u) is made for all channels of a tile at once,
because loops over many channels become better vector code than loops over WIDTH. Every channel goes
through the same operations, whatever the batch or the number of threads; so the result does not
depend on these.
"""

from functools import cache

import numpy as np
import torch

from cdm.kernels.threads import map_threads
from cdm.kernels.vector_math import (
    LOG2_E,
    compile_kernel,
    copy_vector,
    exp2,
    inline,
    silu,
    softplus,
    use_widest_vectors,
)

WIDTH = 16  # channels of a block
TILE = 64  # steps that a block takes at a time
UNROLL = 4  # states per pass: enough independent work to hide the latency of exp2


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """Arguments and results as `cdm.kernels.selective_scan.selective_scan`."""
    batch, _, d_inner = u.shape
    d_state = A.shape[1]
    zeros = u.new_zeros(d_inner)
    D = zeros if D is None else D
    delta_bias = zeros if delta_bias is None else delta_bias
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    last_state = u.new_empty(batch, d_inner, d_state)

    gate = u if z is None else z
    arrays = [_numpy(x) for x in (u, delta, A, B, C, D, gate, delta_bias, y, last_state)]
    kernel = _compile(-(-d_state // UNROLL) * UNROLL)

    def scan(first, end):
        kernel(*arrays, first, end, z is not None, delta_softplus, reverse)

    num_blocks = batch * -(-d_inner // WIDTH)
    num_tasks = min(torch.get_num_threads(), num_blocks)
    edges = [num_blocks * i // num_tasks for i in range(num_tasks + 1)]
    map_threads(scan, edges[:-1], edges[1:])
    return y, last_state


def _numpy(x):
    return x.detach().contiguous().numpy()


@inline
def _places(d_state):
    """The first row of h, and those of delta, delta * u and y, among the rows of a block.

    The rows of a block are an array `s`, WIDTH wide: d_state rows of log2(e) A, d_state rows of h,
    then one row each of the others. They are one array, because LLVM then knows that they do not
    overlap. States that do not exist stay zero. Channels that do not exist are computed like the
    others, of any numbers, and nothing reads what they become.
    """
    return d_state, 2 * d_state, 2 * d_state + 1, 2 * d_state + 2


@inline
def _begin(s, A, start):
    """Fill the rows of the block whose first channel is `start`: log2(e) A, and states of zero."""
    s[:] = np.float32(0)
    for c in range(min(WIDTH, A.shape[0] - start)):
        for n in range(A.shape[1]):
            s[n, c] = A[start + c, n] * LOG2_E


@inline
def _prepare(delta_i, delta_u, y_i, u_t, delta_t, delta_bias, D, plus):
    """delta, delta * u, and D u, which y begins with, of all channels at one step."""
    for c in range(len(u_t)):
        delta_i[c] = delta_t[c] + delta_bias[c]
    if plus:
        for c in range(len(u_t)):
            delta_i[c] = softplus(delta_i[c])
    for c in range(len(u_t)):
        delta_u[c] = delta_i[c] * u_t[c]
    for c in range(len(u_t)):
        y_i[c] = D[c] * u_t[c]


@inline
def _step(s, b_row, c_row, d_state):
    """One step of a block: h <- exp(delta A) h + delta u B and y <- y + <h, C>."""
    H, DELTA, DELTA_U, Y = _places(d_state)
    for n in range(0, d_state, UNROLL):
        b0, b1, b2, b3 = b_row[n], b_row[n + 1], b_row[n + 2], b_row[n + 3]
        c0, c1, c2, c3 = c_row[n], c_row[n + 1], c_row[n + 2], c_row[n + 3]
        for c in range(WIDTH):
            delta_c, delta_u = s[DELTA, c], s[DELTA_U, c]
            h0 = exp2(delta_c * s[n, c]) * s[H + n, c] + delta_u * b0
            h1 = exp2(delta_c * s[n + 1, c]) * s[H + n + 1, c] + delta_u * b1
            h2 = exp2(delta_c * s[n + 2, c]) * s[H + n + 2, c] + delta_u * b2
            h3 = exp2(delta_c * s[n + 3, c]) * s[H + n + 3, c] + delta_u * b3
            s[H + n, c] = h0
            s[H + n + 1, c] = h1
            s[H + n + 2, c] = h2
            s[H + n + 3, c] = h3
            s[Y, c] += (h0 * c0 + h1 * c1) + (h2 * c2 + h3 * c3)


@inline
def _finish(y_t, y_i, z_t, gated):
    """y of all channels at one step, with the gate if there is one."""
    if gated:
        for c in range(len(y_t)):
            y_t[c] = y_i[c] * silu(z_t[c])
    else:
        for c in range(len(y_t)):
            y_t[c] = y_i[c]


@inline
def _keep_states(last_state, rows, d_state):
    """The states after the last step, from the rows of all blocks: (channels, states)."""
    H = _places(d_state)[0]
    for c in range(last_state.shape[0]):
        for n in range(last_state.shape[1]):
            last_state[c, n] = rows[c // WIDTH, H + n, c % WIDTH]


@cache
def _compile(d_state):
    """The kernel for a number of states that is a multiple of UNROLL."""

    def scan(u, delta, A, B, C, D, z, delta_bias, y, last_state, first, end, gated, plus, reverse):
        use_widest_vectors()
        length, d_inner = u.shape[1:]
        given = A.shape[1]
        _, DELTA, DELTA_U, Y = _places(d_state)
        num_blocks = (d_inner + WIDTH - 1) // WIDTH
        num_own = min(end - first, num_blocks)  # blocks of one sample
        rows = np.zeros((num_own, 2 * d_state + 3, WIDTH), np.float32)
        # Of a tile's steps: B and C, and what `_prepare` makes.
        b_rows = np.zeros((TILE, d_state), np.float32)
        c_rows = np.zeros((TILE, d_state), np.float32)
        tile = np.zeros((3, TILE, num_own * WIDTH), np.float32)
        deltas, deltas_u, ys = tile[0], tile[1], tile[2]

        # The blocks first to end, counted through the batch: sample b has blocks low to high.
        for b in range(first // num_blocks, (end - 1) // num_blocks + 1):
            low = max(first - b * num_blocks, 0)
            high = min(end - b * num_blocks, num_blocks)
            begin_c, end_c = low * WIDTH, min(high * WIDTH, d_inner)
            bias_c, D_c = delta_bias[begin_c:end_c], D[begin_c:end_c]
            for k in range(low, high):
                _begin(rows[k - low], A, k * WIDTH)

            for start_i in range(0, length, TILE):
                # What the tile's steps need, in the order of the walk.
                stop_i = min(start_i + TILE, length)
                for i in range(start_i, stop_i):
                    t = length - 1 - i if reverse else i
                    row = i - start_i
                    for n in range(given):
                        b_rows[row, n] = B[b, t, n]
                        c_rows[row, n] = C[b, t, n]
                    u_t, delta_t = u[b, t, begin_c:end_c], delta[b, t, begin_c:end_c]
                    _prepare(deltas[row], deltas_u[row], ys[row], u_t, delta_t, bias_c, D_c, plus)

                # The tile's steps, block after block.
                for k in range(high - low):
                    s = rows[k]
                    for row in range(stop_i - start_i):
                        at = (row * num_own + k) * WIDTH
                        copy_vector(s, DELTA * WIDTH, deltas, at, WIDTH)
                        copy_vector(s, DELTA_U * WIDTH, deltas_u, at, WIDTH)
                        copy_vector(s, Y * WIDTH, ys, at, WIDTH)
                        _step(s, b_rows[row], c_rows[row], d_state)
                        copy_vector(ys, at, s, Y * WIDTH, WIDTH)

                # What the tile gives.
                for i in range(start_i, stop_i):
                    t = length - 1 - i if reverse else i
                    _finish(y[b, t, begin_c:end_c], ys[i - start_i], z[b, t, begin_c:end_c], gated)
            _keep_states(last_state[b, begin_c:end_c], rows, d_state)

    return compile_kernel(scan)
