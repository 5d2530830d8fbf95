"""Draws and measures the maps of every setting of the study, with one model in one process."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdm.datasets import FileReader, Item, Sample
from cdm.datasets.base import evenly_spread
from cdm.errors import BadItem, DataError
from cdm.evaluation.measure import MEASURES_VERSION, MapMeasures, truth_of
from cdm.evaluation.records import drop_records, inputs_read, write_record
from cdm.evaluation.study import (
    KIND,
    Setting,
    SettingResult,
    base_key,
    read_result,
    study_settings,
    summarise_study,
    write_result,
)
from cdm.evaluation.study_tables import verdict, write_summary
from cdm.files import digest
from cdm.jobs.device import choose_device, device_name
from cdm.jobs.log import Log
from cdm.jobs.progress import Progress
from cdm.noise import normal, stream_key
from cdm.run.dataset import open_dataset
from cdm.run.load import encode_texts, load_model, planned_statistics
from cdm.run.plan import Plan
from cdm.sampling.batches import batches, prefetch
from cdm.sampling.map_sampler import MapSampler

MOST_WAITING = 2  # groups of items that may wait to be measured


def compare_samplers(plan: Plan, record: Path, log: Log, threads: int = 1) -> dict[str, Any]:
    """Draw and measure every setting that is not finished, and sum up all of them.

    Args:
        plan: of the run whose checkpoint and items are used.
        record: `compare_samplers/summary-{key}.json`, written last. The tables lie beside it, and
            the finished settings below it in `settings/{key}/`.
        log: gets one line of text at a time.
        threads: CPU threads.
    Returns:
        The content of summary.json.
    Raises:
        CDMError: an item is bad or was edited meanwhile, the model gave NaN, a finished setting
            is damaged. What is finished is kept.
    """
    torch.set_num_threads(threads)
    study = Study(plan, log)
    results = []
    settings = study_settings(plan.config)
    for number, setting in enumerate(settings, start=1):
        path = record.parent / "settings" / study.key / f"{setting.name}.json"
        result = read_result(path)
        if result is None:
            result = study.draw(setting, f"{setting.name} ({number}/{len(settings)})")
            write_result(path, result)
        else:
            log(f"{setting.name} ({number}/{len(settings)}): finished before")
        results.append(result)
    summary = summarise_study(results, plan.config)
    drop_records(record.parent, KIND)
    files = write_summary(summary, record.parent)
    write_record(record, base_key(plan), plan, study.inputs, files)
    for line in verdict(summary):
        log(line)
    log(f"tables and figure -> {record.parent}")
    return summary


class Study:
    """The model, the items, and whatever else does not change from setting to setting.

    Memory holds one group of items at a time and, for each setting, its numbers per item.

    Attributes:
        samples: that maps are drawn for.
        inputs: what the files of these samples held when they were first read.
        key: names the finished settings; it covers everything that decides their numbers.
    """

    def __init__(self, plan: Plan, log: Log):
        self.plan, self.config, self.log = plan, plan.config, log
        self.k_samples = plan.config.compare.k_samples
        self.dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
        self.reader = FileReader(plan.config.data_dir)
        statistics = planned_statistics(plan)
        self.measures = MapMeasures(plan.config, statistics.numbers(), chance=False)
        self.samples = self._choose()
        self.inputs = inputs_read(self.reader, self._files())
        device = choose_device(plan.config.gpu, log)
        self.features = encode_texts(plan, [sample.text for sample in self.samples], device)
        self.model, self.device = load_model(plan, device), device
        self.directions = self._directions()
        self.key = self._key(statistics.numbers())
        log(
            f"{len(self.samples)} samples, {self.k_samples} maps each, on {device_name(device)}; "
            f"study {self.key}"
        )

    def draw(self, setting: Setting, name: str) -> SettingResult:
        """Draw and measure the maps of one setting.

        The full chain has the noise of maps 0 to k - 1, every other setting that of k to 2 k - 1.

        Args:
            setting: one of `study_settings`.
            name: for the lines in the log.
        Raises:
            BadItem: the model gave NaN or infinity.
            DataError: a file of an item was edited since the study began.
        """
        # Sampler and noise of this setting.
        config = setting.configure(self.config)
        sampler = MapSampler(self.model, config, self.features, self.device, self.log)
        is_full = setting == study_settings(self.config)[0]
        first = 0 if is_full else self.k_samples
        numbers = range(first, first + self.k_samples)
        progress = Progress(len(self.samples) * self.k_samples, name, self.log)
        seconds, entries, waiting = 0.0, [], deque()

        def collate(group: list[Item]):
            maps = [(item.sample, item, k) for item in group for k in numbers]
            return group, sampler.collate(maps)

        # One thread reads items ahead of the device, another measures maps behind it.
        group_size = max(1, config.sampling.batch_size // self.k_samples)
        with torch.inference_mode(), ThreadPoolExecutor(1) as pool:
            groups = prefetch(map(collate, batches(self._items(), group_size)))
            for number, (group, batch) in enumerate(groups):
                if number == 0:
                    sampler.warm_up(batch)
                started = time.perf_counter()
                x = sampler.start(batch, progress)()
                seconds += time.perf_counter() - started
                waiting.append(pool.submit(self._measure, group, x))
                if len(waiting) > MOST_WAITING:
                    entries += waiting.popleft().result()
            for measured in waiting:
                entries += measured.result()

        # The numbers of all items.
        rows = [values for values, _ in entries]
        names = dict.fromkeys(name for row in rows for name in row)
        return SettingResult(
            setting=setting,
            items=[(sample.set, sample.index) for sample in self.samples],
            values={name: np.array([row.get(name, np.nan) for row in rows]) for name in names},
            projections=np.stack([projection for _, projection in entries]),
            seconds_per_map=seconds / (len(self.samples) * self.k_samples),
            device=device_name(self.device),
        )

    def _measure(self, group: list[Item], x: np.ndarray) -> list[tuple[dict, np.ndarray]]:
        """Values and projections of each item of a group; x: (len(group) * k, points, joints)."""
        entries = []
        maps_of = x.reshape(len(group), self.k_samples, *x.shape[1:])
        for item, maps in zip(group, maps_of, strict=True):
            if not np.isfinite(maps).all():
                raise BadItem(
                    f"{item.sample}: the model gave NaN or infinity; look at its points and at the "
                    "checkpoint"
                )
            values = self.measures(maps, truth_of(item, self.dataset, self.reader))
            flat = self.measures.contact(maps).reshape(self.k_samples, -1)
            entries.append((values, flat @ self.directions))
        return entries

    def _items(self) -> Iterator[Item]:
        for sample in self.samples:
            yield self.dataset.load(sample, self.reader)

    def _choose(self) -> list[Sample]:
        """Samples spread evenly over the split.

        All of their files are read once, so that a bad item is found before the first map.
        """
        samples = self.dataset.samples()
        most = self.config.compare.max_items
        if most is not None:
            samples = evenly_spread(samples, most)
        chosen = []
        for sample in samples:
            try:
                truth_of(self.dataset.load(sample, self.reader), self.dataset, self.reader)
                chosen.append(sample)
            except BadItem as problem:
                if self.config.dataset.on_bad_item == "fail":
                    raise
                self.log(f"skipped: {problem}")
        if not chosen:
            raise DataError(f"{self.config.data_dir}: no item that can be used")
        return chosen

    def _files(self) -> set[str]:
        """Every file that decides the numbers of the samples; some may not exist."""
        names = {name for sample in self.samples for name in self.dataset.files(sample)}
        masks = {self.dataset.target_mask_file(sample) for sample in self.samples}
        return (names | masks) - {None}

    def _directions(self) -> np.ndarray:
        """Random directions: (num_points * contact_dim, projections) float32, standard normal.

        They are scaled so that the distance of two projected maps is about their RMS difference
        (Johnson and Lindenstrauss 1984).
        """
        config = self.config
        seed, count = config.evaluation.seed, config.compare.projections
        keys = [stream_key(seed, "projection", "", i) for i in range(count)]
        shape = config.dataset.num_points, self.plan.architecture.contact_dim
        directions = normal(keys, 0, *shape).reshape(count, -1)
        return np.ascontiguousarray(directions.T) / np.float32(np.sqrt(directions.size))

    def _key(self, statistics: dict) -> str:
        """Digest of everything that decides the numbers of a finished setting.

        The study draws with samplers, steps and chunks of its own, so those of the workflow are
        left out. Intervals are computed from finished settings, so their options are left out too.
        """
        own = ("sampling", "diffusion", "chunk_size", "dtype", "statistics")
        drawn = ("resamples", "confidence")
        config = self.config
        return digest(
            [
                {key: value for key, value in self.plan.identity.items() if key not in own},
                [config.diffusion.steps, config.diffusion.noise_schedule],
                statistics,
                {k: v for k, v in asdict(config.evaluation).items() if k not in drawn},
                [self.k_samples, config.compare.projections],
                [self.model.precision, MEASURES_VERSION],
                [[s.set, s.index, s.caption_idx, s.text] for s in self.samples],
                sorted((name, found.sha256) for name, found in self.reader.contents.items()),
            ]
        )
