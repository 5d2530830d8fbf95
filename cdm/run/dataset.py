"""The dataset of a run's configuration (no torch)."""

from cdm.config import DEMO, Config
from cdm.datasets import Dataset, make_dataset
from cdm.demo.scenes import DemoDataset
from cdm.run.plan import motions_path


def open_dataset(config: Config, point_feat_dim: int) -> Dataset:
    """The dataset of a configuration; the demo's needs no files to list its samples."""
    if config.is_demo_data:
        return DemoDataset(config.dataset, config.data_dir, point_feat_dim, config.seed)
    facts = motions_path(config.run_dir)
    dataset = make_dataset(config.dataset, point_feat_dim, config.seed, config.data_dir, facts)
    if config.checkpoint_dir != DEMO:
        dataset.exp_dir = config.checkpoint_dir
    return dataset
