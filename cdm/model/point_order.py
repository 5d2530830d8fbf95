"""Orders of a point cloud along a space-filling curve."""

import torch


def quantise(xyz, bits=16, stretch=0.999):
    """Map each axis of a cloud onto the integers [0, 2^bits), in float32 as the reference does.

    Args:
        xyz: (..., num_points, dim), any unit.
        stretch: part of the range that is used.
    Returns:
        (..., num_points, dim) int64; an axis without extent becomes 0.
    """
    xyz = xyz.float()
    low = xyz.amin(dim=-2, keepdim=True)
    high = xyz.amax(dim=-2, keepdim=True)
    unit = (xyz - low) / (high - low + 1e-8)
    return (unit * stretch * (2**bits - 1)).long()


def hilbert_encode(ints, bits):
    """Distance along the Hilbert curve (Skilling 2004, "Programming the Hilbert curve").

    Args:
        ints: (..., dim) int64 in [0, 2^bits), with dim * bits < 64.
    Returns:
        code: (...) int64 in [0, 2^(dim * bits)).
    """
    axes = list(ints.unbind(-1))
    for plane in reversed(range(bits)):
        for axis in range(len(axes)):
            _exchange(axes, axis, plane)

    gray = torch.zeros_like(axes[0])
    for plane in reversed(range(bits)):
        for x in axes:
            gray = (gray << 1) | ((x >> plane) & 1)
    code, shift = gray, 1
    while shift < len(axes) * bits:  # running exclusive or, from the top
        code = code ^ (code >> shift)
        shift *= 2
    return code


def hilbert_decode(code, dim, bits):
    """Inverse of `hilbert_encode`: (...) int64 codes to (..., dim) int64."""
    gray = code ^ (code >> 1)
    axes = [torch.zeros_like(code) for _ in range(dim)]
    for plane in range(bits):
        for axis in range(dim):
            bit = (gray >> (plane * dim + dim - 1 - axis)) & 1
            axes[axis] = axes[axis] | (bit << plane)

    for plane in range(bits):
        for axis in reversed(range(dim)):
            _exchange(axes, axis, plane)
    return torch.stack(axes, dim=-1)


def _exchange(axes, axis, plane):
    """Invert the lower bits of axis 0, or swap them with those of `axis`; its own inverse."""
    lower = (1 << plane) - 1
    inverted = (axes[axis] >> plane) & 1 == 1
    differing = (axes[0] ^ axes[axis]) & lower
    first = torch.where(inverted, axes[0] ^ lower, axes[0] ^ differing)
    if axis > 0:
        axes[axis] = torch.where(inverted, axes[axis], axes[axis] ^ differing)
    axes[0] = first


def hilbert_order(xyz, bits=16):
    """Sort clouds along the Hilbert curve; points of equal code keep their order.

    Args:
        xyz: (batch, num_points, 3), metres.
    Returns:
        code, order, inverse: (batch, num_points) int64. `order` lists point indices along the
        curve; `inverse` is the place of each point in it: order[inverse] = 0, 1, 2, ...
    """
    code = hilbert_encode(quantise(xyz, bits), bits)
    return code, *_sort(code)


def z_order(xyz, bits=10):
    """Sort clouds along the Z-order (Morton) curve; arguments and result as `hilbert_order`."""
    code = z_encode(quantise(xyz, bits, stretch=1), bits)
    return code, *_sort(code)


def z_encode(ints, bits):
    """Distance along the Z-order curve: bits interleaved, axis 0 lowest.

    Args:
        ints: (..., dim) int64 in [0, 2^bits), with dim * bits < 64.
    Returns:
        code: (...) int64 in [0, 2^(dim * bits)).
    """
    dim = ints.shape[-1]
    code = torch.zeros_like(ints[..., 0])
    for plane in range(bits):
        for axis in range(dim):
            code = code | ((ints[..., axis] >> plane) & 1) << (plane * dim + axis)
    return code


def _sort(code):
    """The stable order of codes and its inverse."""
    order = code.argsort(dim=-1, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return order, torch.empty_like(order).scatter_(-1, order, places)


def gather_points(x, order):
    """Reorder (batch, num_points, channels) by (batch, num_points) indices."""
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
