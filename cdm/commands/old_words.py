"""`cdm run`: what was typed to afford-motion's scripts, as the snakemake command of the same job.

Overrides may have afford-motion's keys (`task.dataset.sigma=0.8`) or ours
(`sampling.batch_size=16`). The names of its scripts may stand before them, as they were typed.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cdm.config.hydra_words import Override, as_node, read_override
from cdm.config.layers import nested, overlay, typed_value
from cdm.config.reference_keys import NO_MEANING, OF_SCENE_MODEL, REQUIRED, SAME, translate
from cdm.config.schema import accepts_null, all_keys, part
from cdm.config.training_log import read_log
from cdm.errors import CDMError, ConfigError

SAMPLE, TEST, TRAIN = "sample", "test", "train"
# afford-motion's scripts, and what each one does.
SCRIPTS = {
    "train.py": TRAIN,
    "train_ddp.py": TRAIN,
    "test.py": TEST,
    "train_contact_gen.py": SAMPLE,
    "gen_train_contact.py": SAMPLE,
}
CLIPS, SETS = "ContactHumanML3DDataset", "ContactMapDataset"
# What `task=NAME` chooses: the dataset.
TASKS = {
    "text_to_motion_contact_gen": CLIPS,
    "contact_gen": SETS,
    "contact_gen_train": SETS,
}
STAGE_2 = ("text_to_motion_contact_motion_gen", "contact_motion_gen", "cmdm")
# Defaults of afford-motion that differ from ours. They count where no log tells the training.
THEIR_DEFAULTS = {
    "diffusion.steps": "1000",
    "dataset.sigma": "0.5",
    "model.text_model.max_length": "32",
    "model.scene_model.use_scene_model": "true",
}
THEIR_SCENE_MODEL = {
    "model.scene_model.pretrained_weight": "./data/POINTTRANS_C_N8192_E300/model.pth",
}
THEIR_BATCH = 32  # task.test.batch_size
# Keys that mean something for a run, and nothing in the log of a training.
OF_A_RUN = {
    "gpu": "gpu",
    "exp_name": "exp_name",
    "exp_dir": "exp_dir",
    "output_dir": "output_dir",
    "model.data_repr": "dataset.data_repr",  # there, the dataset's follows the model's
    "task.dataset.phase": "dataset.phase",
}
OF_SAMPLING = {
    "task.train.phase": "dataset.phase",
    "task.train.batch_size": "sampling.batch_size",
    "task.test.batch_size": "sampling.batch_size",
}
OF_TRAINING = {
    "task.train.batch_size": "training.batch_size",
    "task.train.max_steps": "training.steps",
    "task.train.lr": "training.lr",
    "task.train.weight_decay": "training.weight_decay",
    "task.train.save_every_step": "training.checkpoint_every",
}

# Snakemake's options for settings, as error messages name them: here each word tells what it is.
NEEDLESS = ("--config", "-C", "--configfile", "--configfiles")


@dataclass
class Job:
    """What was typed, in our terms.

    Attributes:
        kind: sample, test or train: what the script does.
        trains: whether a model is trained, by a script or by our rule.
        values: our dotted key -> value.
        targets: rules that were named.
        configfiles: files of our keys that were named.
        left_out: words without a meaning here -> the reason.
    """

    kind: str = SAMPLE
    trains: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    configfiles: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def read_words(words: Iterable[str], rules: Iterable[str]) -> Job:
    """Read what was typed.

    Args:
        words: overrides, names of rules and of our .yaml files, and the name of a script with what
            stands before it; --config and --configfile may stand before what they would name.
        rules: that may be targets.
    Raises:
        ConfigError: an unknown key (with the nearest one), or something that cannot be done here
            as it was meant.
    """
    words, job = [word for word in words if word not in NEEDLESS], Job()
    scripts = [place for place, word in enumerate(words) if word.endswith(".py")]
    if scripts:
        words = _read_script(words, scripts[-1], job)

    job.trains = job.kind == TRAIN or "train" in words

    # Each word by itself.
    theirs: dict[str, Override] = {}
    for word in words:
        override = read_override(word)
        if override is None and word in rules:
            job.targets.append(word)
        elif override is None and word.endswith((".yaml", ".yml")):
            job.configfiles.append(word)
        elif word.startswith("-"):
            raise ConfigError(f"{word}: options of Snakemake stand behind --, as in: -- {word}")
        elif override is None:
            raise ConfigError(
                f"{word}: expected key=value, a .yaml file, or a rule{_near(word, rules)}"
            )
        else:
            _sort_in(word, override, job, theirs)

    # The keys of afford-motion together.
    _translate(theirs, job)
    trained = theirs.get("task.train.phase")
    if job.kind == TRAIN and trained is not None and trained.value != "train":
        raise ConfigError(
            f"task.train.phase={trained.value}: a model is trained on the split train here"
        )
    if job.kind == TRAIN and not job.configfiles:  # else the built-in rooms would be trained on
        job.values.setdefault("dataset.data_dir", "data")
    if job.kind == TEST:
        _read_protocol(theirs, job)
    task = theirs.get("task")
    if task is not None:
        job.values.setdefault("dataset.name", TASKS[task.value])
    if {"task", "model"} & theirs.keys():
        _fill_in_their_defaults(job)
    job.values = {key: typed_value(key, value) for key, value in job.values.items()}
    return job


def _read_script(words: list[str], place: int, job: Job) -> list[str]:
    """Take in the script's name; returns the words behind it."""
    name = words[place].rpartition("/")[2]
    if name not in SCRIPTS:
        raise ConfigError(
            f"{words[place]}: not a script of stage 1, expected one of {', '.join(SCRIPTS)}"
        )
    job.kind = SCRIPTS[name]
    variables = [word for word in words[:place] if "=" in word and not word.startswith("-")]
    if variables:
        raise ConfigError(
            f"{variables[0]}: a variable of the shell; put it in front: {variables[0]} cdm run ..."
        )
    if job.kind == TEST:
        job.values |= {"dataset.phase": "test", "dataset.captions": "reference"}
    if job.kind == TRAIN:
        job.targets.append("train")
    return words[place + 1 :]


def _sort_in(word: str, override: Override, job: Job, theirs: dict[str, Override]) -> None:
    """Find out what the key of an override is, and keep it where it belongs."""
    key = override.key
    of_kind = OF_TRAINING if job.kind == TRAIN else OF_SAMPLING
    ours = {**of_kind, **OF_A_RUN}.get(key)
    if key == "save_dir":  # the fork's gen_train_contact.py
        job.values |= {"export.to": override.value, "export.for": "train"}
        job.targets.append("export_pred_contact")
    elif key == "task" or (key == "model" and not isinstance(override.value, dict)):
        _check_group(word, override)
        theirs[key] = override
    elif job.trains and re.fullmatch(r"model\..*dropout", key):
        _check_dropout(word, override)
    elif job.trains and re.match(r"model\.(arch_|time_emb_dim)", key) and _is_value(key):
        job.values[key] = override.value  # a size, which is read off the weights elsewhere
    elif override.deletes:
        if not _is_known(key):
            raise ConfigError(_unknown(word, key))
        theirs.pop(key, None)
        job.values.pop(SAME.get(key, key), None)
    elif ours is not None:
        job.values[ours] = override.value
    elif key in SAME or key in REQUIRED or _why_no_meaning(key) or _has_parts(key):
        theirs[key] = override
    elif _is_value(key):
        job.values[key] = override.value
    elif part(key) is not None and isinstance(override.value, dict):
        job.values |= dict(_leaves(key, override.value))
    else:
        raise ConfigError(_unknown(word, key))


def _check_group(word: str, override: Override) -> None:
    """`task=NAME` and `model=NAME` choose a file there."""
    value, known = override.value, [*TASKS] if override.key == "task" else ["cdm"]
    if value in STAGE_2:
        raise ConfigError(f"{word}: is of stage 2, which reads the maps that are made here")
    if value not in known:
        raise ConfigError(f"{word}: expected {override.key}= one of {', '.join(known)}")


def _check_dropout(word: str, override: Override) -> None:
    """A share in one layer may be afford-motion's own: `training.dropout` is for all of them."""
    usual = "0.0" if "residual" in override.key else "0.1"
    if str(override.value) not in (usual, usual.removesuffix(".0")):
        raise ConfigError(f"{word}: expected {usual}; training.dropout=SHARE sets all of them here")


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of a section of ours as dotted keys, which defaults are held against."""
    if isinstance(value, dict) and not _is_value(key):
        for name, each in value.items():
            yield from _leaves(f"{key}.{name}", each)
    else:
        yield key, value


def _is_value(key: str) -> bool:
    """Whether a key is ours, and no section."""
    known = part(key)
    return known is not None and "properties" not in known


def _has_parts(key: str) -> bool:
    """Whether a key of afford-motion is a section, such as task.dataset.sets_config.PROX."""
    return any(name.startswith(f"{key}.") for name in (*SAME, *REQUIRED)) and part(key) is None


def _why_no_meaning(key: str) -> str | None:
    return next((why for pattern, why in NO_MEANING if re.fullmatch(pattern, key)), None) or (
        "of the old scripts' command line" if key.startswith("hydra/") else None
    )


def _is_known(key: str) -> bool:
    known = key in SAME or key in REQUIRED or part(key) is not None
    return bool(known or _why_no_meaning(key) or _has_parts(key))


def _unknown(word: str, key: str) -> str:
    known = [*all_keys(), *SAME, *REQUIRED, *OF_A_RUN, *OF_SAMPLING, *OF_TRAINING]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    by_end = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    return f"{word}: unknown key '{key}'; did you mean '{(by_end or close)[0]}'?"


def _near(word: str, rules: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, rules, n=1)
    return f"; did you mean '{close[0]}'?" if close else f" ({', '.join(sorted(rules))})"


def _translate(theirs: dict[str, Override], job: Job) -> None:
    """The keys of afford-motion as ours, and those without a meaning."""
    tree: dict[str, Any] = {}
    for key, override in theirs.items():
        if key in ("task", "model") or "/" in key:
            continue
        tree = overlay(tree, nested(key, override.value))
    found = translate(as_node(tree), "", accepts_null)
    if found.refused:
        listed = "".join(f"\n  {text.removeprefix(' line 0: ')}" for text, _ in found.refused)
        raise ConfigError(f"this cannot be sampled here as it is meant:{listed}")
    if "model.scene_model.use_scene_model" not in theirs:  # a log or a file may have it
        found.values |= {key: theirs[key].value for key in OF_SCENE_MODEL if key in theirs}
    job.values = found.values | job.values
    for key, override in theirs.items():
        if key in job.values:
            continue
        why = found.no_meaning.get(key) or ("/" in key and _why_no_meaning(key))
        if why and not (key.startswith("task.evaluator.") and job.kind == TEST):
            job.left_out[f"{key}={override.value}"] = why


def _read_protocol(theirs: dict[str, Override], job: Job) -> None:
    """Which items afford-motion's test takes, and how many maps of each (docs/data.md)."""

    def number(name: str, usual: int) -> int:
        override = theirs.get(f"task.evaluator.{name}")
        if override is None:
            return usual
        try:
            return int(override.value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"task.evaluator.{name}={override.value}: expected a whole number"
            ) from None

    given = str(job.values.get("sampling.batch_size", "auto"))
    # What is neither a number nor `auto` is refused with the configuration.
    batch = int(given) if given.isdecimal() and int(given) > 0 else THEIR_BATCH
    maps = number("k_samples", 0)
    if maps > 0:
        items = number("num_k_samples", 128) // batch * batch
        job.values.setdefault("sampling.k_samples", str(maps))
        job.values.setdefault("dataset.max_items", str(max(items, 1)))
    elif "task.evaluator.eval_nbatch" in theirs:
        job.values.setdefault("dataset.max_items", str(number("eval_nbatch", 32) * batch))


def _fill_in_their_defaults(job: Job) -> None:
    """What `task=` and `model=` bring with them, where no log of the training tells it."""
    exp_dir = job.values.get("exp_dir")
    try:
        if exp_dir is not None and read_log(str(exp_dir)) is not None:
            return
    except CDMError:
        pass  # the plan tells what is wrong with it
    for key, value in THEIR_DEFAULTS.items():
        job.values.setdefault(key, value)
    if str(job.values["model.scene_model.use_scene_model"]).lower() == "true":
        for key, value in THEIR_SCENE_MODEL.items():
            job.values.setdefault(key, value)


def config_words(job: Job, flow) -> Iterator[str]:
    """`key=value` for Snakemake's `--config`, one for each section.

    Args:
        flow: a value as one line of YAML.
    """
    values: dict[str, Any] = {}
    for key, value in job.values.items():
        values = overlay(values, nested(key, value))
    for key, value in values.items():
        yield f"{key}={flow(value)}"
