"""Settings that cannot hold together, each with what to change.

Those about point features need to know the datasets: `cdm.model.point_features` has them.
"""

from collections.abc import Iterator

from cdm.config.sections import CUSTOM, EXAMPLES, Config, TextModelConfig

CLIP_LONGEST = 74  # of 77 tokens, start and end not counted, as afford-motion bounds it
BERT_SHORTEST = 2  # [CLS] and [SEP]
# Backbones that afford-motion's public forks name, and why they are not built here.
NOT_BUILT = {
    "EnhancedPerceiver": "its public code stops with an error in its first layers, so no weights "
    "can have come from it as it stands",
    "PointMambaUNet": "no public code has this name; what comes nearest (HighResPointMambaUNet) "
    "drops points at random in every step",
}
NOT_BUILT["HighResPointMambaUNet"] = "it drops points at random in every step"


def contradictions(config: Config) -> Iterator[str]:
    """One line for each pair of settings that cannot hold together, with what to change."""
    dataset, model, sampling = config.dataset, config.model, config.sampling
    if model.data_repr not in (None, dataset.data_repr):
        yield (
            f"model.data_repr is {model.data_repr} but dataset.data_repr is {dataset.data_repr}: "
            "the model would be asked for maps it was not trained on; make them equal"
        )
    if dataset.min_horizon >= dataset.max_horizon:
        yield (
            f"dataset.min_horizon is {dataset.min_horizon} but dataset.max_horizon is "
            f"{dataset.max_horizon}: no clip is at least as long as the first and shorter "
            "than the second"
        )
    if (
        dataset.captions == "reference"
        and dataset.name == "ContactHumanML3DDataset"
        and dataset.max_horizon > 200
    ):
        yield (
            f"dataset.captions is reference but dataset.max_horizon is {dataset.max_horizon}: "
            "afford-motion draws no captions for clips of 200 frames and more; set max_horizon: 200"
        )
    if sampling.method != "ddim" and sampling.eta != 0:
        yield (
            f"sampling.eta is {sampling.eta} but sampling.method is {sampling.method}, which has "
            "no eta: set sampling.method to ddim or eta to 0"
        )
    if model.arch in NOT_BUILT:
        yield (
            f"model.arch is {model.arch}, which cannot be sampled: {NOT_BUILT[model.arch]}. "
            "docs/models.md says what it would take to build it"
        )
    yield from _text_length(model.text_model)
    if model.text_model.version == "hashing" and model.text_model.path is not None:
        yield (
            f"model.text_model.path is '{model.text_model.path}' but version is hashing, which "
            "has no weights: set the encoder's version or path: null"
        )
    if dataset.name in (CUSTOM, EXAMPLES) and dataset.transforms:
        yield (
            f"dataset.transforms is {list(dataset.transforms)} but {dataset.name} never "
            "rotates: set dataset.transforms to null"
        )
    if dataset.name != EXAMPLES and dataset.examples is not None:
        yield (
            f"dataset.examples is {dataset.examples} but dataset.name is {dataset.name}, which "
            f"reads no list of examples: set dataset.name to {EXAMPLES} or dataset.examples to null"
        )
    if config.export.for_ is not None or config.export.to is not None:
        yield from _not_for_stage_2(config)


def _text_length(text_model: TextModelConfig) -> Iterator[str]:
    """A number of tokens that the encoder cannot read."""
    version, length = text_model.version, text_model.max_length
    if length is None or version == "hashing":
        return
    if version.startswith("bert"):
        if length < BERT_SHORTEST:
            yield (
                f"model.text_model.max_length is {length} but version is {version}, which counts "
                f"[CLS] and [SEP] among them: set {BERT_SHORTEST} or more, or null"
            )
    elif length > CLIP_LONGEST:
        yield (
            f"model.text_model.max_length is {length} but version is {version}, which reads "
            f"{CLIP_LONGEST} tokens beside start and end: set {CLIP_LONGEST} or fewer, or null"
        )


def _not_for_stage_2(config: Config) -> Iterator[str]:
    """Why stage 2 would not read the maps that are to be exported for it."""
    dataset, export = config.dataset, config.export
    asked = f"export.for is {export.for_}" if export.for_ else f"export.to is {export.to}"
    if dataset.name == EXAMPLES:
        yield (
            f"{asked} but dataset.name is {EXAMPLES}: stage 2 reads the maps of examples from the "
            "folders of snakemake export_ply. Set export.for and export.to to null"
        )
        return
    if dataset.captions == "all" and dataset.name != "ContactHumanML3DDataset":
        yield (
            f"{asked} but dataset.captions is all: maps of several captions have names such as "
            "00004-0.npy, which stage 2 reads for H3D only. Set dataset.captions to random or first"
        )
    if config.stage_2_tests:
        if dataset.phase != "test" and dataset.name != CUSTOM:
            yield (
                f"{asked} but dataset.phase is {dataset.phase}: stage 2 tests on the items of "
                "test.txt. Set dataset.phase to test"
            )
        return
    if dataset.name == CUSTOM:
        yield (
            f"{asked} but dataset.name is {CUSTOM}: scans of your own have no motions to train "
            "stage 2 on. Set export.for to test"
        )
    elif export.for_ is not None and dataset.phase not in ("train", "all"):
        yield (
            f"{asked} but dataset.phase is {dataset.phase}: stage 2 trains on the items of "
            "train.txt or all.txt. Set dataset.phase to train or all"
        )
    if config.sampling.k_samples > 1:
        yield (
            f"{asked} but sampling.k_samples is {config.sampling.k_samples}: stage 2 takes exactly "
            "one map of an item when it trains, and cannot read a file that holds more. Set "
            "sampling.k_samples to 1, and another exp_name to keep both archives"
        )
