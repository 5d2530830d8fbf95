"""Time the point operators of a Point Transformer, all five levels, beside plain torch.

    python benchmarks/point_operators.py             # 32 clouds of 8192 points on a GPU, else 1

The baseline is what one writes without kernels: farthest points by a loop of torch operations, and
neighbours by `torch.cdist` and `topk`. Both take turns. Beside them the whole scene model, and what
PointTrans prepares once per map.
"""

import argparse
import statistics
import time

import torch

from cdm.kernels.farthest_points import farthest_points
from cdm.kernels.farthest_points.naive import farthest_points as loop_of_farthest_points
from cdm.kernels.nearest_neighbours import nearest_neighbours
from cdm.model.point_order import gather_points
from cdm.model.point_transformer import NEIGHBOURS, NUM_NEIGHBOURS, STRIDE, folded
from cdm.model.scene_model import PointTransformerSeg


def plain_neighbours(xyz, queries, k):
    """`nearest_neighbours` by a matrix of all distances."""
    distance, index = torch.cdist(queries, xyz).topk(k, largest=False)
    return index, distance


def searches(levels):
    """(points, queries, k) of every search: own level, groups, interpolation."""
    for number, (xyz, k) in enumerate(zip(levels, NEIGHBOURS, strict=True)):
        yield xyz, xyz, k
        if number > 0:
            yield levels[number - 1], xyz, k
            yield xyz, levels[number - 1], NUM_NEIGHBOURS


def main():
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--clouds", type=int, default=32 if cuda else 1)
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    xyz = (4 * torch.rand(options.clouds, options.points, 3)).to(options.device)
    levels = [xyz]
    for _ in NEIGHBOURS[1:]:
        taken = farthest_points(levels[-1], levels[-1].shape[1] // STRIDE)
        levels.append(gather_points(levels[-1], taken))
    scene_model = folded(PointTransformerSeg(6)).eval().to(options.device)

    def thin_out(farthest):
        return [farthest(points, points.shape[1] // STRIDE) for points in levels[:-1]]

    def search(neighbours):
        return [neighbours(*arguments)[0] for arguments in searches(levels)]

    variants = {
        ("farthest points", "ours"): lambda: thin_out(farthest_points),
        ("farthest points", "plain"): lambda: thin_out(loop_of_farthest_points),
        ("neighbours", "ours"): lambda: search(nearest_neighbours),
        ("neighbours", "plain"): lambda: search(plain_neighbours),
        ("geometry of all levels", "ours"): lambda: scene_model.geometry(xyz),
        ("scene model", "ours"): lambda: scene_model(xyz, xyz),
    }
    seconds = {name: [] for name in variants}
    with torch.inference_mode():
        for operator in ("farthest points", "neighbours"):
            ours, plain = (variants[operator, by]() for by in ("ours", "plain"))
            equal = sum((a == b).sum().item() for a, b in zip(ours, plain, strict=True))
            share = equal / sum(a.numel() for a in ours)
            print(f"{operator}: {100 * share:.3f} % of the indices agree")
        for _ in range(1 + options.rounds):
            for name, run in variants.items():
                _wait(options.device)
                started = time.perf_counter()
                run()
                _wait(options.device)
                seconds[name].append(time.perf_counter() - started)

    where = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"{options.clouds} clouds of {options.points} points, {where}, torch {torch.__version__}")
    median = {name: 1e3 * statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"{'':24}{'ours ms':>10}{'plain ms':>10}{'ratio':>8}")
    for name in dict.fromkeys(operator for operator, _ in variants):
        ours, plain = median[name, "ours"], median.get((name, "plain"))
        rest = f"{plain:10.1f}{plain / ours:8.1f}" if plain else ""
        print(f"{name:24}{ours:10.1f}{rest}")


def _wait(device):
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
