"""Time the selective scan's CPU backends side by side, in one run.

Prints median and minimum milliseconds for one direction, and the ratio to the naive loop. The
variants take turns, so that a machine whose speed drifts treats them alike.
"""

import argparse
import statistics
import time

import torch

from cdm.kernels.selective_scan import selective_scan


def loop_over_materialised(u, delta, A, B, C, D):
    """The loop as Mamba's published code has it: channels first, all exp(delta A) made before."""
    u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
    delta_A = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    delta_B_u = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    h = delta_A.new_zeros(*delta_A.shape[:2], delta_A.shape[3])
    y = []
    for t in range(u.shape[2]):
        h = delta_A[:, :, t] * h + delta_B_u[:, :, t]
        y.append(torch.einsum("bdn,bn->bd", h, C[:, :, t]))
    return (torch.stack(y, dim=2) + u * D[:, None]).transpose(1, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=4, default=[1, 512, 16, 8192],
                        metavar=("BATCH", "D_INNER", "D_STATE", "LENGTH"))  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    batch, d_inner, d_state, length = options.shape
    torch.manual_seed(0)
    u = torch.randn(batch, length, d_inner)
    delta = torch.rand(batch, length, d_inner) / 2
    A = -8 * torch.rand(d_inner, d_state)
    B, C = torch.randn(2, batch, length, d_state)
    inputs = [u, delta, A, B, C, torch.randn(d_inner)]
    variants = {"published loop": lambda: loop_over_materialised(*inputs)}
    for backend in ("naive", "chunked", "numba"):
        variants[backend] = lambda backend=backend: selective_scan(*inputs, backend=backend)

    seconds = {name: [] for name in variants}
    with torch.inference_mode():
        expected = variants["naive"]()
        for name, run in variants.items():  # warm up, and agree
            torch.testing.assert_close(run(), expected, rtol=1e-3, atol=1e-3, msg=name)
        for _ in range(options.rounds):
            for name, run in variants.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)

    print(f"shape {tuple(options.shape)}, {options.threads} threads, torch {torch.__version__}")
    print(f"{'':16}{'median ms':>10}{'min ms':>10}{'naive /':>10}{'published /':>13}")
    median = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        ratios = [median[other] / median[name] for other in ("naive", "published loop")]
        print(f"{name:16}{median[name]:10.1f}{1e3 * min(values):10.1f}"
              f"{ratios[0]:10.1f}{ratios[1]:13.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
