"""The dataset of a run's configuration (no torch)."""

from pathlib import Path

from cdm.config import Config
from cdm.datasets import Dataset, make_dataset
from cdm.demo.scenes import DemoDataset


def open_dataset(config: Config, point_feat_dim: int) -> Dataset:
    """The dataset of a configuration; the demo's needs no files to list its samples."""
    if config.is_demo_data:
        return DemoDataset(config.dataset, config.data_dir, point_feat_dim, config.seed)
    facts = Path(config.run_dir, "plan", "h3d_clips.json")
    return make_dataset(config.dataset, point_feat_dim, config.seed, config.data_dir, facts)
