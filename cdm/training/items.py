"""The items that a CDM is trained on: they are read once and held in memory.

As in afford-motion, each visit of an item draws one of its captions and a rotation about the
gravity axis. Both are pure functions of the seed and of the training step, so a resumed training
sees what an undisturbed one would have seen.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader

from cdm.datasets import Dataset, FileReader, Sample
from cdm.datasets.files import without_skip
from cdm.datasets.statistics import Moments, Statistics, checked_statistics
from cdm.errors import BadItem, CDMError, DataError
from cdm.files import digest
from cdm.jobs.workers import end_with
from cdm.model.point_features import training_problem
from cdm.training.record import listing_digest

READ_AT_ONCE = 16  # items that a worker hands over together


class TrainingBatch(NamedTuple):
    """The inputs of one training step, on the device."""

    x_start: torch.Tensor  # (batch, num_points, contact_dim), normalised contact
    c_text: torch.Tensor  # (batch, text_feat_dim)
    c_pc_xyz: torch.Tensor  # (batch, num_points, 3), metres, rotated
    c_pc_feat: torch.Tensor | None  # (batch, num_points, columns); colours for the scene model


class TrainingItems:
    """All items of a split.

    Attributes:
        xyz: (num_items, num_points, 3) float32, metres.
        feat: (num_items, num_points, columns) float32 as the dataset gives them, or None.
        contact: (num_items, num_points, contact_dim) float32; `normalise` normalises it in place.
        captions: the captions of each item.
        content: their number, and a digest of their names, captions and files.
        listing: `listing_digest` of the split, with the items that were left out.
    """

    def __init__(
        self, xyz, feat, contact, captions: list[list[str]], content: str = "", listing: str = ""
    ):
        self.xyz, self.feat, self.contact, self.captions = xyz, feat, contact, captions
        self.content, self.listing = content, listing
        self.gravity_dim: int | None = None  # items are turned about this axis
        self._caption_ids: list[np.ndarray] = []
        self._text: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.xyz)

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays."""
        return sum(x.nbytes for x in (self.xyz, self.feat, self.contact) if x is not None)

    def statistics(self, source: str) -> Statistics:
        """Mean and std of the contact over all points, summed in float64 (`compute_statistics`)."""
        moments = Moments()
        with ThreadPoolExecutor(8) as pool:  # merged in order: timing changes no bit
            for block in pool.map(Moments.of, self.contact.numpy()):
                moments.add(*block)
        return checked_statistics(
            moments.mean[None], moments.std[None], source, self.contact.shape[-1]
        )

    def normalise(self, statistics: Statistics) -> None:
        """Normalise the contact in place: the model is trained on the result."""
        self.contact -= torch.from_numpy(statistics.mean)
        self.contact /= torch.from_numpy(statistics.std)

    def encode(self, encoder: Callable, device: str) -> None:
        """Encode every distinct caption once and keep the features on the device."""
        distinct = {text: i for i, text in enumerate(sorted({t for c in self.captions for t in c}))}
        self._caption_ids = [np.array([distinct[text] for text in c]) for c in self.captions]
        with torch.inference_mode():
            self._text = torch.stack(list(encoder(list(distinct)))).to(device).clone()

    def to(self, device: str) -> None:
        """Move the arrays to a device."""
        for name in ("xyz", "feat", "contact"):
            array = getattr(self, name)
            setattr(self, name, array if array is None else array.to(device))

    def batch(self, step: int, batch_size: int, seed: int) -> TrainingBatch:
        """The batch of a step. Every epoch shows each item once, in a new order.

        A batch at the end of an epoch is filled up from the next epoch.
        """
        rng = np.random.default_rng([seed, step, 1])
        index = epoch_order(len(self), seed, step * batch_size, batch_size)
        assert self._text is not None, "encoded before the first batch"
        text, device = self._text, self._text.device

        def gather(array):
            return send(array[send(index, array.device)], device)

        picks = np.array([rng.choice(self._caption_ids[i]) for i in index])
        xyz = gather(self.xyz)
        if self.gravity_dim is not None:
            angle = send(rng.uniform(-math.pi, math.pi, batch_size), device)
            xyz = rotate_about(xyz, angle, self.gravity_dim)
        return TrainingBatch(
            x_start=gather(self.contact),
            c_text=text[send(picks, device)],
            c_pc_xyz=xyz,
            c_pc_feat=None if self.feat is None else gather(self.feat),
        )


def epoch_order(num_items: int, seed: int, start: int, count: int) -> np.ndarray:
    """Items start to start + count of endless, shuffled epochs; (count,) int64."""
    parts, end = [], start + count
    while start < end:
        epoch, place = divmod(start, num_items)
        order = np.random.default_rng([seed, epoch, 0]).permutation(num_items)
        parts.append(order[place : place + end - start])
        start += len(parts[-1])
    return np.concatenate(parts)


def send(array, device) -> torch.Tensor:
    """Copy an array or a tensor of the host to a device, without waiting for the device."""
    x = torch.as_tensor(array)
    if x.device == torch.device(device) or torch.device(device).type == "cpu":
        return x
    return x.pin_memory().to(device, non_blocking=True)


def rotate_about(xyz: torch.Tensor, angle: torch.Tensor, gravity_dim: int) -> torch.Tensor:
    """(batch, num_points, 3) turned by (batch,) radians about an axis (`gravity_rotation`)."""
    i, j = (gravity_dim + 1) % 3, (gravity_dim + 2) % 3
    c, s = (f(angle).to(xyz.dtype)[:, None] for f in (torch.cos, torch.sin))
    turned = xyz.clone()
    turned[..., i] = c * xyz[..., i] - s * xyz[..., j]
    turned[..., j] = s * xyz[..., i] + c * xyz[..., j]
    return turned


def read_training_items(dataset: Dataset, columns: int, threads: int, log) -> TrainingItems:
    """Read all items of a dataset whose option `captions` is "all".

    Args:
        columns: of features that are read with each point (`columns_to_read`); 0 for none.
        threads: number of worker processes that read.
        log: gets one line of text at a time.
    Raises:
        BadItem: an item cannot be used. If `dataset.on_bad_item` is skip, it is left out instead.
        DataError: no item, no ground truth, or not enough memory for all of them.
    """
    # Items, each with all its captions.
    captions: dict[tuple[str, str], list[str]] = {}
    firsts: dict[tuple[str, str], Sample] = {}
    samples = dataset.samples()
    for sample in samples:
        key = sample.set, sample.index
        captions.setdefault(key, []).append(sample.text)
        firsts.setdefault(key, sample)
    _check_trainable(dataset)

    # Memory for all of them.
    config = dataset.config
    shape = len(firsts), config.num_points
    _check_memory(shape, 3 + columns + config.contact_dim)

    xyz = torch.empty(*shape, 3)
    feat = torch.empty(*shape, columns) if columns else None
    contact = torch.empty(*shape, config.contact_dim)

    # Items are read by other processes, and those that can be used lie one behind the other.
    read = _entries(_Reading(dataset, list(firsts.values()), columns), threads)
    kept: list[list[str]] = []
    contents: list[list] = []
    for key, (arrays, problem) in zip(captions, read, strict=True):
        if isinstance(problem, CDMError):
            raise problem
        if problem and config.on_bad_item == "fail":
            raise BadItem(problem)
        if problem:
            log(f"left out: {without_skip(problem)}")
            continue
        row = len(kept)
        *arrays, files = arrays
        for array, values in zip((xyz, feat, contact), arrays, strict=True):
            if array is not None:
                array[row] = torch.from_numpy(values)
        kept.append(captions[key])
        contents.append([*key, captions[key], files])

    # What was kept, and what tells it apart from other items.
    if not kept:
        raise DataError(
            f"{dataset.data_dir}: none of the {len(firsts)} items of phase {config.phase} can be "
            "trained on; the lines above tell why. Restore them, then type the same command again"
        )
    n = len(kept)
    told = f"{n} of content {digest(contents)}", listing_digest(samples)
    return TrainingItems(xyz[:n], None if feat is None else feat[:n], contact[:n], kept, *told)


def _check_trainable(dataset: Dataset) -> None:
    if not dataset.has_ground_truth:
        raise DataError(f"dataset.name {dataset.config.name} has no ground truth to train on")
    if not dataset.has_splits:
        raise DataError(f"dataset.name {dataset.config.name} has no splits to train on")


def _begin_worker(parent: int, number: int) -> None:
    end_with(parent)


def _entries(reading: "_Reading", threads: int):
    """The entries, in order, read by as many worker processes.

    Raises:
        DataError: a worker process was killed.
    """
    loader = DataLoader(
        reading, READ_AT_ONCE, num_workers=threads, collate_fn=list,
        worker_init_fn=partial(_begin_worker, os.getpid()),
    )  # fmt: skip
    try:
        for group in loader:
            yield from group
    except RuntimeError as error:  # torch has no type of its own for it
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a process that reads items ended ({str(error).splitlines()[0]}); most often the "
            "machine, or its limit for this job, is out of memory: give fewer --cores or more "
            "memory, and run the same command again"
        ) from None


class _Reading(torch.utils.data.Dataset):
    """Reads one item at a time in the workers of a DataLoader.

    Each entry is (arrays and the sha256 of its files, ""), or (None, what is wrong with the item):
    an exception that is raised would lose its type on the way out of a worker. What is not wrong
    with the item, such as `Unreachable`, comes as it is.
    """

    def __init__(self, dataset: Dataset, samples: list[Sample], columns: int):
        self.dataset, self.samples, self.columns = dataset, samples, columns

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int):
        sample, reader = self.samples[number], FileReader(self.dataset.data_dir)
        try:
            item = self.dataset.read_item(sample, reader)
            if item.distance is None:
                raise BadItem(f"{sample.set}/{sample.index}: has no ground truth")
            problem = training_problem(item.c_pc_feat.shape[1], self.columns)
            if problem:
                raise BadItem(f"{sample.set}/{sample.index}: {problem}")
            arrays = item.c_pc_xyz, item.c_pc_feat, self.dataset.contact(item.distance)
            files = sorted((name, each.sha256) for name, each in reader.contents.items())
            return (*map(np.ascontiguousarray, arrays), files), ""
        except BadItem as problem:
            return None, str(problem)
        except CDMError as problem:
            return None, problem


def _check_memory(shape: tuple[int, int], columns: int) -> None:
    needed = math.prod(shape) * columns * 4
    free = psutil.virtual_memory().available
    if needed > free:
        raise DataError(
            f"{shape[0]} items of {shape[1]} points need {needed / 2**30:.1f} GB of memory, "
            f"{free / 2**30:.1f} GB are free; train on fewer dataset.sets or on a larger machine"
        )
