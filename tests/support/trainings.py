"""A training of seconds."""

from helpers import demo_config, overlay

# A tiny model of every backbone that is trained: its section of the configuration.
TINY = {
    "PointMamba": {"arch_pointmamba": {"trans_dim": 16, "depth": 1, "last_dim": 8}},
    "Perceiver": {
        "arch_perceiver": {
            "encoder_q_input_channels": 16,
            "encoder_kv_input_channels": 12,
            "encoder_self_attn_num_layers": 1,
            "decoder_q_input_channels": 8,
        }
    },
    "MLP": {"arch_mlp": {"point_mlp_dims": [12, 10]}},
    "HybridMamba": {
        "arch_hybridmamba": {
            "trans_dim": 16,
            "depth": 1,
            "last_dim": 8,
            "num_latents": 4,
            "num_heads": 4,
        }
    },
    "PointTrans": {"arch_pointtrans": {"last_dim": 8}},
    "PointTransV2": {"arch_pointtrans": {"last_dim": 8}},
}

# Changes that have a small frozen scene model make the point features, of rooms of few points.
SEEN = {
    "dataset": {"num_points": 64},
    "model": {
        "scene_model": {
            "use_openscene": False, "point_feat_dim": None, "pretrained_weight": "scene.pth"
        }
    },
}  # fmt: skip


def tiny(changes=None, arch="PointMamba", **training):
    """A configuration that trains a tiny model for four steps on the demo's items.

    Args:
        changes: of any section, by section.
        arch: a key of `TINY`.
        training: of section `training`.
    """
    recipe = {
        "steps": 4,
        "batch_size": 2,
        "checkpoint_every": 2,
        "lr": 1e-3,
        "ema_decay": None,
        "warmup_steps": 0,
    }
    settings = {
        "exp_name": "mine",
        "gpu": None,
        "model": {"arch": arch, "time_emb_dim": 16} | TINY[arch],
        "training": recipe | training,
    }
    return demo_config(**overlay(settings, changes or {}))
