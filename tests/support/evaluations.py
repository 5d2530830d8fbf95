"""Small archives that are evaluated, and small studies of samplers."""

from pathlib import Path

import numpy as np
from helpers import NUM_POINTS, plan_run, run_config, write_dataset, write_dummy_chunk

from cdm.evaluation.evaluate import evaluate, evaluation_key
from cdm.evaluation.study import Setting, SettingResult, study_settings, summarise_study
from cdm.run.merge import merge

FEW_DRAWS = {"evaluation": {"resamples": 100}}
TINY = {
    "diffusion": {"steps": 6, "timestep_respacing": ""},
    "sampling": {"batch_size": 3, "k_samples": 2},
    "evaluation": {"resamples": 100},
    "compare": {
        "methods": ["ddpm", "dpmpp_2m"],
        "steps": [50, 3],
        "k_samples": 2,
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


def make_archive(folder, skipped=None, masks=True, **changes):
    """The plan of a merged archive of random maps over 7 random items, with target masks.

    Args:
        folder: the working directory.
        skipped: row of the first chunk -> the reason why it was skipped.
    """
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


STUDIED = run_config(**tiny(compare={"steps": [6, 3, 2]}))


FULL_CHAIN = Setting("ddpm", 6)


def setting_result(setting=FULL_CHAIN, shift=0.0, spread=1.0, seed=0):
    """A result whose CPLE is shifted, and whose maps are spread wider."""
    rng = np.random.default_rng([seed, 1])
    return SettingResult(
        setting=setting,
        items=ITEMS,
        values={
            "CPLE": QUALITY + shift,
            "diversity": spread + 0.1 * QUALITY + rng.normal(0, 0.01, 40),
            "found_target": np.full(40, np.nan),
        },
        projections=spread * rng.normal(size=(40, 4, 8)),
        seconds_per_map=setting.steps / 100,
        device="none",
    )


def study_results(**changed):
    """Results as good as the full chain's, except those that are named: their shift and spread."""
    return [
        setting_result(setting, seed=number, **changed.get(setting.name.replace("-", "_"), {}))
        for number, setting in enumerate(study_settings(STUDIED))
    ]


def study_summary(**changed):
    """The summary of `study_results`."""
    return summarise_study(study_results(**changed), STUDIED)
