"""The whole job with every backbone, small: demo rooms, and untrained weights from a seed."""

import subprocess

import numpy as np
import pytest
import torch
import yaml
from helpers import REPO, model_section, overlay, raw_config, small_architecture

from cdm.archive import ContactMaps
from cdm.config import load_config
from cdm.demo.scenes import NUM_POINTS, write_demo
from cdm.model.backbones import BACKBONES, load_backbone
from cdm.model.scene_model import PointTransformerSeg
from cdm.run.generate import generate_chunk
from cdm.run.merge import merge
from cdm.run.plan_files import save_plan
from cdm.run.planning import load_plan, make_plan
from cdm.training.initial_weights import write_checkpoint

NUM_ITEMS, COLORS = 3, 3


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    write_demo(folder, "val", num_train=0)
    split = folder / "HUMANISE" / "val.txt"
    split.write_text("\n".join(split.read_text().split()[:NUM_ITEMS]))
    name = "Mean_Std_Cont_HUMANISE_contact_cont_joints_0.8.npz"
    mean, std = np.full((1, 6), 0.2, np.float32), np.full((1, 6), 0.3, np.float32)
    np.savez(folder / name, mean=mean, std=std)
    return folder


def settings(arch, rooms, point_feat_dim=COLORS, **sizes):
    """A configuration that samples the rooms with a small model, whose checkpoint is written."""
    architecture = small_architecture(arch, point_feat_dim, **sizes)
    write_checkpoint(rooms.parent / arch / "ckpt" / "model000100.pt", architecture)
    return {
        "exp_name": arch.lower(),
        "exp_dir": str(rooms.parent / arch),
        "gpu": None,
        "dataset": {
            "data_dir": str(rooms), "sets": ["HUMANISE"], "phase": "val", "num_points": NUM_POINTS,
        },
        "model": model_section(architecture),
        "diffusion": {"timestep_respacing": 2},
        "sampling": {"batch_size": 2},
        "workflow": {"chunk_size": 2},
    }  # fmt: skip


@pytest.mark.parametrize("arch", BACKBONES)
def test_every_backbone_runs_from_plan_to_archive(arch, rooms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(overlay(raw_config(), settings(arch, rooms)))
    plan, samples = make_plan(config)
    save_plan(plan, samples)
    plan = load_plan(config)  # as jobs do
    assert plan.architecture == small_architecture(arch, COLORS)
    lines = []
    for chunk in plan.chunks:
        generate_chunk(plan, chunk, lines.append)
    merge(plan, lines.append)
    maps = ContactMaps(plan.archive)
    found = maps.group["sample"][:]
    assert found.shape == (NUM_ITEMS, 1, NUM_POINTS, 6) and np.isfinite(found).all()
    assert len(np.unique(found[:, 0, :, 0])) > NUM_ITEMS * NUM_POINTS / 2
    assert maps.attributes["architecture"]["arch"] == arch
    [told] = {line for line in lines if line.startswith("model: ")}
    assert told.startswith(f"model: {arch} in fp32")
    assert ("selective scan by" in told) == load_backbone(arch).scans


def test_the_scene_model_runs_from_plan_to_archive(rooms, tmp_path, monkeypatch):
    """Colours of the rooms through the frozen scene model, its weights from a seed."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(PointTransformerSeg(6).state_dict(), "scene_model.pth")
    scene_model = {"use_openscene": False, "pretrained_weight": "scene_model.pth"}
    raw = overlay(raw_config(), settings("PointMamba", rooms, point_feat_dim=32))
    config = load_config(overlay(raw, {"model": {"scene_model": scene_model}}))
    plan, samples = make_plan(config)
    save_plan(plan, samples)
    plan = load_plan(config)
    for chunk in plan.chunks:
        generate_chunk(plan, chunk, lambda line: None)
    merge(plan, lambda line: None)
    maps = ContactMaps(plan.archive)
    assert np.isfinite(maps.group["sample"][:]).all() and len(maps) == NUM_ITEMS
    assert maps.attributes["scene_model"]["path"] == "scene_model.pth"


def test_a_number_of_heads_is_part_of_every_chunks_name(rooms, tmp_path, monkeypatch):
    """The weights are the same, the maps are not."""
    monkeypatch.chdir(tmp_path)
    names = []
    for heads in (2, 4):
        raw = overlay(raw_config(), settings("Perceiver", rooms, encoder_num_heads=heads))
        plan, _ = make_plan(load_config(raw))
        names.append({chunk.fingerprint for chunk in plan.chunks})
    assert not names[0] & names[1]


@pytest.mark.long  # in process: test_every_backbone_runs_from_plan_to_archive
def test_snakemake_runs_a_perceiver(rooms, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings("Perceiver", rooms)))
    command = ["snakemake", "-s", str(REPO / "Snakefile"), "--configfile", "mine.yaml"]
    command += ["--cores", "2", "--resources", "gpu=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    maps = ContactMaps(tmp_path / "outputs/perceiver/contact_maps.zarr")
    assert (
        len(maps) == NUM_ITEMS
        and "Perceiver" in (tmp_path / "outputs/perceiver/checkpoint_info.txt").read_text()
    )
