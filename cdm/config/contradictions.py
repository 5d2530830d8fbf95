"""Settings that cannot hold together, each with what to change.

Those about point features need to know the datasets: `cdm.model.point_features` has them.
"""

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
