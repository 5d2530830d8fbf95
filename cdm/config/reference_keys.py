"""afford-motion's keys: which ones are ours, which change nothing here, and which are refused.

`task.dataset.X` there is `dataset.X` here; `model.X` and `diffusion.X` keep their names.
"""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cdm.config.composed import Node, Unresolved, find, leaves, resolved

# Keys with the same meaning here: theirs -> ours.
SAME = {
    "seed": "seed",
    **{
        f"diffusion.{key}": f"diffusion.{key}"
        for key in ("steps", "noise_schedule", "timestep_respacing", "predict_xstart")
    },
    **{
        f"task.dataset.{key}": f"dataset.{key}"
        for key in (
            *("name", "data_dir", "sets", "data_repr", "data_repr_joints", "use_raw_dist"),
            *("sigma", "num_points", "use_color", "use_openscene", "min_horizon"),
            *("sets_config.HumanML3D.use_mirror", "sets_config.HumanML3D.use_fur"),
        )
    },
    **{
        f"model.{key}": f"model.{key}"
        for key in (
            *("arch", "text_model.version", "text_model.max_length"),
            *("arch_perceiver.point_pos_emb", "arch_perceiver.encoder_num_heads"),
            *("arch_perceiver.decoder_num_heads", "arch_hybridmamba.num_heads"),
            *("scene_model.name", "scene_model.use_scene_model", "scene_model.use_color"),
            *("scene_model.use_openscene", "scene_model.num_points", "scene_model.freeze"),
            *("scene_model.point_feat_dim", "scene_model.pretrained_weight"),
        )
    },
}
# Keys that a model without point features does not use.
OF_SCENE_MODEL = tuple(
    key for key in SAME if key.startswith("model.scene_model.") and "use_scene" not in key
)
# They repeat what the dataset says, and may be left to it.
REPEATED = {
    f"model.scene_model.{key}": f"dataset.{key}"
    for key in ("use_color", "use_openscene", "num_points")
}
BACKBONES = {"Perceiver": "model.arch_perceiver.", "HybridMamba": "model.arch_hybridmamba."}
READ_DIM = "task.dataset.point_feat_dim"
PATHS = ("dataset.data_dir", "model.scene_model.pretrained_weight")

OF_SETS = ("ContactMapDataset", "ContactMapExampleDataset")
DATASETS = (*OF_SETS, "ContactHumanML3DDataset", "ContactMapCustomDataset")
H3D_EXAMPLES = "ContactHumanML3DExampleDataset"
HARMLESS_TRANSFORMS = ("RandomRotation", "ApplyTransformCDM", "NumpyToTensor")

# Keys that must have one value: key -> (value, what another one would mean).
REQUIRED = {
    "diffusion.predict_xstart": ("true", "the model predicts noise, and here x_0 is expected"),
    "diffusion.rescale_timesteps": (
        "false", "the model was shown other timesteps than it is shown here"
    ),
    "diffusion.loss_type": ("MSE", "the model may give a variance beside x_0"),
    "diffusion.learn_sigma": ("false", "the model gives a variance beside x_0"),
    "diffusion.sigma_small": ("true", "the noise of each step has another variance than here"),
    "model.name": ("CDM", "it is not a contact diffusion model (CDM), such as stage 2's CMDM"),
}  # fmt: skip
REQUIRED_OF_SET = {
    "load_text": ("true", "the model was trained without the captions of this set"),
}
REQUIRED_OF_SCENE_MODEL = {
    "model.scene_model.name": (
        "PointTransformerSeg",
        "its features are those of another scene model, which is not built here",
    ),
    "model.scene_model.freeze": (
        "true", "the scene model was trained on, and checkpoints leave its weights out"
    ),
}  # fmt: skip

# Keys without a meaning here: pattern -> why. The first that matches counts.
NO_MEANING = [
    (r"(project|project_desc|output_dir|log_dir|ckpt_dir|eval_dir|platform|stats)(\..*)?",
     "names and output of the old scripts"),
    (r"exp_name|exp_dir", "of the training's own output; exp_dir is the folder you name"),
    (r"gpu", "the training's device; here gpu is auto"),
    (r"task\.name", "a title"),
    (r"task\.train\.phase", "read as dataset.statistics_phase, where statistics are of a split"),
    (r"task\.train\..*", "of the training alone"),
    (r"task\.(test|sample)\..*", "batches and examples of the old scripts"),
    (r"task\.visualizer\..*", "of the old script's pictures"),
    (r"task\.evaluator\..*", "of the old test's protocol"),
    (r"task\.dataset\.shuffle_seed", "items are shuffled with captions: reference alone, by seed"),
    (r"task\.dataset\.max_horizon", "without effect there: clips of 200 frames and more are out"),
    (r"task\.dataset\.(train|test)_transforms", "read as dataset.transforms"),
    (r"task\.dataset\.transform_cfg\.random_mask_prob", "of the training alone"),
    (r"task\.dataset\.transform_cfg\..*", "the axis belongs to the dataset"),
    (r"task\.dataset\.point_feat_dim", "model.scene_model.point_feat_dim has it"),
    (r"task\.dataset\.(ratio|sets_config\.[^.]*\.ratio)",
     "without effect there: its datasets of contact maps take the whole split"),
    (r"task\.dataset\.sets_config\..*", "all of the split is used"),
    (r"model\.data_repr", "task.dataset.data_repr has it"),
    (r"model\.input_feats", "read off the weights"),
    (r"(task|model)\..*dropout", "without effect when sampling"),
    (r"model\.(time_emb_dim|arch_.*)", "read off the weights"),
    (r"model\.scene_model\.(use_color|use_openscene|num_points)", "task.dataset has it"),
    (r"model\.scene_model\..*", "the model has no point features"),
    (r"diffusion\.(rescale_timesteps|loss_type|learn_sigma|sigma_small)", "as it is here"),
    (r"model\.name", "as it is here"),
    (r"(hydra|defaults)(\..*)?", "of the old scripts' command line"),
]  # fmt: skip


class Refusal(NamedTuple):
    """What cannot be sampled here as it was trained.

    Attributes:
        text: place, what was found, and why it is refused.
        settled_by: our key; a value that the user sets for it settles the matter.
    """

    text: str
    settled_by: str | None = None


@dataclass
class Translation:
    """What a configuration of afford-motion says in our keys.

    Attributes:
        values: our dotted key -> value, scalars as they were typed.
        lines: our dotted key -> the line it stands in.
        refused: each once.
        no_meaning: their key -> why it has no meaning here.
        unknown: their keys of which nothing is known here.
    """

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    no_meaning: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def translate(tree: Node, place: str, accepts_null: Callable[[str], bool]) -> Translation:
    """Read a configuration of afford-motion as ours.

    Args:
        tree: as `cdm.config.composed.read_block` gives it.
        place: what messages call the file.
        accepts_null: whether one of our dotted keys may be null; a null elsewhere tells nothing.
    """
    found = Translation()
    value_of = functools.cache(functools.partial(_value, tree, place, found))

    # Values with a name of ours.
    scene_model = is_true(value_of("model.scene_model.use_scene_model"))
    for key, ours in SAME.items():
        node = find(tree, key)
        if node is None or (key in OF_SCENE_MODEL and not scene_model):
            continue
        value = value_of(key)
        if value is not None or (node.value is None and accepts_null(ours)):
            found.values[ours], found.lines[ours] = value, node.line
    _leave_out(found)
    _read_statistics(tree, value_of, found)
    _read_transforms(tree, value_of, found)

    # Values that are not sampled here.
    for key, wanted, why in _required(found, scene_model):
        node, value = find(tree, key), value_of(key)
        if node is not None and value is not None and not _same(value, wanted):
            found.refused.append(Refusal(f"{place} line {node.line}: {key} is {value}: {why}"))
    found.refused += [
        Refusal(f"{place} line {line}: {text}", settled_by)
        for line, text, settled_by in _refusals(tree, value_of, found)
    ]

    # All other keys.
    for key, _ in leaves(tree):
        if SAME.get(key) in found.values:
            continue
        reasons = [why for pattern, why in NO_MEANING if re.fullmatch(pattern, key)]
        if reasons:
            found.no_meaning[key] = reasons[0]
        elif key not in SAME:
            found.unknown.append(key)
    return found


def _value(tree: Node, place: str, found: Translation, key: str) -> Any:
    """The resolved value of a key; None if there is none, or none that is known here."""
    try:
        return resolved(tree, key)
    except KeyError:
        return None
    except Unresolved as problem:
        advice = f"; set {SAME[key]}" if key in SAME else ""
        text = f"{place} line {_line(tree, key)}: {key}: {problem}{advice}"
        found.refused.append(Refusal(text, SAME.get(key)))
        return None


def _line(tree: Node, key: str) -> int:
    """The line of a key that is there."""
    node = find(tree, key)
    assert node is not None, key
    return node.line


def is_true(value: Any) -> bool:
    """Whether a value as it was typed stands for true."""
    return str(value).lower() in ("true", "yes", "on")


def _leave_out(found: Translation) -> None:
    """Take out what repeats another value, and what belongs to another backbone."""
    arch = found.values.get("model.arch")
    unused = [prefix for name, prefix in BACKBONES.items() if arch not in (None, name)]
    for key, value in list(found.values.items()):
        repeats = REPEATED.get(key)
        repeated = repeats in found.values and found.values[repeats] == value
        if repeated or key.startswith(tuple(unused)):
            del found.values[key], found.lines[key]


def _same(value: Any, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return str(value).lower() == wanted.lower()


def _required(found: Translation, scene_model: bool) -> Iterator[tuple[str, str, str]]:
    """(key, value it must have, what another one means) of the keys that are in use."""
    pairs = dict(REQUIRED)
    if scene_model:
        pairs |= REQUIRED_OF_SCENE_MODEL
    sets = found.values.get("dataset.sets")
    for name in sets if isinstance(sets, list) else []:
        for key, pair in REQUIRED_OF_SET.items():
            pairs[f"task.dataset.sets_config.{name}.{key}"] = pair
    for key, (wanted, why) in pairs.items():
        yield key, wanted, why


def _read_transforms(tree: Node, value_of: Callable[[str], Any], found: Translation) -> None:
    """`dataset.transforms`: whether training items were rotated."""
    names = value_of("task.dataset.train_transforms")
    if isinstance(names, list):
        found.values["dataset.transforms"] = [name for name in names if name == "RandomRotation"]
        found.lines["dataset.transforms"] = _line(tree, "task.dataset.train_transforms")


def _read_statistics(tree: Node, value_of: Callable[[str], Any], found: Translation) -> None:
    """The split and the sets of the training, by which maps of the sets were normalised."""
    told = {"statistics_phase": "task.train.phase", "statistics_sets": "task.dataset.sets"}
    for ours, key in told.items():
        value = value_of(key)
        if found.values.get("dataset.name") in OF_SETS and value is not None:
            found.values[f"dataset.{ours}"] = value
            found.lines[f"dataset.{ours}"] = _line(tree, key)


def _refusals(
    tree: Node, value_of: Callable[[str], Any], found: Translation
) -> Iterator[tuple[int, str, str | None]]:
    """(line, sentence, our key that settles it) of what takes more than one key to see."""
    # Transforms.
    for key in ("task.dataset.train_transforms", "task.dataset.test_transforms"):
        names = value_of(key)
        for name in names if isinstance(names, list) else []:
            if name not in HARMLESS_TRANSFORMS:
                why = "centred clouds are" if name == "NormalizeToCenter" else "it is"
                text = f"{key} has {name}: {why} not what a model is shown here"
                yield _line(tree, key), text, None
            elif name == "RandomRotation" and "test" in key:
                why = "items of the phases val and test are never rotated here"
                yield _line(tree, key), f"{key} has {name}: {why}", None

    # The dataset.
    name = found.values.get("dataset.name")
    if name is not None and name not in DATASETS:
        why = f"no dataset of this name is read here (known: {', '.join(DATASETS)})"
        if name == H3D_EXAMPLES:
            whole = name.replace("Example", "")
            why = (
                "afford-motion's code has no class of this name (its configuration alone has), so "
                f"the format of its list is not known. Set dataset.name: {whole}, its source"
            )
        line = found.lines["dataset.name"]
        yield line, f"task.dataset.name is {name}: {why}", "dataset.name"
    dim, read = value_of("model.scene_model.point_feat_dim"), value_of(READ_DIM)
    if "model.scene_model.point_feat_dim" in found.values and read not in (None, dim):
        why = f"but model.scene_model.point_feat_dim is {dim}"
        yield _line(tree, READ_DIM), f"{READ_DIM} is {read}, {why}", None
    mine, theirs = value_of("task.dataset.data_repr"), value_of("model.data_repr")
    if None not in (mine, theirs) and mine != theirs:
        line = found.lines["dataset.data_repr"]
        yield line, f"task.dataset.data_repr is {mine}, but model.data_repr is {theirs}", None
