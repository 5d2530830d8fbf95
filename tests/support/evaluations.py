"""Small archives that are evaluated, and small studies of samplers."""

from pathlib import Path

import numpy as np
from helpers import NUM_POINTS, plan_run, run_config, write_dataset, write_dummy_chunk
from remembered import remembered

from cdm.evaluation.evaluate import evaluate, evaluation_key
from cdm.evaluation.study import Setting, SettingResult, study_settings
from cdm.evaluation.study_looks import run_looks
from cdm.evaluation.study_summary import summarise_study
from cdm.run.merge import merge

FEW_DRAWS = {"evaluation": {"resamples": 100}}
TINY = {
    "diffusion": {"steps": 6, "timestep_respacing": ""},
    "sampling": {"batch_size": 3, "k_samples": 2},
    "evaluation": {"resamples": 100},
    "compare": {
        "samplers": ["dpmpp_2m 6", "ddpm 3", "dpmpp_2m 3"],
        "full_chains": 2,
        "draws": 1,
        "k_samples": 2,
        "first_items": None,
        "max_items": None,
        "projections": 8,
    },
}
ITEMS = [("HUMANISE", str(i)) for i in range(40)]
QUALITY = np.random.default_rng(0).gamma(4, size=40)
MASKS = Path("data/HUMANISE/contact_motion/target_mask")


def quiet(line):
    """A log that says nothing."""


def write_masks(folder, count):
    """Target masks of a dataset's items: every eighth point, another one for each item."""
    (folder / MASKS).mkdir()
    for index in range(count):
        np.save(folder / MASKS / f"{index:05}.npy", np.arange(NUM_POINTS) % 8 == index)


@remembered
def make_archive(folder, skipped=None, masks=True, **changes):
    """The plan of a merged archive of random maps over 7 random items, with target masks.

    Args:
        folder: the working directory.
        skipped: row of the first chunk -> the reason why it was skipped.
    """
    if not (folder / "data").exists():
        write_dataset(folder / "data", 7, NUM_POINTS)
    if masks:
        write_masks(folder, 7)
    plan, _ = plan_run(folder, **(FEW_DRAWS | changes))
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk, skipped if chunk.number == 0 else None)
    merge(plan, quiet)
    return plan


def run_evaluate(plan):
    """Evaluate as the rule does: content of metrics.json, and the record."""
    record = evaluation_record(plan)
    return evaluate(plan, record, quiet, threads=2), record


def evaluation_record(plan):
    """The file that the rule `evaluate` has to write."""
    return Path(plan.config.run_dir, "report", f"evaluation-{evaluation_key(plan)}.json")


def tiny(**changes):
    """TINY with some keys of its sections changed."""
    sections = {**TINY, **changes}
    return {
        key: {**TINY.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in sections.items()
    }


STUDIED = run_config(
    **tiny(
        compare={
            "samplers": [
                *("ddpm 3", "dpmpp_2m 3", "ddpm 2", "dpmpp_2m 2"),
            ],
            "full_chains": 3,
            "draws": 2,
            "k_samples": 4,
            "detect": 0.2,
        }
    )
)
FULL_CHAIN = Setting("ddpm", "", 6)


def setting_result(setting=FULL_CHAIN, draw=0, items=40, shift=0.0, spread=1.0, number=0):
    """A draw whose CPLE is shifted, and whose maps are spread wider.

    Args:
        number: of the setting; with the draw, it decides the noise.
    """
    rng = np.random.default_rng([number, draw])
    return SettingResult(
        setting=setting,
        draw=draw,
        items=ITEMS[:items],
        values={
            "CPLE": (QUALITY + rng.normal(0, 0.1, 40) + shift)[:items],
            "diversity": (spread + 0.1 * QUALITY + rng.normal(0, 0.1, 40))[:items],
            "found_target": np.full(items, np.nan),
        },
        projections=spread * rng.normal(size=(40, 4, 8))[:items],
        seconds=setting.steps / 100 * 4 * items,
        device="none",
    )


def study_outcome(config=STUDIED, **changed):
    """Settings as good as the full chain, except those that are named: their shift and spread."""
    settings = study_settings(config)

    def draw(setting, number, positions):
        options = changed.get(setting.name.replace(" ", "_"), {})
        result = setting_result(setting, number, number=settings.index(setting), **options)
        return result.take(positions)

    return run_looks(config, 40, draw)


def study_summary(config=STUDIED, **changed):
    """The summary of `study_outcome`."""
    return summarise_study(study_outcome(config, **changed), config, checkpoint="0123456789abcdef")
