"""The selective scan of the `mamba_ssm` package (state-spaces/mamba), where it is installed."""

from functools import cache


@cache
def available() -> bool:
    """Whether the package imports with its compiled scan.

    Releases from 2.3.2 on lack it unless built with MAMBA_KEEP_CUDA_BUILD=TRUE, and a wheel for
    another torch fails with whatever the loader raises: neither must stop us.
    """
    try:
        import selective_scan_cuda  # noqa: F401
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: F401
    except Exception:
        return False
    return True


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """`selective_scan_fn`, which is channel-first.

    Arguments and results as `cdm.kernels.selective_scan.selective_scan`, forward in time.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    def channel_first(x):
        return None if x is None else x.to(u.dtype).transpose(1, 2).contiguous()

    def parameter(x):
        return None if x is None else x.float()

    y, last_state = selective_scan_fn(
        channel_first(u), channel_first(delta), parameter(A), channel_first(B), channel_first(C),
        parameter(D), channel_first(z), parameter(delta_bias), delta_softplus,
        return_last_state=True,
    )  # fmt: skip
    return y.transpose(1, 2), last_state
