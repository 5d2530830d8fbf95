"""How few steps are enough: which settings are drawn, in which rounds of items, and their files.

A *setting* is a sampler with a time grid. Every setting draws k maps of the same items, several
times, with independent noise. The full chain is DDPM with all steps of the training;
`cdm.evaluation.study_rule` holds every other setting against it. No module here imports torch but
`cdm.evaluation.study_run`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cdm.config import Config
from cdm.errors import ArchiveError, ConfigError
from cdm.evaluation.measure import MEASURES_VERSION
from cdm.evaluation.records import record_key
from cdm.files import digest, read_bytes, seal, unseal, write_bytes
from cdm.run.plan import Plan
from cdm.sampling.diffusion import create_diffusion

KIND = "summary"  # the study's records are summary-{key}.json
STUDY_VERSION = 2  # raised whenever the rule changes what is drawn or concluded
FULL_METHOD = "ddpm"
LONGEST_NAME = 60  # characters of a setting in the name of a file
GOLDEN = (5**0.5 - 1) / 2


class Setting(NamedTuple):
    """A sampler with a time grid.

    Attributes:
        method: `sampling.method`.
        respacing: `diffusion.timestep_respacing` as text; "" for all steps.
        steps: evaluations of the model for a map.
    """

    method: str
    respacing: str
    steps: int

    @property
    def name(self) -> str:
        """What tables, figures and logs call it."""
        return f"{self.method} {self.respacing or 'all'}"

    @property
    def grid(self) -> str:
        """The family of time grids: "even", or what stands before the number of steps."""
        family = re.fullmatch(r"([a-z]*)[0-9]+", self.respacing)
        return (family[1] or "even") if family else "listed" if self.respacing else "even"

    def file(self, draw: int) -> str:
        """Name of the file with the result of a draw."""
        name = re.sub("[^A-Za-z0-9_]+", "-", self.name)
        if len(name) > LONGEST_NAME:  # a long list of steps
            name = f"{name[:LONGEST_NAME]}-{digest(self.name)}"
        return f"{name}-{draw}.json"

    def configure(self, config: Config) -> Config:
        """The configuration that draws maps with this setting."""
        respacing = int(self.respacing) if self.respacing.isdigit() else self.respacing
        return replace(
            config,
            diffusion=replace(config.diffusion, timestep_respacing=respacing),
            sampling=replace(config.sampling, method=self.method, eta=0.0),
        )


def full_chain(config: Config) -> Setting:
    """The setting that all others are held against."""
    return Setting(FULL_METHOD, "", config.diffusion.steps)


def study_settings(config: Config) -> list[Setting]:
    """The full chain, then the settings of `compare.samplers` in their order.

    Raises:
        ConfigError: the chain cannot be respaced so.
    """
    diffusion, settings = config.diffusion, [full_chain(config)]
    for text in config.compare.samplers:
        method, respacing = text.split()
        try:
            chain = create_diffusion(diffusion.steps, diffusion.noise_schedule, respacing)
        except ConfigError as problem:
            raise ConfigError(
                f"compare.samplers: {text!r} cannot be drawn: {problem}. Leave it out, or: "
                f"--config 'compare={{samplers: [{FULL_METHOD} {diffusion.steps // 2}]}}'"
            ) from None
        every = chain.num_timesteps == diffusion.steps
        settings.append(Setting(method, "" if every else respacing, chain.num_timesteps))
    return list(dict.fromkeys(settings))


def noise_numbers(config: Config, setting: Setting, draw: int) -> range:
    """The numbers k of the maps of a draw; a map's noise depends on its number.

    The full chain has the even draws, its first maps being those of the workflow. All other
    settings have the odd draws: the same noise as each other, and none of the full chain's.
    """
    k = config.compare.k_samples
    first = (2 * draw + (setting != full_chain(config))) * k
    return range(first, first + k)


def num_draws(config: Config, setting: Setting) -> int:
    """How often a setting is drawn with independent noise."""
    compare = config.compare
    return compare.full_chains if setting == full_chain(config) else compare.draws


def spread_order(count: int) -> list[int]:
    """All numbers below count in an order of which every beginning is spread evenly.

    They are the first appearances of floor(count frac(i (sqrt(5) - 1) / 2)), i = 0, 1, 2 and so on
    (Weyl 1916). The step is irrational, so no pattern in the split, such as an action that comes
    back with every fourth item, is met or missed.
    """
    i = np.arange(8 * count + 8)
    return list(dict.fromkeys(((i * GOLDEN % 1) * count).astype(int).tolist()))


def rounds(config: Config, available: int) -> list[range]:
    """The positions, in the order of `spread_order`, of the items that each round adds.

    Each round doubles the items. A last round that would add less than half of what was there is
    made one with the round before.
    """
    compare = config.compare
    most = min(available, compare.max_items or available)
    stops = [min(compare.first_items or most, most)]
    while stops[-1] < most:
        doubled = 2 * stops[-1]
        stops.append(doubled if doubled * 1.5 <= most else most)
    return [range(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def evaluations(config: Config, settings: Iterable[Setting], samples: int) -> int:
    """Evaluations of the model for single maps: all draws of settings, of so many samples."""
    each = sum(s.steps * num_draws(config, s) for s in settings)
    return each * samples * config.compare.k_samples


def study_key(plan: Plan) -> str:
    """Key of the summary's record: of maps, settings, measures, and of the files that were read.

    It changes if an item or a target mask of the study is edited after a study.
    """
    return record_key(Path(plan.config.run_dir, "compare_samplers"), KIND, base_key(plan), plan)


def base_key(plan: Plan) -> str:
    """The part of the study's key that is known before any file of an item is read."""
    config = plan.config
    sections = [asdict(config.compare), asdict(config.evaluation)]
    return digest([plan.fingerprint, *sections, MEASURES_VERSION, STUDY_VERSION])


@dataclass(frozen=True)
class SettingResult:
    """What was measured of one draw of a setting.

    Attributes:
        setting: of the study.
        draw: number of the draw.
        items: (set, index) of each sample.
        values: name -> (num_samples,) values; NaN where a sample has none.
        projections: (num_samples, k, num_directions), the maps projected on fixed random
            directions. They are scaled: distances are about the RMS difference in contact.
        seconds: of sampling alone, for all maps.
        device: the name of the device that sampled.
    """

    setting: Setting
    draw: int
    items: list[tuple[str, str]]
    values: dict[str, np.ndarray]
    projections: np.ndarray
    seconds: float
    device: str

    @property
    def seconds_per_map(self) -> float:
        """Seconds of sampling for a map."""
        return self.seconds / (self.projections.shape[0] * self.projections.shape[1])

    def take(self, samples: Sequence[int]) -> "SettingResult":
        """The same of some of the samples."""
        part = np.asarray(samples, int)
        return replace(
            self,
            items=[self.items[sample] for sample in samples],
            values={name: values[part] for name, values in self.values.items()},
            projections=self.projections[part],
            seconds=self.seconds * len(part) / len(self.items),
        )


def join_rounds(results: Sequence[SettingResult]) -> SettingResult:
    """One draw of a setting over all of its rounds."""
    names = dict.fromkeys(name for result in results for name in result.values)
    missing = [np.full(len(result.items), np.nan) for result in results]
    columns = {
        name: [r.values.get(name, nan) for r, nan in zip(results, missing, strict=True)]
        for name in names
    }
    return replace(
        results[0],
        items=[item for result in results for item in result.items],
        values={name: np.concatenate(parts) for name, parts in columns.items()},
        projections=np.concatenate([result.projections for result in results]),
        seconds=sum(result.seconds for result in results),
    )


def write_result(path: Path, result: SettingResult) -> None:
    """Write a finished draw, whole or not at all."""
    content: dict[str, Any] = {
        "setting": result.setting._asdict(),
        "draw": result.draw,
        "items": result.items,
        "values": {name: values.tolist() for name, values in result.values.items()},
        "projections": np.round(result.projections.astype(np.float64), 7).tolist(),
        "seconds": result.seconds,
        "device": result.device,
    }
    write_bytes(path, seal(content))


def read_result(path: Path) -> SettingResult | None:
    """A finished draw; None if there is none.

    Raises:
        ArchiveError: the file is damaged, or not what its name says.
    """
    try:
        content = unseal(read_bytes(path))
        result = SettingResult(
            setting=Setting(**content["setting"]),
            draw=content["draw"],
            items=[tuple(item) for item in content["items"]],
            values={name: np.array(v, np.float64) for name, v in content["values"].items()},
            projections=np.array(content["projections"], np.float64),
            seconds=content["seconds"],
            device=content["device"],
        )
        if result.setting.file(result.draw) != path.name:
            raise ValueError(f"it is draw {result.draw} of {result.setting.name}")
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
