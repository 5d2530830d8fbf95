"""Experiment folders as afford-motion's training leaves them, written from their description."""

import copy
from pathlib import Path
from typing import Any

import yaml

from cdm.config.layers import nested, overlay

STAMP = "2023-11-02 08:15:0{} | INFO     | __main__:{}:71 - "
JOINTS = [0, 10, 11, 12, 20, 21]
FRAME = {
    "project": "p",
    "output_dir": "outputs",
    "exp_name": "mine",
    "exp_dir": "${output_dir}/${now:%Y-%m-%d}_${exp_name}",
    "log_dir": "${exp_dir}/log",
    "ckpt_dir": "${exp_dir}/ckpt",
    "eval_dir": "${exp_dir}/eval",
    "platform": "TensorBoard",
    "gpu": 0,
    "diffusion": {
        "predict_xstart": True,
        "steps": 500,
        "noise_schedule": "cosine",
        "timestep_respacing": "",
        "rescale_timesteps": False,
        "loss_type": "MSE",
        "learn_sigma": False,
        "sigma_small": True,
    },
    "stats": {"mode": ["word_stats"]},
    "seed": 7,
}
TRAIN = {"lr": 1e-4, "batch_size": 64, "max_steps": 300000, "phase": "train", "resume_ckpt": ""}
DATASET = {
    "data_dir": "./data",
    "shuffle_seed": "${seed}",
    "data_repr": "${model.data_repr}",
    "data_repr_joints": JOINTS,
    "use_raw_dist": False,
    "sigma": 0.8,
    "num_points": 32,
}
SETS = {
    "name": "ContactMapDataset",
    "sets": ["HUMANISE"],
    "sets_config": {
        "HumanML3D": {"ratio": 1.0, "load_text": True, "use_mirror": True, "use_fur": True},
        "HUMANISE": {"ratio": 1.0, "load_text": True},
        "PROX": {"ratio": 1.0},
    },
    "use_color": True,
    "use_openscene": False,
    "point_feat_dim": "${model.scene_model.point_feat_dim}",
    "train_transforms": ["RandomRotation", "ApplyTransformCDM", "NumpyToTensor"],
    "test_transforms": ["NumpyToTensor"],
    "transform_cfg": {"gravity_dim": 2, "random_mask_prob": 0.1},
}
CLIPS = {
    "name": "ContactHumanML3DDataset",
    "min_horizon": 40,
    "max_horizon": 196,
    "train_transforms": ["NumpyToTensor"],
    "test_transforms": ["NumpyToTensor"],
    "transform_cfg": {"gravity_dim": 1, "random_mask_prob": 0.1},
}
MODEL = {
    "name": "CDM",
    "input_feats": 6,
    "data_repr": "contact_cont_joints",
    "time_emb_dim": 128,
    "text_model": {"version": "ViT-B/32", "max_length": 20},
    "scene_model": {
        "name": "PointTransformerSeg",
        "use_scene_model": False,
        "use_color": "${task.dataset.use_color}",
        "use_openscene": "${task.dataset.use_openscene}",
        "num_points": "${task.dataset.num_points}",
        "point_feat_dim": 32,
        "pretrained_weight": "./data/POINTTRANS_C_N8192_E300/model.pth",
        "freeze": True,
    },
    "arch": "Perceiver",
    "arch_mlp": {"last_dim": 512, "point_mlp_dims": [512, 512]},
    "arch_perceiver": {
        "last_dim": 256,
        "point_pos_emb": True,
        "encoder_num_heads": 8,
        "encoder_dropout": 0.1,
        "decoder_num_heads": 8,
        "decoder_residual_dropout": 0.0,
    },
    "arch_pointtrans": {"last_dim": 64, "num_points": "${task.dataset.num_points}"},
}
# What the fork that brought PointMamba writes otherwise.
FORK = {
    "task": {"dataset": {"ratio": 1.0, "use_openscene": False, "use_color": False}},
    "model": {
        "arch": "PointMamba",
        "arch_pointtrans": {"arch_pointmamba": {"trans_dim": 32, "depth": 2, "last_dim": 18}},
    },
}


def composed(sets: bool = False, fork: bool = False, **changes: Any) -> dict[str, Any]:
    """A composed configuration: of H3D, or of the sets; of the first code, or of the fork.

    Args:
        changes: dotted keys with `__` for each dot -> values.
    """
    task = {
        "name": "contact maps",
        "train": TRAIN,
        "test": {"batch_size": 32},
        "sample": {"dataset_name": "ContactMapExampleDataset"},
        "dataset": DATASET | (SETS if sets else CLIPS),
        "visualizer": {"name": "ContactVisualizer"},
        "evaluator": {"name": "ContactEvaluator", "k_samples": 0, "eval_nbatch": 32},
    }
    found = FRAME | {"task": task, "model": MODEL}
    found = overlay(found, FORK) if fork else found
    for key, value in changes.items():
        found = overlay(found, nested(key.replace("__", "."), value))
    return copy.deepcopy(found)


def block(content: dict[str, Any], end: bool = True) -> str:
    """The lines of a log that a configuration takes; `end`: with the line that follows."""
    text = STAMP.format(0, "main") + "[Configuration]\n"
    text += yaml.safe_dump(content, sort_keys=False) + "\n\n"
    return text + (STAMP.format(1, "main") + "[Train] ==> begins\n" if end else "")


def write_log(
    folder: Path, *contents: dict[str, Any] | str | bytes, name="log/runtime.log"
) -> Path:
    """Write a log with these configurations, or these texts, into an experiment folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        content if isinstance(content, str | bytes) else block(content) for content in contents
    ]
    data = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    path.write_bytes(data)
    return path
