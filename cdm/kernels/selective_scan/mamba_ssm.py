"""The selective scan of the package `mamba_ssm` (state-spaces/mamba), if it is installed."""

from functools import cache


@cache
def available() -> bool:
    """Whether the package can be imported with its compiled scan.

    From release 2.3.2 on the package lacks the scan unless it was built with
    MAMBA_KEEP_CUDA_BUILD=TRUE. A wheel built for another torch fails with any error the loader
    raises. Both count as not available.
    """
    try:
        import selective_scan_cuda  # noqa: F401
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: F401
    except Exception:
        return False
    return True


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """Call `selective_scan_fn`, whose tensors have the channels first.

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
