"""How few steps are enough: which samplers are compared, and by what rule (no torch).

Every cell, a sampler with a number of steps, draws k maps of the same items. The full chain (DDPM
with all steps of the training) is drawn twice, with independent noise: the first is what all other
cells are held against, the second shows what two draws of the very same sampler differ by, the
*floor*. All other cells share the noise of the second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cdm.config import Config, EvaluationConfig
from cdm.errors import ArchiveError
from cdm.evaluation.bootstrap import Interval, bootstrap
from cdm.evaluation.measure import MEASURES_VERSION, describe, higher_is_better, statistic
from cdm.evaluation.metrics import energy_distance
from cdm.evaluation.summary import by_item, intervals, sort_names
from cdm.files import digest, seal, unseal, write_bytes
from cdm.run.plan import Plan

FULL_METHOD = "ddpm"
ENERGY, DIVERSITY = "energy_distance", "diversity"
SPREADS = (DIVERSITY, "pelvis_point_spread")  # neither more nor less is better
RULE = (
    "A cell is as good as the full chain if (1) the value of every measure, diversity and the best "
    "of an item's maps included, lies within the full chain's confidence interval, and (2) it is "
    "within the floor, the interval of a second full chain with other noise: its energy distance "
    "to the full chain is not above the floor's upper end, and its mean difference in diversity, "
    "item by item, lies between the floor's ends. Recommended is, of those, the cell with the "
    "fewest steps; among equals the one with the smallest energy distance."
)


@dataclass(frozen=True)
class Cell:
    """A sampler with a number of steps; `again` is the second full chain."""

    method: str
    steps: int
    again: bool = False

    @property
    def name(self) -> str:
        """File name of its results."""
        return f"{self.method}-{self.steps}{'-again' if self.again else ''}"

    def configure(self, config: Config) -> Config:
        """The configuration that draws maps this way."""
        everything = self.steps == config.diffusion.steps
        return replace(
            config,
            diffusion=replace(
                config.diffusion, timestep_respacing="" if everything else self.steps
            ),
            sampling=replace(config.sampling, method=self.method, eta=0.0),
        )


def study_cells(config: Config) -> list[Cell]:
    """The full chain, its second draw, and every other cell, most steps first."""
    most = config.diffusion.steps
    full = Cell(FULL_METHOD, most)
    steps = sorted({min(count, most) for count in config.compare.steps}, reverse=True)
    others = [Cell(method, count) for count in steps for method in config.compare.methods]
    return [full, replace(full, again=True), *(cell for cell in others if cell != full)]


def study_key(plan: Plan) -> str:
    """Names a summary's record: of maps, cells and measures."""
    config = plan.config
    settings = [asdict(config.compare), asdict(config.evaluation)]
    return digest([plan.fingerprint, *settings, MEASURES_VERSION])


@dataclass(frozen=True)
class CellResult:
    """What was measured of a cell.

    Attributes:
        cell: of the study.
        items: (set, index) of each sample.
        values: name -> (num_samples,) values; NaN where a sample has none.
        projections: (num_samples, k, num_directions), the maps on fixed random directions, scaled
            so that distances are about the RMS difference in contact.
        seconds_per_map: of sampling alone.
        device: where.
    """

    cell: Cell
    items: list[tuple[str, str]]
    values: dict[str, np.ndarray]
    projections: np.ndarray
    seconds_per_map: float
    device: str


def write_cell(path: Path, result: CellResult) -> None:
    """Write a finished cell, whole or not at all."""
    content = asdict(result) | {
        "values": {name: values.tolist() for name, values in result.values.items()},
        "projections": np.round(result.projections.astype(np.float64), 7).tolist(),
    }
    write_bytes(path, seal(content))


def read_cell(path: Path) -> CellResult | None:
    """A finished cell; None where there is none.

    Raises:
        ArchiveError: the file is damaged.
    """
    try:
        content = unseal(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ArchiveError(
            f"{path}: not a finished cell ({error}); to draw it again: rm {path}, then run the "
            "same command again"
        ) from None
    return CellResult(
        cell=Cell(**content["cell"]),
        items=[tuple(item) for item in content["items"]],
        values={name: np.array(v, np.float64) for name, v in content["values"].items()},
        projections=np.array(content["projections"], np.float64),
        seconds_per_map=content["seconds_per_map"],
        device=content["device"],
    )


def summarise_study(results: Sequence[CellResult], config: Config) -> dict[str, Any]:
    """Every cell's measures with intervals, what lies outside the full chain's, and the verdict.

    Args:
        results: of `study_cells`, in that order.
        config: sections `diffusion`, `evaluation` and `compare`.
    """
    full, again = results[:2]
    names = sort_names(name for name, v in full.values.items() if np.isfinite(v).any())
    reference = _by_item(full, names)
    band = intervals(reference, names, config.evaluation)

    def shifts(result: CellResult) -> dict[str, Interval]:
        """Mean difference to the full chain, item by item."""
        differences = _by_item(result, names) - reference
        return dict(zip(names, bootstrap(differences, **_draws(config.evaluation)), strict=True))

    floor = {
        ENERGY: energy_interval(again, full, config.evaluation),
        DIVERSITY: shifts(again)[DIVERSITY],
    }
    cells = []
    for result in results:
        found = intervals(_by_item(result, names), names, config.evaluation)
        shift, energy = shifts(result), energy_interval(result, full, config.evaluation)
        outside = [name for name in names if found[name].value not in band[name]]
        beyond = [ENERGY] * (energy.value > floor[ENERGY].high)
        beyond += [DIVERSITY] * (shift[DIVERSITY].value not in floor[DIVERSITY])
        cells.append(
            {
                "method": result.cell.method,
                "steps": result.cell.steps,
                "role": "full" if result is full else "floor" if result.cell.again else "cell",
                "outside": outside,
                "worse": [n for n in outside if _is_worse(n, found[n].value, band[n])],
                "beyond_floor": [] if result is full else beyond,
                "seconds_per_map": result.seconds_per_map,
                "device": result.device,
                "diversity_ratio": found[DIVERSITY].value / band[DIVERSITY].value,
                ENERGY: None if result is full else energy._asdict(),
                "measures": {
                    name: found[name]._asdict() | {"mean_difference": shift[name]._asdict()}
                    for name in names
                },
            }
        )
    return {
        "rule": RULE,
        "recommended": _fewest_steps(cells, "outside", "beyond_floor"),
        "within_intervals": _fewest_steps(cells, "outside"),
        "not_worse": _fewest_steps(cells, "worse"),
        "full_steps": full.cell.steps,
        "num_samples": len(full.items),
        "num_items": len(reference),
        "k_samples": full.projections.shape[1],
        "evaluation": asdict(config.evaluation),
        "measures": {
            name: {
                "statistic": statistic(name),
                "better": "higher" if higher_is_better(name) else "lower",
                "unit": describe(name)[0],
                "meaning": describe(name)[1],
            }
            for name in names
        },
        "floor": {name: interval._asdict() for name, interval in floor.items()},
        "cells": cells,
    }


def _by_item(result: CellResult, names: Sequence[str]) -> np.ndarray:
    """(num_items, len(names)): the mean over an item's captions."""
    rows = zip(*(result.values[name].tolist() for name in names), strict=True)
    return by_item(result.items, [dict(zip(names, row, strict=True)) for row in rows], names)


def energy_interval(result: CellResult, full: CellResult, config: EvaluationConfig) -> Interval:
    """Energy distance of an item's maps to the full chain's, averaged over items."""
    pairs = zip(result.projections, full.projections, strict=True)
    rows = [{ENERGY: energy_distance(maps, others)} for maps, others in pairs]
    [interval] = bootstrap(by_item(result.items, rows, [ENERGY]), **_draws(config))
    return interval


def _draws(config: EvaluationConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in ("resamples", "confidence", "seed")}


def _is_worse(name: str, value: float, band: Interval) -> bool:
    """Whether a value outside the band is on the bad side; for diversity both sides are."""
    if name in SPREADS:
        return True
    return (value < band.low) == higher_is_better(name)


def _fewest_steps(cells: Sequence[Mapping], *faults: str) -> dict[str, Any]:
    """The cell with the fewest steps and nothing in its lists of faults, else the full chain."""
    fit = [c for c in cells if c["role"] == "cell" and not any(c[fault] for fault in faults)]
    best = min(fit, key=lambda cell: (cell["steps"], cell[ENERGY]["value"]), default=cells[0])
    return {key: best[key] for key in ("method", "steps", "seconds_per_map")}
