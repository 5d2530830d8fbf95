"""A few maps seen from above: true and generated closeness side by side."""

import matplotlib.pyplot as plt
import numpy as np

from cdm.archive.reader import ContactMaps
from cdm.contact import contact_from_distance
from cdm.datasets import Dataset, FileReader, Sample
from cdm.datasets.base import evenly_spread
from cdm.errors import ArchiveError
from cdm.evaluation.evaluate import archived_statistics
from cdm.evaluation.measure import GroundTruth, MapMeasures, read_truth
from cdm.evaluation.plots import short_line
from cdm.run.dataset import open_dataset
from cdm.run.plan import Plan
from cdm.run.plan_files import read_samples

NUM_EXAMPLES = 6


def draw_examples(plan: Plan):
    """Figure of a few samples, spread evenly over the archive: true and generated closeness.

    Raises:
        ArchiveError: every sample was skipped, or a map is missing or damaged.
    """
    # What is read, and which samples.
    maps = ContactMaps(plan.archive)
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    reader = FileReader(plan.config.data_dir)
    measures = MapMeasures(plan.config, archived_statistics(maps, plan))
    rows = evenly_spread(maps.rows_with_maps(), NUM_EXAMPLES)
    if not rows:
        raise ArchiveError(f"{plan.archive}: all samples were skipped, so there is no map to show")

    # Two samples in each line of the figure, each with a true and a generated map.
    lines = -(-len(rows) // 2)
    figure, grid = plt.subplots(lines, 4, figsize=(14, 3.6 * lines), layout="constrained")
    for axes in grid.flat:
        axes.set_axis_off()
    for (left, right), row in zip(grid.reshape(-1, 2), rows, strict=False):
        sample = _sample(plan, row, dataset)
        truth = read_truth(dataset, sample, reader)
        x = maps.read("sample", row)[:1].astype(np.float32)
        column = measures.pelvis or 0
        generated = measures.distance(x)[0, :, column]
        point = generated.argmin() if measures.pelvis is None else measures.pelvis_points(x)[0]
        _draw(right, dataset, truth, generated, point)
        right.set_title("generated", fontsize=9)
        if truth.distance is not None:
            true = truth.distance[:, column]
            _draw(left, dataset, truth, true, true.argmin())
        left.set_title(short_line(f"{sample.set} {sample.index}: {sample.text}"), fontsize=9)
    return figure


def _draw(axes, dataset: Dataset, truth: GroundTruth, distance: np.ndarray, point: int) -> None:
    """One map from above: closeness as colour, rings on the target's points, a cross on a point."""
    plane = truth.xyz[:, [axis for axis in range(3) if axis != dataset.gravity_dim]]
    order = np.argsort(truth.xyz[:, dataset.gravity_dim])  # higher points hide lower ones
    contact = contact_from_distance(distance, False, dataset.config.sigma)
    axes.scatter(*plane[order].T, c=contact[order], s=4, cmap="magma", vmin=0, vmax=1)
    if truth.mask is not None:
        rings = {"facecolors": "none", "edgecolors": "tab:cyan", "linewidths": 0.15}
        axes.scatter(*plane[truth.mask].T, s=14, **rings)
    axes.scatter(*plane[point], marker="x", s=70, color="lime", linewidths=2.5)
    axes.set_aspect("equal")


def _sample(plan: Plan, row: int, dataset: Dataset) -> Sample:
    """The sample of a row of the archive."""
    chunk = next(chunk for chunk in plan.chunks if chunk.start <= row < chunk.stop)
    return read_samples(plan, chunk, dataset)[row - chunk.start]
