"""What is read for a sample: index files, items, and the statistics of contacts (no torch).

Listing samples opens no array, except for the lengths of HumanML3D motions, which are cached.
This wing imports the root modules, `cdm.kernels` and `cdm.jobs`.
"""

from cdm.datasets.base import Dataset, rotate, stat_files
from cdm.datasets.contact_humanml3d import ContactHumanML3DDataset
from cdm.datasets.contact_map import ContactMapDataset
from cdm.datasets.contact_map_custom import ContactMapCustomDataset
from cdm.datasets.contact_map_examples import ContactMapExampleDataset
from cdm.datasets.files import FileReader
from cdm.datasets.samples import Item, Sample
from cdm.errors import ConfigError

__all__ = [
    "Dataset",
    "FileReader",
    "Item",
    "Sample",
    "dataset_class",
    "make_dataset",
    "rotate",
    "stat_files",
]

DATASETS = (
    ContactMapDataset,
    ContactHumanML3DDataset,
    ContactMapCustomDataset,
    ContactMapExampleDataset,
)


def dataset_class(name: str) -> type[Dataset]:
    """The class that `dataset.name` names.

    Raises:
        ConfigError: there is none of this name.
    """
    for cls in DATASETS:
        if cls.__name__ == name:
            return cls
    names = ", ".join(cls.__name__ for cls in DATASETS)
    raise ConfigError(f"dataset.name is '{name}', expected one of {names}")


def make_dataset(
    config, point_feat_dim=None, seed: int = 0, data_dir=None, facts_path=None
) -> Dataset:
    """The dataset section `dataset` of the configuration describes.

    Args:
        config: `cdm.config.DatasetConfig`.
        point_feat_dim: width of the model's point features, or None.
        seed: of caption picks and rotations.
        data_dir: where the data lies; config.data_dir unless given.
        facts_path: cache of motion lengths (H3D).
    """
    data_dir = config.data_dir if data_dir is None else data_dir
    cls = dataset_class(config.name)
    facts = (facts_path,) if cls is ContactHumanML3DDataset else ()
    return cls(config, data_dir, point_feat_dim, seed, *facts)
