"""Maps as a training set: does a second stage learn the same from the fast sampler's maps?

    python benchmarks/few_steps/training_set.py --full outputs/full/contact_maps.zarr \\
        --again outputs/again/contact_maps.zarr --fast outputs/fast/contact_maps.zarr \\
        --json training_set.json

The archives hold maps of the same items, made by three runs. `again` is a second run of the full
chain with another seed: how much it differs from the first is what chance alone does. The
true maps come from the dataset of the first archive, so run this in the working folder of the runs.

A small PointNet (Qi et al. 2017) is trained to tell the true pelvis position from a map: a point's
coordinates and its contact with each joint go in, the position in metres comes out. One is trained
on each kind of maps of three quarters of the items, and tested on all kinds of maps of the others.
If the two samplers' maps are one distribution, rows and columns of `full` and `fast` differ no more
than those of `full` and `again`.

An item's error is its mean over maps and seeds. Intervals are bootstrap intervals over test items.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cdm.archive.reader import ContactMaps
from cdm.config import Config, load_config
from cdm.contact import contact_from_distance
from cdm.datasets import FileReader, Sample
from cdm.datasets.base import evenly_spread
from cdm.evaluation.bootstrap import bootstrap
from cdm.evaluation.measure import joint_names, read_truth
from cdm.run.dataset import open_dataset

KINDS = ("full", "again", "fast", "truth")
SAMPLED = KINDS[:-1]  # those that an archive holds
BATCH, LEARNING_RATE = 64, 1e-3
HELD_OUT = 4  # one item of so many is tested


class PointNet(nn.Module):
    """Position (batch, 3) from points (batch, num_points, 3) and contact (..., contact_dim)."""

    def __init__(self, contact_dim: int, width: int = 128):
        super().__init__()
        self.points = nn.Sequential(
            *(nn.Linear(3 + contact_dim, width), nn.GELU()),
            *(nn.Linear(width, width), nn.GELU()),
            nn.Linear(width, 2 * width),
        )
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 3))

    def forward(self, xyz, contact):
        return self.head(self.points(torch.cat([xyz, contact], dim=-1)).amax(dim=1))


def read(options) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Items that both archives have.

    Returns:
        xyz: (items, points, 3) metres, each cloud about its own centre.
        contact: kind -> (items, k, points, contact_dim); k is 1 for the truth.
        pelvis: (items, 3) metres, about the same centre.
    """
    # The items, and where the true maps come from.
    archives = {kind: ContactMaps(getattr(options, kind)) for kind in SAMPLED}
    with_maps = {k: {a.keys[r] for r in a.rows_with_maps()} for k, a in archives.items()}
    first = {}  # one caption of each item
    for key in archives["full"].keys:
        if all(key in keys for keys in with_maps.values()):
            first.setdefault(key[:2], key)
    keys = evenly_spread(list(first.values()), options.items)
    config = load_config(archives["full"].attributes["config"])

    # The truth, which takes longest; and where some of the points are, at random.
    parts = [keys[start :: os.cpu_count()] for start in range(os.cpu_count())]
    with ProcessPoolExecutor() as pool:
        truths = dict(pair for part in pool.map(truth_of, repeat(config), parts) for pair in part)
    rng = np.random.default_rng(0)
    found = {kind: [] for kind in KINDS}
    positions, clouds = [], []
    for key in keys:
        xyz, contact, pelvis = truths[key]
        some = rng.permutation(len(xyz))[: options.points]
        centre = xyz.mean(axis=0)
        positions.append(pelvis - centre)
        clouds.append(xyz[some] - centre)
        found["truth"].append(contact[some][None])
        for kind, archive in archives.items():
            found[kind].append(archive.contact(*key)[:, some])
    contact = {kind: torch.from_numpy(np.stack(maps)).float() for kind, maps in found.items()}
    return (
        torch.from_numpy(np.stack(clouds)).float(),
        {kind: maps.to(options.device) for kind, maps in contact.items()},
        torch.from_numpy(np.stack(positions)).float(),
    )


def truth_of(config: Config, keys: list[tuple[str, str, int]]) -> list[tuple]:
    """(key, (xyz, contact, pelvis)) of some items, all of them in metres but the contact."""
    dataset, reader = open_dataset(config, 0), FileReader(config.data_dir)
    column = joint_names(config.dataset).index("0")  # the pelvis
    raw = config.dataset.use_raw_dist, config.dataset.sigma
    found = []
    for key in keys:
        truth = read_truth(dataset, Sample(*key, ""), reader)
        pelvis = truth.xyz[truth.distance[:, column].argmin()]
        found.append((key, (truth.xyz, contact_from_distance(truth.distance, *raw), pelvis)))
    return found


def train(xyz, contact, pelvis, seed: int, steps: int) -> PointNet:
    """A PointNet trained on maps of the given items; clouds are turned about the z axis."""
    torch.manual_seed(seed)
    device = xyz.device
    model = PointNet(contact.shape[-1]).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps)
    for _ in range(steps):
        items = torch.randint(len(xyz), (BATCH,), device=device)
        maps = contact[items, torch.randint(contact.shape[1], (BATCH,), device=device)]
        turn = rotations(BATCH, device)
        found = model(xyz[items] @ turn, maps)
        loss = nn.functional.smooth_l1_loss(found, (pelvis[items, None] @ turn)[:, 0], beta=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def rotations(count: int, device) -> torch.Tensor:
    """Random rotations about the z axis: (count, 3, 3)."""
    angle = 2 * torch.pi * torch.rand(count, device=device)
    turn = torch.zeros(count, 3, 3, device=device)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 0, 1], turn[:, 1, 0], turn[:, 2, 2] = angle.sin(), -angle.sin(), 1
    return turn


@torch.inference_mode()
def errors(model, xyz, contact, pelvis) -> np.ndarray:
    """Metres between found and true position, (items,): the mean over an item's maps."""
    found = []
    for points, maps, position in zip(xyz, contact, pelvis, strict=True):
        away = model(points.expand(len(maps), -1, -1), maps) - position
        found.append(away.norm(dim=-1).mean())
    return torch.stack(found).cpu().numpy()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", type=Path, required=True, help="archive of the full chain")
    parser.add_argument("--again", type=Path, required=True, help="the same with another seed")
    parser.add_argument("--fast", type=Path, required=True, help="archive of the fast sampler")
    parser.add_argument("--items", type=int, default=4000, help="at most, spread over the archive")
    parser.add_argument("--points", type=int, default=1024, help="of each cloud, at random")
    parser.add_argument("--steps", type=int, default=2000, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    started = time.perf_counter()
    xyz, contact, pelvis = read(options)
    xyz, pelvis = xyz.to(options.device), pelvis.to(options.device)
    tested = torch.arange(len(xyz), device=options.device) % HELD_OUT == HELD_OUT - 1
    print(f"{len(xyz)} items read in {time.perf_counter() - started:.0f} s", flush=True)

    # (train, test, seeds, test items)
    table = np.array(
        [
            [
                [
                    errors(model, xyz[tested], contact[test][tested], pelvis[tested])
                    for test in KINDS
                ]
                for model in (
                    train(xyz[~tested], contact[kind][~tested], pelvis[~tested], s, options.steps)
                    for s in range(options.seeds)
                )
            ]
            for kind in KINDS
        ]
    ).swapaxes(1, 2)
    away = (pelvis[tested] - pelvis[~tested].mean(dim=0)).norm(dim=-1).mean()
    report(table, float(away), options, time.perf_counter() - started)


def report(table: np.ndarray, chance: float, options, seconds: float) -> None:
    """Print the tables, and write the numbers."""
    of_item = table.mean(axis=2)
    rows, by_seed = [], table.mean(axis=3)
    print(f"\nerror in metres (95 % interval over items; range of {options.seeds} seeds)")
    print("trained on " + "".join(f"{'tested on ' + kind:>40}" for kind in KINDS))
    for i, kind in enumerate(KINDS):
        found = bootstrap(of_item[i].T)
        cells = [
            f"{x.value:.4f} ({x.low:.4f}, {x.high:.4f}; {s.min():.3f}-{s.max():.3f})"
            for x, s in zip(found, by_seed[i], strict=True)
        ]
        print(f"{kind:11}" + "".join(f"{cell:>40}" for cell in cells))
        rows += [
            {"trained_on": kind, "tested_on": test, **x._asdict(), "seeds": s.tolist()}
            for test, x, s in zip(KINDS, found, by_seed[i], strict=True)
        ]

    # The differences that matter, item by item; those of `again` are chance.
    training, testing = [], []
    for other in ("again", "fast"):
        i = KINDS.index(other)
        print(f"\ntrained on {other} minus trained on full, metres, paired by item")
        for test, x in zip(KINDS, bootstrap((of_item[i] - of_item[0]).T), strict=True):
            print(f"  tested on {test:6} {x.value:+.4f} ({x.low:+.4f}, {x.high:+.4f})")
            training.append({"trained_on": other, "tested_on": test, **x._asdict()})
        print(f"tested on {other} minus tested on full, metres, paired by item")
        for kind, x in zip(KINDS, bootstrap((of_item[:, i] - of_item[:, 0]).T), strict=True):
            print(f"  trained on {kind:6} {x.value:+.4f} ({x.low:+.4f}, {x.high:+.4f})")
            testing.append({"trained_on": kind, "tested_on": other, **x._asdict()})
    print(f"always the mean position: {chance:.3f}; {seconds:.0f} s on {options.device}")
    if options.json:
        content = {
            **{key: str(getattr(options, key)) for key in (*SAMPLED, "device")},
            **{key: getattr(options, key) for key in ("points", "steps", "seeds")},
            "test_items": table.shape[-1],
            "rows": rows,
            "minus_trained_on_full": training,
            "minus_tested_on_full": testing,
            "mean_position": chance,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
