"""Compare whole chains in 16 bits with the same chains in fp32, on a GPU: error of maps in metres.

    python benchmarks/precision.py                                  # untrained, full size
    python benchmarks/precision.py --checkpoint exp/ckpt/model.pt   # a PointMamba of yours

Noise, points and text are the same in both; a map's distances come from its normalised values
with mean 0.2, standard deviation 0.3 and sigma 0.8 m.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from denoising_step import architecture

from cdm.config import load_config
from cdm.contact import to_distance
from cdm.kernels import philox
from cdm.model.cdm import CDM
from cdm.model.checkpoint import inspect_checkpoint
from cdm.model.state_dict import load_state_dict
from cdm.noise import stream_key
from cdm.sampling.cuda_sampler import CudaSampler
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.samplers import ddpm_updates
from cdm.training.initial_weights import initial_state_dict

MEAN, STD, SIGMA = np.float32([[0.2]]), np.float32([[0.3]]), 0.8


def load(checkpoint: Path | None) -> CDM:
    """The model of a checkpoint, or an untrained one of full size."""
    if checkpoint is None:
        cdm = CDM(architecture(256, 8))
        state = initial_state_dict(cdm.architecture)
        cdm.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
        return cdm.cuda().eval()
    import yaml

    repo = Path(__file__).resolve().parent.parent
    config = load_config(
        yaml.safe_load((repo / "config/config.yaml").read_text())
        | {"exp_dir": str(checkpoint.parent.parent)}
    )
    cdm = CDM(inspect_checkpoint(checkpoint, config).architecture)
    cdm.load_state_dict(load_state_dict(checkpoint))
    return cdm.cuda().eval()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp16"])
    options = parser.parse_args()

    torch.manual_seed(0)
    cdm = load(options.checkpoint)
    a = cdm.architecture
    c_text = torch.nn.functional.normalize(torch.randn(options.batch, a.text_feat_dim), dim=1)
    c_pc_xyz = 4 * torch.rand(options.batch, options.points, 3)
    c_pc_feat = torch.rand(options.batch, options.points, a.point_feat_dim)
    conditions = [x.cuda() for x in (c_text, c_pc_xyz, c_pc_feat)]
    keys = [stream_key(0, "noise", "", i) for i in range(options.batch)]
    keys = philox.device_keys(keys, "cuda")
    diffusion = create_diffusion(500, "cosine", options.steps)
    maps = {}
    with torch.inference_mode():
        for precision in ("fp32", options.precision):
            cdm.precision = precision
            updates = ddpm_updates(diffusion)
            sampler = CudaSampler(cdm, updates, diffusion.original_num_steps)
            sampler.capture(keys, *conditions)
            maps[precision] = sampler(keys, *conditions).cpu().numpy()
    error = np.abs(maps[options.precision] - maps["fp32"])
    distances = [to_distance(x, MEAN, STD, SIGMA, False) for x in maps.values()]
    metres = np.abs(distances[1] - distances[0])
    print(f"{torch.cuda.get_device_name()}, {options.batch} maps, {options.steps} steps of DDPM")
    for name, values, unit in (("normalised output", error, ""), ("distance", metres, " m")):
        print(
            f"{name}: mean {values.mean():.2e}{unit}, 99.9 % {np.percentile(values, 99.9):.2e}"
            f"{unit}, largest {values.max():.2e}{unit}"
        )
    print(f"a map's standard deviation {maps['fp32'].std():.2f}; distances up to "
          f"{distances[0].max():.2f} m")  # fmt: skip


if __name__ == "__main__":
    main()
