"""The dataset that a configuration names."""

from helpers import demo_config, plan_run, run_config

from cdm.datasets import ContactMapDataset
from cdm.demo.scenes import DemoDataset
from cdm.run.dataset import open_dataset


def test_a_users_folder_is_opened_with_the_configured_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan_run(tmp_path)
    dataset = open_dataset(run_config(), 3)
    assert isinstance(dataset, ContactMapDataset) and len(dataset.samples()) == 7


def test_the_demo_lists_its_samples_without_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset(demo_config(), 3)
    assert isinstance(dataset, DemoDataset) and dataset.samples()
    assert not list(tmp_path.iterdir())
