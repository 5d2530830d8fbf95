"""A training of seconds."""

from helpers import demo_config, overlay


def tiny(changes=None, **training):
    """A configuration that trains a tiny model for four steps on the demo's items.

    Args:
        changes: of any section, by section.
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
    sizes = {"trans_dim": 16, "depth": 1, "last_dim": 8}
    settings = {
        "exp_name": "mine",
        "gpu": None,
        "model": {"time_emb_dim": 16, "arch_pointmamba": sizes},
        "training": recipe | training,
    }
    return demo_config(**overlay(settings, changes or {}))
