"""The selective scan for CPUs, compiled by numba (float32).

A block is WIDTH channels, one or two vector registers wide. It takes a tile of TILE steps at a
time, so that its states stay in the L1 cache, while the tile's inputs wait in L2 for the next
block. Every channel goes through the same operations, whatever the batch or the number of
threads; so the result does not depend on these.
"""

from functools import cache

import numpy as np
import torch

from cdm.kernels.threads import map_threads
from cdm.kernels.vector_math import LOG2_E, compile_kernel, exp2, inline, silu, softplus

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
    """The first row of h, of delta, of delta * u and of y among the rows of a block.

    The rows of a block are an array `s`, WIDTH wide: d_state rows of log2(e) A, d_state rows of h,
    then one row each of delta, delta * u and y. They are one array, because LLVM then knows that
    they do not overlap. Channels and states that do not exist stay zero.
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
def _step(s, u_t, delta_t, delta_bias, D, b_row, c_row, start, width, plus, d_state):
    """One step of a block: h <- exp(delta A) h + delta u B and y = <h, C> + D u."""
    H, DELTA, DELTA_U, Y = _places(d_state)

    # delta, delta * u, and D u, which y begins with.
    for c in range(width):
        s[DELTA, c] = delta_t[c] + delta_bias[start + c]
    if plus:
        for c in range(width):
            s[DELTA, c] = softplus(s[DELTA, c])
    for c in range(width):
        s[DELTA_U, c] = s[DELTA, c] * u_t[c]
        s[Y, c] = D[start + c] * u_t[c]

    # The recurrence, UNROLL states at a time.
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


@cache
def _compile(d_state):
    """The kernel for a number of states that is a multiple of UNROLL."""

    def scan(u, delta, A, B, C, D, z, delta_bias, y, last_state, first, end, gated, plus, reverse):
        length, d_inner = u.shape[1:]
        given = A.shape[1]
        H, _, _, Y = _places(d_state)
        num_blocks = (d_inner + WIDTH - 1) // WIDTH
        rows = np.zeros((min(end - first, num_blocks), 2 * d_state + 3, WIDTH), np.float32)
        b_rows = np.zeros((TILE, d_state), np.float32)
        c_rows = np.zeros((TILE, d_state), np.float32)

        # The blocks first to end, counted through the batch: sample b has blocks low to high.
        for b in range(first // num_blocks, (end - 1) // num_blocks + 1):
            low = max(first - b * num_blocks, 0)
            high = min(end - b * num_blocks, num_blocks)
            for k in range(low, high):
                _begin(rows[k - low], A, k * WIDTH)

            for start_i in range(0, length, TILE):
                # The rows of B and C of this tile, in the order of the walk.
                stop_i = min(start_i + TILE, length)
                for i in range(start_i, stop_i):
                    t = length - 1 - i if reverse else i
                    for n in range(given):
                        b_rows[i - start_i, n] = B[b, t, n]
                        c_rows[i - start_i, n] = C[b, t, n]

                # The tile's steps, block after block.
                for k in range(low, high):
                    s = rows[k - low]
                    start = k * WIDTH
                    width = min(WIDTH, d_inner - start)
                    for i in range(start_i, stop_i):
                        t = length - 1 - i if reverse else i
                        u_t = u[b, t, start : start + width]
                        delta_t = delta[b, t, start : start + width]
                        b_row, c_row = b_rows[i - start_i], c_rows[i - start_i]
                        _step(
                            s, u_t, delta_t, delta_bias, D, b_row, c_row, start, width, plus,
                            d_state,
                        )  # fmt: skip
                        y_t = y[b, t, start : start + width]
                        if gated:
                            z_t = z[b, t, start : start + width]
                            for c in range(width):
                                y_t[c] = s[Y, c] * silu(z_t[c])
                        else:
                            for c in range(width):
                                y_t[c] = s[Y, c]

            # The states after the last step.
            for k in range(low, high):
                for c in range(min(WIDTH, d_inner - k * WIDTH)):
                    for n in range(given):
                        last_state[b, k * WIDTH + c, n] = rows[k - low, H + n, c]

    return compile_kernel(scan)
