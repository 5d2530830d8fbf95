"""Settings that cannot hold together, each with what to change."""

from collections.abc import Iterator

from cdm.config.sections import Config


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
    if sampling.method != "ddim" and sampling.eta != 0:
        yield (
            f"sampling.eta is {sampling.eta} but sampling.method is {sampling.method}, which has "
            "no eta: set sampling.method to ddim or eta to 0"
        )
    yield from _point_feature_contradictions(config)
    if model.text_model.version == "hashing" and model.text_model.path is not None:
        yield (
            f"model.text_model.path is '{model.text_model.path}' but version is hashing, which "
            "has no weights: set the encoder's version or path: null"
        )
    if dataset.name == "ContactMapCustomDataset" and dataset.transforms:
        yield (
            f"dataset.transforms is {list(dataset.transforms)} but ContactMapCustomDataset never "
            "rotates: set dataset.transforms to null"
        )
    if dataset.name == "ContactHumanML3DDataset" and dataset.use_openscene:
        yield (
            "dataset.use_openscene is true but ContactHumanML3DDataset has no point features: "
            "set dataset.use_openscene: false"
        )


def _point_feature_contradictions(config: Config) -> Iterator[str]:
    """Point features come from the frozen scene model or from the dataset, not from both."""
    dataset, scene_model = config.dataset, config.model.scene_model
    if not scene_model.use_scene_model:
        return
    for key in ("use_color", "num_points"):
        told, given = getattr(scene_model, key), getattr(dataset, key)
        if told not in (None, given):
            yield (
                f"model.scene_model.{key} is {told} but dataset.{key} is {given}: make them "
                "equal, or set the former to null"
            )
    if config.runs_scene_model and scene_model.pretrained_weight is None:
        yield (
            "model.scene_model.use_scene_model is true but pretrained_weight is null: name the "
            "weights of the frozen scene model, as in\n"
            "    model:\n      scene_model:\n        use_scene_model: true\n"
            "        pretrained_weight: /path/to/model.pth\n"
            "  or set use_openscene: true to have the dataset's features go in as they are"
        )
    if config.runs_scene_model and dataset.use_openscene:
        yield (
            "model.scene_model.use_openscene is false but dataset.use_openscene is true: the "
            "scene model takes colours alone; set dataset.use_openscene: false"
        )
