"""Models of the reference set, built from their checkpoints, and how to compare with them."""

import json

import numpy as np
import torch

from cdm.architecture import Architecture
from cdm.model import CDM

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


def load_point_mamba(parity, case, **options):
    """The case's CDM in eval mode, sizes read off weights, options and inputs."""
    folder = parity / case
    config = json.loads((folder / "config.json").read_text())
    weights = torch.load(sorted((folder / "exp/ckpt").glob("model*.pt"))[-1], weights_only=True)
    text_feat_dim = forward_files(parity, case)[0]["text_vec"].shape[-1]
    cdm = CDM(point_mamba_architecture(weights, config["contact_dim"], text_feat_dim), **options)
    cdm.load_state_dict(weights)
    return cdm.eval()


def point_mamba_architecture(weights, contact_dim, text_feat_dim):
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    block = "contact_model.layers.0.mamba."
    hidden_dim, num_columns = shapes["contact_model.embedding.net.0.weight"]
    last_dim, d_model = shapes["contact_model.out_proj.weight"]
    d_inner, d_state = shapes[block + "A_log"]
    time_emb_dim = shapes["timestep_embedder.pe"][-1]
    return Architecture(
        arch="PointMamba",
        contact_dim=contact_dim,
        time_emb_dim=time_emb_dim,
        text_feat_dim=text_feat_dim,
        point_feat_dim=num_columns - contact_dim - text_feat_dim - time_emb_dim - 3,
        last_dim=last_dim,
        sizes={
            "trans_dim": d_model,
            "depth": sum(key.endswith("A_log") for key in shapes),
            "hidden_dim": hidden_dim,
            "d_state": d_state,
            "d_conv": shapes[block + "conv1d.weight"][-1],
            "d_inner": d_inner,
            "dt_rank": shapes[block + "dt_proj.weight"][-1],
        },
    )


def conditions(arrays):
    """c_text, c_pc_xyz and, where the case has them, c_pc_feat."""
    return [arrays[key] for key in ("text_vec", "c_pc_xyz", "c_pc_feat") if key in arrays]


def assert_close(name, reference, output, rtol=1e-4, atol=2e-5):
    """Like `torch.testing.assert_close`, for any dtype; the message has name and largest error."""
    reference, output = reference.double(), output.double()
    assert reference.shape == output.shape, (name, reference.shape, output.shape)
    error = (reference - output).abs()
    excess = error - (atol + rtol * reference.abs())
    assert not excess.isnan().any(), f"{name}: NaN"
    assert not (excess > 0).any(), f"{name}: largest error {error.max():.3e}"
