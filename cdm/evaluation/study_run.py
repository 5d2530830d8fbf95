"""Draws and measures the maps of every setting of the study, with one model in one process."""

import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdm.datasets import FileReader, Item, Sample
from cdm.datasets.files import without_skip
from cdm.errors import BadItem, DataError
from cdm.evaluation.measure import MEASURES_VERSION, MapMeasures, truth_of
from cdm.evaluation.records import drop_records, inputs_read, write_record
from cdm.evaluation.study import (
    KIND,
    Setting,
    SettingResult,
    base_key,
    noise_numbers,
    read_result,
    spread_order,
    study_settings,
    write_result,
)
from cdm.evaluation.study_looks import run_looks
from cdm.evaluation.study_summary import summarise_study
from cdm.evaluation.study_tables import RECOMMENDED, verdict, write_summary
from cdm.files import digest
from cdm.jobs.device import choose_device, device_name
from cdm.jobs.log import Log
from cdm.jobs.progress import Progress
from cdm.model.cdm import if_not_finite
from cdm.noise import normal, stream_key
from cdm.run.dataset import open_dataset
from cdm.run.load import encode_texts, load_model, planned_statistics
from cdm.run.plan import Plan
from cdm.run.sizes import most_maps
from cdm.sampling.batches import batches, prefetch
from cdm.sampling.map_sampler import MapSampler

MOST_WAITING = 2  # groups of items that may wait to be measured, for each thread


def compare_samplers(plan: Plan, record: Path, log: Log, threads: int = 1) -> dict[str, Any]:
    """Draw and measure round by round what is not finished, and sum up all of it.

    Args:
        plan: of the run whose checkpoint and items are used.
        record: `compare_samplers/summary-{key}.json`, written last. The tables lie beside it, and
            the finished draws below it in `settings/`.
        log: gets one line of text at a time.
        threads: CPU threads.
    Returns:
        The content of summary.json.
    Raises:
        CDMError: an item is bad or was edited meanwhile, the model gave NaN, a finished draw is
            damaged, a setting does not fit the chain. What is finished is kept.
    """
    torch.set_num_threads(threads)
    study = Study(plan, log, threads)

    def draw(setting: Setting, number: int, positions: range) -> SettingResult:
        return study.finished(record.parent, setting, number, positions)

    outcome = run_looks(plan.config, len(study.samples), draw, log)
    summary = summarise_study(outcome, plan.config, plan.checkpoint.sha256)
    drop_records(record.parent, KIND)
    files = write_summary(summary, record.parent)
    write_record(record, base_key(plan), plan, study.inputs, files)
    for line in verdict(summary):
        log(line)
    log(f"tables and figure -> {record.parent}")
    log(f"to sample as recommended: --configfile mine.yaml {record.parent / RECOMMENDED}")
    return summary


class Study:
    """The model, the items, and whatever else does not change from setting to setting.

    Memory holds a few groups of items at a time and, for each setting, its numbers per item.

    Args:
        plan: of the run whose checkpoint and items are used.
        log: gets one line of text at a time.
        threads: that measure maps while the device draws the next ones.
        device: torch device; None to choose and lease one, as `gpu` says.
    Attributes:
        samples: that maps are drawn for, in the order in which rounds take them.
        inputs: what the files of these samples held when they were first read.
    """

    def __init__(self, plan: Plan, log: Log, threads: int = 1, device: str | None = None):
        # A study knows no chunks, so that a batch may be larger than one.
        sampling = replace(plan.config.sampling, batch_size=most_maps(plan.asked))
        self.config = replace(plan.config, sampling=sampling)
        self.plan, self.log, self.threads = plan, log, threads
        self.k_samples = plan.config.compare.k_samples
        study_settings(self.config)  # refused before anything takes time
        self.dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
        self.reader = FileReader(plan.config.data_dir)
        self.statistics = planned_statistics(plan).numbers()
        self.measures = MapMeasures(plan.config, self.statistics, chance=False)
        self.samples = self._choose()
        self.inputs = inputs_read(self.reader, self._files(self.samples))
        self.device = device or choose_device(plan.config.gpu, log)
        self.features = encode_texts(plan, [sample.text for sample in self.samples], self.device)
        self.model = load_model(plan, self.device)
        self.directions = self._directions()
        self._sampler: tuple[Setting, MapSampler] | None = None
        log(
            f"{len(self.samples)} samples at most, {self.k_samples} maps each, on "
            f"{device_name(self.device)}"
        )

    def finished(
        self, folder: Path, setting: Setting, draw: int, positions: range
    ) -> SettingResult:
        """A draw of some samples: as its file has it, else drawn, measured and written."""
        path = folder / "settings" / self.key(positions) / setting.file(draw)
        name = f"{setting.name}, draw {draw + 1}, samples {positions.start} to {positions.stop - 1}"
        result = read_result(path)
        if result is None:
            result = self.draw(setting, draw, positions, name)
            write_result(path, result)
            # What a later study reads, after a kill too, is what this one goes on with.
            result = read_result(path)
            assert result is not None, path
        else:
            self.log(f"{name}: finished before")
        return result

    def draw(self, setting: Setting, draw: int, positions: range, name: str) -> SettingResult:
        """Draw and measure the maps of one setting for some samples.

        Args:
            setting: one of `study_settings`.
            draw: number of the draw; it decides the noise, see `noise_numbers`.
            positions: of the samples in `self.samples`.
            name: for the lines in the log.
        Raises:
            BadItem: the model gave NaN or infinity.
            DataError: a file of an item was edited since the study began.
        """
        # Sampler and noise of this setting.
        sampler = self._sampler_of(setting)
        samples = [self.samples[position] for position in positions]
        numbers = noise_numbers(self.config, setting, draw)
        num_maps = len(samples) * self.k_samples
        progress = Progress(num_maps, name, self.log)
        seconds, entries = 0.0, []
        waiting: deque[Any] = deque()

        def collate(group: list[Item]):
            maps = [(item.sample, item, k) for item in group for k in numbers]
            return group, sampler.collate(maps)

        # One thread reads items ahead of the device, others measure maps behind it.
        group_size = max(1, self.config.sampling.batch_size // self.k_samples)
        items = (self.dataset.load(sample, self.reader) for sample in samples)
        with torch.inference_mode(), ThreadPoolExecutor(self.threads) as pool:
            groups = prefetch(map(collate, batches(items, group_size)))
            for number, (group, batch) in enumerate(groups):
                if number == 0:
                    sampler.warm_up(batch)
                started = time.perf_counter()
                x = sampler.start(batch, progress)()
                seconds += time.perf_counter() - started
                of_item = x.reshape(len(group), self.k_samples, *x.shape[1:])
                waiting += [
                    pool.submit(self._measure, *each) for each in zip(group, of_item, strict=True)
                ]
                while len(waiting) > MOST_WAITING * group_size * self.threads:
                    entries.append(waiting.popleft().result())
            entries += [measured.result() for measured in waiting]

        # The numbers of all items.
        rows = [values for values, _ in entries]
        names = dict.fromkeys(name for row in rows for name in row)
        return SettingResult(
            setting=setting,
            draw=draw,
            items=[(sample.set, sample.index) for sample in samples],
            values={name: np.array([row.get(name, np.nan) for row in rows]) for name in names},
            projections=np.stack([projection for _, projection in entries]),
            seconds=seconds,
            device=device_name(self.device),
        )

    def _sampler_of(self, setting: Setting) -> MapSampler:
        """The sampler of a setting; the last one is kept, because a GPU takes a while to start."""
        if self._sampler is None or self._sampler[0] != setting:
            self._sampler = None  # frees its memory first
            config = setting.configure(self.config)
            sampler = MapSampler(self.model, config, self.features, self.device, self.log)
            self._sampler = setting, sampler
        return self._sampler[1]

    def _measure(self, item: Item, maps: np.ndarray) -> tuple[dict, np.ndarray]:
        """Values and projections of the maps (k, points, joints) of an item."""
        if not np.isfinite(maps).all():
            raise BadItem(
                f"{item.sample}: the model gave NaN or infinity; "
                f"{if_not_finite(self.model.precision)}"
            )
        values = self.measures(maps, truth_of(item, self.dataset, self.reader))
        flat = self.measures.contact(maps).reshape(self.k_samples, -1)
        return values, flat @ self.directions

    def _choose(self) -> list[Sample]:
        """Samples spread evenly over the split, and so is each beginning of them.

        All of their files are read once, so that a bad item is found before the first map. Where
        bad items are skipped, the next ones of the order stand in.
        """
        samples = self.dataset.samples()
        most = self.config.compare.max_items or len(samples)
        chosen: list[Sample] = []
        for position in spread_order(len(samples)):
            if len(chosen) == most:
                break
            sample = samples[position]
            try:
                truth_of(self.dataset.load(sample, self.reader), self.dataset, self.reader)
                chosen.append(sample)
            except BadItem as problem:
                if self.config.dataset.on_bad_item == "fail":
                    raise
                self.log(f"skipped: {without_skip(problem)}")
        if not chosen:
            raise DataError(
                f"{self.config.data_dir}: none of the {len(samples)} samples can be used; the "
                "lines above tell why. Restore them, then type the same command again"
            )
        return chosen

    def _files(self, samples: Iterable[Sample]) -> set[str]:
        """Every file that decides the numbers of samples; some may not exist."""
        names = {name for sample in samples for name in self.dataset.files(sample)}
        masks = map(self.dataset.target_mask_file, samples)
        return names | {name for name in masks if name is not None}

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

    def key(self, positions: range) -> str:
        """Digest of everything that decides the numbers of a finished draw of these samples.

        The study draws with samplers, steps and chunks of its own, so those of the workflow are
        left out. Intervals are computed from finished draws, so their options are left out too.
        Neither does it matter how many samples or draws there are beside.
        """
        own = ("sampling", "diffusion", "chunk_size", "dtype", "statistics")
        drawn = ("resamples", "confidence")
        config, samples = self.config, [self.samples[position] for position in positions]
        contents = self.reader.contents
        return digest(
            [
                {key: value for key, value in self.plan.identity.items() if key not in own},
                [config.diffusion.steps, config.diffusion.noise_schedule],
                self.statistics,
                {k: v for k, v in asdict(config.evaluation).items() if k not in drawn},
                [self.k_samples, config.compare.projections],
                [self.model.precision, MEASURES_VERSION],
                [[s.set, s.index, s.caption_idx, s.text] for s in samples],
                [
                    (name, contents[name].sha256)
                    for name in sorted(self._files(samples))
                    if name in contents
                ],
            ]
        )
