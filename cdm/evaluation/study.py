"""How few steps are enough: which settings are compared, and by what rule (no torch).

A *setting* is a sampler with a number of steps. Every setting draws k maps of the same items. The
full chain is DDPM with all steps of the training, and it is drawn twice, with independent noise.
All other settings are compared with the first of the two. The second, the *repeat*, shows how much
two draws of the very same sampler differ: this is the *noise floor*. All settings except the
first full chain use the noise of the repeat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cdm.config import Config, EvaluationConfig
from cdm.errors import ArchiveError
from cdm.evaluation.bootstrap import Interval, bootstrap
from cdm.evaluation.measure import MEASURES_VERSION
from cdm.evaluation.measure_table import measure_of, sort_names
from cdm.evaluation.metrics import energy_distance
from cdm.evaluation.records import record_key
from cdm.evaluation.summary import by_item, describe_measure, intervals
from cdm.files import digest, read_bytes, seal, unseal, write_bytes
from cdm.run.plan import Plan

KIND = "summary"  # the study's records are summary-{key}.json
FULL_METHOD = "ddpm"
ENERGY, DIVERSITY = "energy_distance", "diversity"
FULL, REPEAT, COMPARED = "full", "repeat", "compared"  # roles of settings
RULE = (
    "A setting (a sampler with a number of steps) is as good as the full chain if (1) the value of "
    "every measure lies within the full chain's confidence interval, diversity and the best of an "
    "item's maps included, and (2) it is within the noise floor, which is what a second full chain "
    "with other noise differs by: its energy distance to the full chain is not above the upper end "
    "of the noise floor's interval, and its mean difference in diversity, item by item, lies "
    "inside the noise floor's interval. Of these settings, the one with the fewest steps is "
    "recommended; of several with as many steps, the one with the smallest energy distance."
)


@dataclass(frozen=True)
class Setting:
    """A sampler with a number of steps; `repeat` marks the second full chain."""

    method: str
    steps: int
    repeat: bool = False

    @property
    def name(self) -> str:
        """File name of its results."""
        return f"{self.method}-{self.steps}{'-repeat' if self.repeat else ''}"

    def configure(self, config: Config) -> Config:
        """The configuration that draws maps with this setting."""
        all_steps = self.steps == config.diffusion.steps
        return replace(
            config,
            diffusion=replace(config.diffusion, timestep_respacing="" if all_steps else self.steps),
            sampling=replace(config.sampling, method=self.method, eta=0.0),
        )


def study_settings(config: Config) -> list[Setting]:
    """The full chain, its repeat, and every other setting, most steps first."""
    most = config.diffusion.steps
    full = Setting(FULL_METHOD, most)
    steps = sorted({min(count, most) for count in config.compare.steps}, reverse=True)
    others = [Setting(method, count) for count in steps for method in config.compare.methods]
    return [full, replace(full, repeat=True), *(each for each in others if each != full)]


def study_key(plan: Plan) -> str:
    """Key of the summary's record: of maps, settings, measures, and of the files that were read.

    It changes if an item or a target mask of the study is edited after a study.
    """
    return record_key(Path(plan.config.run_dir, "compare_samplers"), KIND, base_key(plan), plan)


def base_key(plan: Plan) -> str:
    """The part of the study's key that is known before any file of an item is read."""
    config = plan.config
    sections = [asdict(config.compare), asdict(config.evaluation)]
    return digest([plan.fingerprint, *sections, MEASURES_VERSION])


@dataclass(frozen=True)
class SettingResult:
    """What was measured of one setting.

    Attributes:
        setting: of the study.
        items: (set, index) of each sample.
        values: name -> (num_samples,) values; NaN where a sample has none.
        projections: (num_samples, k, num_directions), the maps projected on fixed random
            directions. They are scaled: distances are about the RMS difference in contact.
        seconds_per_map: of sampling alone.
        device: the name of the device that sampled.
    """

    setting: Setting
    items: list[tuple[str, str]]
    values: dict[str, np.ndarray]
    projections: np.ndarray
    seconds_per_map: float
    device: str


def write_result(path: Path, result: SettingResult) -> None:
    """Write a finished setting, whole or not at all."""
    content = asdict(result) | {
        "values": {name: values.tolist() for name, values in result.values.items()},
        "projections": np.round(result.projections.astype(np.float64), 7).tolist(),
    }
    write_bytes(path, seal(content))


def read_result(path: Path) -> SettingResult | None:
    """A finished setting; None if there is none.

    Raises:
        ArchiveError: the file is damaged, or not what its name says.
    """
    try:
        content = unseal(read_bytes(path))
        result = SettingResult(
            setting=Setting(**content["setting"]),
            items=[tuple(item) for item in content["items"]],
            values={name: np.array(v, np.float64) for name, v in content["values"].items()},
            projections=np.array(content["projections"], np.float64),
            seconds_per_map=content["seconds_per_map"],
            device=content["device"],
        )
        if result.setting.name != path.stem:
            raise ValueError(f"it is the result of {result.setting.name}")
        if not np.isfinite(result.projections).all():
            raise ValueError("it holds NaN or infinity")
        return result
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f"{path}: not a finished setting of the study ({error}); to draw it again: rm {path}, "
            "then run the same command again"
        ) from None


def summarise_study(results: Sequence[SettingResult], config: Config) -> dict[str, Any]:
    """Every setting's measures with intervals, what lies outside, and the verdict.

    Args:
        results: of `study_settings`, in that order.
        config: sections `diffusion`, `evaluation` and `compare`.
    Returns:
        The content of summary.json.
    """
    # The full chain's intervals, and how much its repeat differs from it.
    full, repeat = results[:2]
    names = sort_names(name for name, v in full.values.items() if np.isfinite(v).any())
    comparison = _Comparison(full, repeat, names, config.evaluation)

    # Every setting against both.
    settings = [comparison.entry(result) for result in results]
    return {
        "rule": RULE,
        "recommended": _fewest_steps(settings, "outside", "beyond_noise_floor"),
        "within_intervals": _fewest_steps(settings, "outside"),
        "not_worse": _fewest_steps(settings, "worse"),
        "full_steps": full.setting.steps,
        "num_samples": len(full.items),
        "num_items": len(comparison.full_values),
        "k_samples": full.projections.shape[1],
        "evaluation": asdict(config.evaluation),
        "measures": {name: describe_measure(name) for name in names},
        "noise_floor": {
            name: interval._asdict() for name, interval in comparison.noise_floor.items()
        },
        "settings": settings,
    }


class _Comparison:
    """The full chain and its repeat, and how another setting compares with them.

    Attributes:
        full_values: (num_items, len(names)) values of the full chain.
        band: name -> the full chain's interval.
        noise_floor: energy distance and mean difference in diversity of the repeat.
    """

    def __init__(
        self,
        full: SettingResult,
        repeat: SettingResult,
        names: Sequence[str],
        config: EvaluationConfig,
    ):
        self.full, self.names, self.config = full, names, config
        self.full_values = _by_item(full, names)
        self.band = intervals(self.full_values, names, config)
        self.noise_floor = {
            ENERGY: energy_interval(repeat, full, config),
            DIVERSITY: self.mean_differences(repeat)[DIVERSITY],
        }

    def mean_differences(self, result: SettingResult) -> dict[str, Interval]:
        """name -> mean difference to the full chain, item by item."""
        differences = _by_item(result, self.names) - self.full_values
        found = bootstrap(differences, **_draws(self.config))
        return dict(zip(self.names, found, strict=True))

    def entry(self, result: SettingResult) -> dict[str, Any]:
        """What the summary says of one setting."""
        # Its values, and how they differ from the full chain's.
        found = intervals(_by_item(result, self.names), self.names, self.config)
        shift = self.mean_differences(result)
        energy = energy_interval(result, self.full, self.config)

        # Part (1) of the rule, and the part of it that counts only worse values.
        outside = [name for name in self.names if found[name].value not in self.band[name]]
        worse = [name for name in outside if is_worse(name, found[name].value, self.band[name])]

        # Part (2) of the rule.
        beyond = []
        if energy.value > self.noise_floor[ENERGY].high:
            beyond.append(ENERGY)
        if shift[DIVERSITY].value not in self.noise_floor[DIVERSITY]:
            beyond.append(DIVERSITY)

        is_full = result is self.full
        return {
            "method": result.setting.method,
            "steps": result.setting.steps,
            "role": FULL if is_full else REPEAT if result.setting.repeat else COMPARED,
            "outside": outside,
            "worse": worse,
            "beyond_noise_floor": [] if is_full else beyond,
            "seconds_per_map": result.seconds_per_map,
            "device": result.device,
            "diversity_ratio": found[DIVERSITY].value / self.band[DIVERSITY].value,
            ENERGY: None if is_full else energy._asdict(),
            "measures": {
                name: found[name]._asdict() | {"mean_difference": shift[name]._asdict()}
                for name in self.names
            },
        }


def _by_item(result: SettingResult, names: Sequence[str]) -> np.ndarray:
    """(num_items, len(names)): the mean over an item's captions."""
    rows = zip(*(result.values[name].tolist() for name in names), strict=True)
    return by_item(result.items, [dict(zip(names, row, strict=True)) for row in rows], names)


def energy_interval(
    result: SettingResult, full: SettingResult, config: EvaluationConfig
) -> Interval:
    """Energy distance of an item's maps to the full chain's maps of it, averaged over items."""
    pairs = zip(result.projections, full.projections, strict=True)
    rows = [{ENERGY: energy_distance(maps, others)} for maps, others in pairs]
    [interval] = bootstrap(by_item(result.items, rows, [ENERGY]), **_draws(config))
    return interval


def _draws(config: EvaluationConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in ("resamples", "confidence", "seed")}


def is_worse(name: str, value: float, band: Interval) -> bool:
    """Whether a value outside the band is on its bad side.

    Both sides are bad for a measure without a better direction, such as diversity.
    """
    better = measure_of(name).better
    return better == "neither" or (value < band.low) == (better == "higher")


def _fewest_steps(settings: Sequence[Mapping], *faults: str) -> dict[str, Any]:
    """The setting with the fewest steps whose lists of faults are empty, else the full chain."""
    fit = [s for s in settings if s["role"] == COMPARED and not any(s[fault] for fault in faults)]
    best = min(fit, key=lambda each: (each["steps"], each[ENERGY]["value"]), default=settings[0])
    return {key: best[key] for key in ("method", "steps", "seconds_per_map")}
