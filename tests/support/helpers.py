"""Small things several tests build."""

import copy
import functools
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from remembered import remembered

from cdm.archive.layout import Layout
from cdm.archive.records import ChunkRecord, record_path
from cdm.archive.store import write_chunk
from cdm.config import Config, load_config
from cdm.config.layers import overlay
from cdm.contact import to_distance
from cdm.datasets import FileReader, Sample
from cdm.model.architecture import Architecture
from cdm.model.backbones import load_backbone
from cdm.run.dataset import open_dataset
from cdm.run.merge import merge
from cdm.run.plan import Chunk, Plan
from cdm.run.plan_files import read_samples, save_plan
from cdm.run.planning import make_plan

NUM_POINTS = 32
MAMBA_SIZES = {"d_inner": 64, "d_state": 16, "d_conv": 4, "dt_rank": 2}
# A small model of every backbone: its last_dim and sizes.
SMALL = {
    "PointMamba": (18, {"trans_dim": 32, "depth": 2, "hidden_dim": 36} | MAMBA_SIZES),
    "HybridMamba": (
        18,
        {"trans_dim": 32, "depth": 2, "use_multi_scan": True, "use_perceiver": True}
        | {"num_latents": 5, "num_heads": 4}
        | MAMBA_SIZES,
    ),
    "Perceiver": (
        24,
        {
            "point_pos_emb": True,
            "encoder_q_input_channels": 40,
            "encoder_kv_input_channels": 28,
            "encoder_num_heads": 4,
            "encoder_widening_factor": 2,
            "encoder_self_attn_num_layers": 2,
            "decoder_q_input_channels": 24,
            "decoder_kv_input_channels": 40,
            "decoder_num_heads": 8,
            "decoder_widening_factor": 1,
        },
    ),
    "MLP": (
        20,
        {"point_mlp_dims": [12, 20], "point_mlp_widening_factor": 2, "point_mlp_bias": True},
    ),
    "PointTrans": (32, {"planes": [32, 64, 96], "blocks": [2, 1, 2]}),
    "PointTransV2": (
        32,
        {"planes": [32, 64, 96], "blocks": [1, 2, 2]}
        | {"attention_layers": 1, "attention_hidden_dim": 40},
    ),
}
DEMO_ARCHITECTURE = Architecture(
    arch="PointMamba",
    contact_dim=6,
    time_emb_dim=96,
    text_feat_dim=128,
    point_feat_dim=3,
    last_dim=96,
    sizes={
        "trans_dim": 96,
        "depth": 6,
        "hidden_dim": 128,
        "d_inner": 192,
        "d_state": 16,
        "d_conv": 4,
        "dt_rank": 6,
    },
)
REPO = Path(__file__).resolve().parents[2]
DEMO_MODEL = yaml.safe_load((REPO / "config/demo.yaml").read_text())["model"]
# Seven items of `write_dataset` in three chunks, with the demo's weights: the job of most tests of
# whole runs. They lay over it what they are about.
SMALL_RUN = {
    "exp_name": "run",
    "exp_dir": "demo",
    "gpu": None,
    "dataset": {"data_dir": "data", "sets": ["HUMANISE"], "num_points": NUM_POINTS},
    "model": DEMO_MODEL,
    "diffusion": {"timestep_respacing": 2},
    "sampling": {"batch_size": 2},
    "workflow": {"chunk_size": 3},
}


@functools.cache
def _read_yaml(name: str) -> dict:
    return yaml.safe_load((REPO / "config" / name).read_text())


def raw_config(**changes: Any) -> dict:
    """config/config.yaml with changes."""
    return overlay(copy.deepcopy(_read_yaml("config.yaml")), changes)


def demo_config(**changes: Any) -> Config:
    """The demo's configuration with changes."""
    return load_config(overlay(raw_config(**_read_yaml("demo.yaml")), changes))


def small_architecture(arch: str, point_feat_dim: int = 0, **sizes: Any) -> Architecture:
    """A small model's sizes, some of them changed."""
    last_dim, usual = SMALL[arch]
    return Architecture(
        arch=arch,
        contact_dim=6,
        time_emb_dim=22,
        text_feat_dim=30,
        point_feat_dim=point_feat_dim,
        last_dim=last_dim,
        sizes={key: sizes.get(key, value) for key, value in usual.items()},
    )


def model_section(architecture: Architecture) -> dict:
    """Section `model` of a configuration that tells all of an architecture."""
    feat = architecture.point_feat_dim
    section = load_backbone(architecture.arch).section
    keys = raw_config()["model"].get(section, {})
    sizes = architecture.sizes | {"last_dim": architecture.last_dim}
    return {
        "arch": architecture.arch,
        "text_model": {"version": "hashing"},
        "scene_model": {
            "use_scene_model": feat > 0, "use_openscene": True, "point_feat_dim": feat or None
        },
        section: {key: sizes.get(key) for key in keys},
    }  # fmt: skip


def write_contacts(path: Path, num_points: int, seed: int, **replaced: Any) -> None:
    """One contact file of the reference's layout; keyword arguments replace its arrays."""
    rng = np.random.default_rng(seed)
    points = np.concatenate(
        [rng.uniform(0, 4, (num_points, 3)), rng.uniform(-1, 1, (num_points, 3))], axis=1
    )
    arrays = {
        "points": points.astype(np.float32),
        "mask": np.arange(num_points),
        "dist": rng.uniform(0, 3, (num_points, 22)).astype(np.float32),
    } | replaced
    content = io.BytesIO()
    np.savez(content, **{key: value for key, value in arrays.items() if value is not None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())


def write_dataset(folder: Path, num_items: int, num_points: int = 64, split=None) -> Path:
    """A HUMANISE folder with statistics, as users have it; returns the data folder."""
    base = folder / "HUMANISE" / "contact_motion"
    base.mkdir(parents=True)
    lines = ["scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others"]
    for index in range(num_items):
        text = "" if index == 1 else f"sit on chair {index}$$walk to, then sit on chair {index}"
        lines.append(f'scene{index:04},0.5,-0.25,{index / 8},"{text}",x')
        write_contacts(base / "contacts" / f"{index:05}.npz", num_points, index)
    (base / "anno.csv").write_text("\n".join(lines) + "\n")
    write_split(folder, range(num_items) if split is None else split)
    name = "Mean_Std_Cont_HUMANISE_contact_cont_joints_0.8.npz"
    mean, std = np.full((1, 6), 0.2, np.float32), np.full((1, 6), 0.3, np.float32)
    np.savez(folder / name, mean=mean, std=std)
    return folder


def write_split(folder: Path, ids) -> None:
    """Write HUMANISE/train.txt."""
    (folder / "HUMANISE" / "train.txt").write_text("".join(f"{i:06}\n" for i in ids))


@remembered
def plan_run(folder: Path, num_items: int = 7, **changes: Any) -> tuple[Plan, list[Sample]]:
    """A dataset with a plan under `folder`/outputs/run, which must be the working directory."""
    if not (folder / "data").exists():
        write_dataset(folder / "data", num_items, NUM_POINTS)
    plan, samples = make_plan(run_config(**changes))
    save_plan(plan, samples)
    return plan, samples


def run_config(**changes: Any) -> Config:
    """The configuration of `plan_run`."""
    return load_config(overlay(raw_config(**SMALL_RUN), changes))


def write_dummy_chunk(
    plan: Plan, chunk: Chunk, skipped: dict[int, str] | None = None, **seconds: float
) -> Path:
    """A finished chunk of random maps, recorded like a real one.

    Args:
        skipped: row -> why it has no map.
        seconds: of phases besides those that every dummy has.
    """
    skipped = skipped or {}
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    samples = read_samples(plan, chunk, dataset)
    reader = FileReader(plan.config.data_dir)
    for name in sorted({name for sample in samples for name in dataset.files(sample)}):
        reader.read(name)
    items = {name: content.as_dict() for name, content in reader.contents.items()}
    layout = Layout(len(samples), plan.config.workflow.chunk_size, 1, NUM_POINTS, 6, "float32")
    rng = np.random.default_rng(chunk.number)
    arrays = {name: rng.random(v.shape, np.float32) for name, v in layout.empty().items()}
    arrays["distance"] = dummy_distance(plan, arrays["sample"])
    for row, sample in enumerate(samples):  # evaluations compare the points with the item's
        if row not in skipped:
            item = dataset.load(sample, reader)
            arrays["points"][row], arrays["aug_trans"][row] = item.c_pc_xyz, item.info_aug_trans
    for row in skipped:
        for values in arrays.values():
            values[row] = np.nan
    record = dummy_record(plan, chunk, layout, samples, skipped, items, **seconds)
    store = Path(plan.config.run_dir, "chunks", f"{chunk.name}.zarr")
    write_chunk(store, arrays, record)
    return record_path(store)


def dummy_distance(plan: Plan, maps: np.ndarray) -> np.ndarray:
    """The distances of normalised maps, in metres."""
    mean, std = (np.float32(plan.statistics.values[key]) for key in ("mean", "std"))
    return to_distance(maps, mean, std, plan.config.dataset.sigma)


def dummy_record(
    plan: Plan,
    chunk: Chunk,
    layout: Layout,
    samples: list[Sample],
    skipped: dict[int, str],
    items: dict[str, Any],
    **seconds: float,
) -> ChunkRecord:
    """The record of a chunk that no model has sampled.

    Args:
        skipped, seconds: as in `write_dummy_chunk`.
        items: name -> what was read of the file.
    """
    rows = []
    for row, sample in enumerate(samples):
        status = {"status": "skipped", "reason": skipped[row]} if row in skipped else {}
        known = ("set", "index", "caption_idx", "text", "scene_id")
        rows.append({key: getattr(sample, key) for key in known} | ({"status": "ok"} | status))
    return ChunkRecord(
        name=chunk.name,
        base=chunk.base,
        layout=layout,
        samples=rows,
        contents={"items": items, "text_model": {}, "statistics": {}},
        provenance={
            "config": plan.config.as_dict(),
            "settings": plan.identity,
            "checkpoint": asdict(plan.checkpoint),
            "architecture": asdict(plan.architecture),
            "statistics": {**plan.statistics.values, "sigma": plan.config.dataset.sigma},
            "precision": "fp32",
            "device": "dummy",
            "versions": {},
        },
        seconds={"load": 1.0, "text": 0.5, "model": 0.5, "sample": 6.0} | seconds,
    )


@remembered
def merged_run(folder: Path, skipped: dict[int, dict[int, str]] | None = None) -> Plan:
    """A finished run of three dummy chunks with its archive; `folder` is the working directory.

    Args:
        skipped: chunk number -> row in it -> why this sample has no map.
    """
    plan = plan_run(folder)[0]
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk, (skipped or {}).get(chunk.number))
    merge(plan, lambda line: None)
    return plan


def relative_error(out, reference) -> float:
    """||out - reference|| / ||reference||, both as float64 tensors; NaN where there is one."""
    out, reference = out.detach().double().cpu(), reference.detach().double().cpu()
    assert out.shape == reference.shape, f"{tuple(out.shape)}, expected {tuple(reference.shape)}"
    return float((out - reference).norm() / reference.norm())


def poison(monkeypatch) -> None:
    """Have torch hand out memory full of NaN, so that an unwritten output shows."""
    import torch

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        original = getattr(owner, name)

        def poisoned(*args, original=original, **kwargs):
            x = original(*args, **kwargs)
            return x.fill_(torch.nan) if x.is_floating_point() else x

        monkeypatch.setattr(owner, name, poisoned)
