"""Orders of a point cloud along space-filling curves: the Hilbert curve and the Z-order curve.

Neighbours in the order are near each other in space, so that a scan sees points with their
surroundings.
"""

import torch


def quantise(xyz, bits=16, stretch=0.999):
    """Map each axis of a cloud onto the integers [0, 2^bits), in float32 as afford-motion does.

    Args:
        xyz: (..., num_points, dim), any unit.
        stretch: the part of the range that is used, at most 1.
    Returns:
        (..., num_points, dim) int64. An axis along which all points agree becomes 0.
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
    # Undo the rotations and reflections of the curve, bit plane by bit plane.
    axes = list(ints.unbind(-1))
    for plane in reversed(range(bits)):
        for axis in range(len(axes)):
            _exchange(axes, axis, plane)

    # Interleave the bits of the axes; the result is the Gray code of the distance.
    gray = torch.zeros_like(axes[0])
    for plane in reversed(range(bits)):
        for x in axes:
            gray = (gray << 1) | ((x >> plane) & 1)
    # Gray code to binary: each bit is the exclusive or of all bits above it and itself.
    code, shift = gray, 1
    while shift < len(axes) * bits:
        code = code ^ (code >> shift)
        shift *= 2
    return code


def hilbert_decode(code, dim, bits):
    """Inverse of `hilbert_encode`: (...) int64 codes to (..., dim) int64."""
    # The steps of `hilbert_encode`, each undone, in the opposite order.
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
    """One step of Skilling's transform, in place: it is its own inverse.

    Where bit `plane` of `axis` is set, the bits below it are inverted in axis 0; elsewhere they
    are swapped between axis 0 and `axis`.
    """
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
        code, order, inverse: (batch, num_points) int64. `code` is the distance of each point
        along the curve. `order` lists the points along the curve. `inverse` is the place of each
        point in that list, so that order[inverse] = 0, 1, 2, ...
    """
    code = hilbert_encode(quantise(xyz, bits), bits)
    return code, *_sort(code)


def z_order(xyz, bits=10):
    """Sort clouds along the Z-order (Morton) curve; arguments and result as `hilbert_order`."""
    code = z_encode(quantise(xyz, bits, stretch=1), bits)
    return code, *_sort(code)


def z_encode(ints, bits):
    """Distance along the Z-order curve: the bits of the axes interleaved, axis 0 lowest.

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
    """The order of ascending codes and its inverse. Points of equal code keep their order."""
    order = code.argsort(dim=-1, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return order, torch.empty_like(order).scatter_(-1, order, places)


def gather_points(x, order):
    """Reorder the points of every sample.

    Args:
        x: (batch, num_points, channels).
        order: (batch, num_points) int64, index of the point to put at each place.
    Returns:
        shape and dtype of x.
    """
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
