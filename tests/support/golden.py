"""Models of the parity set, built from their checkpoints, and how to compare with them."""

import atexit
import importlib.util
import json
import tempfile
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import torch
from helpers import raw_config

from cdm.config import ModelConfig, load_config
from cdm.model.cdm import CDM
from cdm.model.checkpoint import find_checkpoint, inspect_checkpoint
from cdm.model.state_dict import load_state_dict

POINT_MAMBA_CASES = ["01_pointmamba", "02_pointmamba_feat32", "02b_pointmamba_feat1"]


def load_arrays(path):
    """All arrays of an .npz file; numbers as tensors, text as numpy."""
    with np.load(path) as arrays:
        return {
            key: array if array.dtype.kind == "U" else torch.from_numpy(array)
            for key, array in arrays.items()
        }


def forward_files(parity, case):
    files = sorted((parity / case).glob("forward*.npz"))
    assert files, f"no forward*.npz in {parity / case}"
    return [load_arrays(path) for path in files]


def load_case(parity, case, changes=None, **options):
    """The case's CDM in eval mode, built the way a run builds it: sizes read off the weights.

    Args:
        changes: to section `model` of its configuration.
        options: of CDM.
    """
    folder = parity / case
    config = case_config(json.loads((folder / "config.json").read_text()), changes)
    checkpoint = inspect_checkpoint(find_checkpoint(exp_dir(parity, case)), config)
    cdm = CDM(checkpoint.architecture, **options)
    cdm.load_state_dict(load_state_dict(checkpoint.path))
    return cdm.eval()


def exp_dir(parity, case):
    """The case's experiment folder; weights that are kept as a recipe are made from it."""
    there = parity / case / "exp"
    return str(there if there.exists() else _expand(parity, case).parent.parent)


def scene_weights(parity, variant="c6"):
    """Path of the scene model's weights, with colours (c6) or without (c3)."""
    return _expand(parity, "07_scene_model", f"weights_recipe_{variant}.json")


@cache
def _expand(parity, case, recipe="weights_recipe.json"):
    """Path of the weights that a case's recipe makes."""
    spec = importlib.util.spec_from_file_location("expand_weights", parity / "expand_weights.py")
    expand_weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(expand_weights)
    recipe = json.loads((parity / case / recipe).read_text())
    state = expand_weights.build(recipe, str(parity))
    assert expand_weights.digest(state) == recipe["state_dict_sha256"]
    folder = tempfile.TemporaryDirectory(prefix="cdm-parity-")
    atexit.register(folder.cleanup)
    path = Path(folder.name, recipe["target"])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def case_config(case, changes=None):
    """Our configuration for a case's `config.json`, whose names are afford-motion's.

    Options of training (dropout) have no key here, and are left out.
    """
    scene_model = case["scene_model"]
    sections = {
        section.name: {key.name: case[section.name].get(key.name) for key in fields(section.type)}
        for section in fields(ModelConfig)
        if section.name in case and section.name.startswith("arch_")
    }
    return load_config(
        raw_config(
            exp_dir="exp",
            dataset={
                "data_repr": case["data_repr"],
                "num_points": scene_model["num_points"],
                "use_color": scene_model["use_color"],
                "use_openscene": scene_model["use_openscene"],
            },
            model={
                "arch": case["arch"],
                "time_emb_dim": case["time_emb_dim"],
                "text_model": {"version": "hashing"},  # cases bring text vectors of any width
                "scene_model": scene_model,
            }
            | sections
            | (changes or {}),
        )
    )


def conditions(arrays):
    """c_text, c_pc_xyz and, where the case has them, c_pc_feat."""
    return [arrays[key] for key in ("text_vec", "c_pc_xyz", "c_pc_feat") if key in arrays]


def assert_close(name, expected, output, rtol=1e-4, atol=2e-5):
    """Like `torch.testing.assert_close`, for any dtype; the message has name and largest error."""
    expected, output = expected.double(), output.double()
    assert expected.shape == output.shape, (name, expected.shape, output.shape)
    error = (expected - output).abs()
    excess = error - (atol + rtol * expected.abs())
    assert not excess.isnan().any(), f"{name}: NaN"
    assert not (excess > 0).any(), f"{name}: largest error {error.max():.3e}"


@torch.no_grad()
def check_slots_and_threads(cdm, inputs, thread_counts=(1, 2, 3)):
    """Every sample alone, in another slot and under other thread counts: the same bits."""
    num_threads = torch.get_num_threads()
    expected = cdm(*inputs)
    batch = len(expected)
    try:
        for threads in thread_counts:
            torch.set_num_threads(threads)
            for shift in (0, 1):
                out = cdm(*[x.roll(shift, dims=0) for x in inputs])
                assert torch.equal(out, expected.roll(shift, dims=0)), (threads, shift)
            out = cdm(*[x[batch - 1 :] for x in inputs])
            assert torch.equal(out, expected[batch - 1 :]), threads
    finally:
        torch.set_num_threads(num_threads)
