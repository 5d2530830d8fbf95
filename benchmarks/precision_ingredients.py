"""What each rounding of a PointMamba step costs: simulated in float64, on the CPU.

    python benchmarks/precision_ingredients.py                       # 2048 points: some minutes
    python benchmarks/precision_ingredients.py --points 8192 --alone # the second table only

The fused kernels (cdm/model/backbones/point_mamba_cuda.py) compute in float32, and round where a
number is stored in 16 bits or goes into a tensor core. Here everything is float64, and each of
these places can round alone. float32 counts as exact: its own error is 2e-6. The model is that of
denoising_step.py: full size, with untrained weights. Errors are relative, as there.
"""

import argparse

import torch
import torch.nn.functional as F
from denoising_step import CONTACT_DIM, TEXT_FEAT_DIM, architecture

from cdm.model.cdm import CDM
from cdm.model.point_order import gather_points
from cdm.training.initial_weights import initial_state_dict

PLACES = {
    "hidden": "first layer's output",
    "second": "weights of the second layer",
    "embedding": "second layer's output",
    "norm": "norms, which go into in_proj",
    "in_proj": "weights of in_proj",
    "x": "in_proj's output x",
    "z": "in_proj's output z, the gate",
    "u": "the convolution's output u",
    "x_proj": "weights of x_proj",
    "dt_B_C": "x_proj's outputs dt, B and C",
    "dt_proj": "weights of dt_proj",
    "delta_u": "delta u, where it meets B",
    "decay": "a quarter of the decays: polynomials",
    "states": "states, where they meet C",
    "y_one": "y of each direction, before their sum",
    "y": "the scan's output, which goes into out_proj",
    "out_proj": "weights of out_proj",
    "out": "out_proj's output, which is added to the stream",
}
# What could be left exact when everything else is fp16. The first four make up `precision: fp16`.
EMBEDDING = ("hidden", "second", "embedding")
TAKEN = (*EMBEDDING, "out", "norm", "in_proj", "z")
SETS = {
    "fp16": (),
    "with the embedding in float32": EMBEDDING,
    "and out_proj's output in float32": (*EMBEDDING, "out"),
    "and in_proj of pairs": TAKEN[:-1],
    "and the gate z in float32: `precision: fp16`": TAKEN,
    "that and x in float32": (*TAKEN, "x"),
    "that and out_proj's weights as pairs": (*TAKEN, "out_proj"),
    "that and delta u and states in float32": (*TAKEN, "delta_u", "states"),
}
CHUNK = 64  # tokens whose states are in memory at once
LN_2 = 0.6931471805599453


def to_tf32(x):
    """Rounded to the nearest, ties to even, with 10 bits after the leading one."""
    bits = x.float().view(torch.int32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32).double()


FORMATS = {
    "bf16": lambda x: x.bfloat16().double(),
    "fp16": lambda x: x.half().double(),
    "tf32": to_tf32,
}


class Rounding:
    """Rounds values at some places, and keeps the largest number of each.

    Args:
        formats: for each place that rounds, a name of FORMATS.
    """

    def __init__(self, formats):
        self.formats, self.largest = formats, {}

    def __call__(self, place, x):
        if place not in self.formats:
            return x
        self.largest[place] = max(float(x.abs().max()), self.largest.get(place, 0.0))
        return FORMATS[self.formats[place]](x)


def step(cdm, rounded, x, timesteps, c_text, c_pc_xyz, c_pc_feat=None):
    """pred_xstart of one map, in the form of the fused kernels.

    Args:
        cdm: a PointMamba in float64.
        rounded: a `Rounding`.
        x, timesteps, c_text, c_pc_xyz, c_pc_feat: as `CDM.forward` takes them; float64, batch 1.
    """
    backbone = cdm.contact_model
    state = backbone.prepare(c_text, c_pc_xyz, cdm.point_feat(c_text, c_pc_xyz, c_pc_feat))
    first, _, second, norm = backbone.embedding.net
    time_proj = backbone.time_proj(cdm.timestep_embedder(timesteps))
    hidden = F.linear(gather_points(x, state.order), first.weight[:, : backbone.columns[0]])
    hidden = rounded("hidden", F.gelu(hidden + state.static_proj + time_proj[:, None]))
    weights = rounded("second", second.weight), rounded("second", second.bias)
    stream = norm(rounded("embedding", F.linear(hidden, *weights)))
    for layer in backbone.layers:
        y = mix(layer.mamba, rounded, rounded("norm", layer.norm(stream)))
        stream = stream + rounded("out", product(rounded, layer.mamba, "out_proj", y))
    return gather_points(cdm.contact_layer(backbone.out_proj(stream)), state.inverse)


def product(rounded, mamba, name, x):
    return F.linear(x, rounded(name, getattr(mamba, name).weight))


def mix(mamba, rounded, s):
    """`cdm.model.backbones.point_mamba_cuda.mix`, for (1, num_points, d_model)."""
    x, z = product(rounded, mamba, "in_proj", s).chunk(2, dim=-1)
    x, z = rounded("x", x), rounded("z", z)
    both = torch.cat([x, x.flip(1)])  # (2, num_points, d_inner): each in the order of its walk
    weight, length = mamba.conv1d.weight, x.shape[1]
    conv = F.conv1d(
        both.mT, weight, mamba.conv1d.bias, padding=weight.shape[2] - 1, groups=len(weight)
    )
    u = rounded("u", F.silu(conv[..., :length].mT))
    A = -mamba.A_log.exp()
    sizes = mamba.dt_proj.in_features, A.shape[1], A.shape[1]
    dt, B, C = rounded("dt_B_C", product(rounded, mamba, "x_proj", u)).split(sizes, dim=-1)
    delta = F.softplus(product(rounded, mamba, "dt_proj", dt) + mamba.dt_proj.bias)
    y = scan(rounded, delta, rounded("delta_u", delta * u), A, B, C) + mamba.D * u
    forward, backward = rounded("y_one", y).split(1)
    return rounded("y", (forward + backward.flip(1)) * F.silu(z))


def scan(rounded, delta, delta_u, A, B, C):
    """The states times C, (2, num_points, d_inner)."""
    h, parts = torch.zeros(2, *A.shape, dtype=A.dtype), []
    for start in range(0, delta.shape[1], CHUNK):
        here = slice(start, start + CHUNK)
        decays = decay(rounded, torch.einsum("bld,dn->lbdn", delta[:, here], A))
        added = torch.einsum("bld,bln->lbdn", delta_u[:, here], B[:, here])
        states = torch.empty_like(added)
        for t in range(len(added)):
            h = torch.addcmul(added[t], decays[t], h, out=states[t])
        parts.append(torch.einsum("lbdn,bln->bld", rounded("states", states), C[:, here]))
    return torch.cat(parts, dim=1)


def decay(rounded, exponent):
    """e^exponent; every other state of two channels in four as `exp2_polynomial` has it."""
    decays = exponent.exp()
    if "decay" in rounded.formats:
        for channel in (2, 3):
            power = exponent[..., channel::4, 1::2] / LN_2
            f = power - power.round()
            cubic = 1 + f * (LN_2 + f * (0.2421200 + f * 0.0554913))
            decays[..., channel::4, 1::2] = cubic * torch.exp2(power.round())
    return decays


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--trans-dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--alone", nargs="*", default=["bf16", "fp16"], choices=FORMATS)
    options = parser.parse_args()

    # The model and the inputs.
    torch.manual_seed(0)
    cdm = CDM(architecture(options.trans_dim, options.depth))
    state = initial_state_dict(cdm.architecture)
    cdm.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    cdm = cdm.double().requires_grad_(False)
    x, xyz = torch.randn(1, options.points, CONTACT_DIM), 4 * torch.rand(1, options.points, 3)
    text = F.normalize(torch.randn(1, TEXT_FEAT_DIM), dim=1)
    inputs = x.double(), torch.tensor([250]), text.double(), xyz.double()
    exact = step(cdm, Rounding({}), *inputs)

    def error(formats):
        rounding = Rounding(formats)
        out = step(cdm, rounding, *inputs)
        return f"{float((out - exact).norm() / exact.norm()):.2g}", rounding.largest

    # Every place alone, then all together, then sets of places that stay exact.
    half, largest = error(dict.fromkeys(PLACES, "fp16"))
    if options.alone:
        print("|".join(["", "rounded alone", *options.alone, "largest number", ""]))
    for place in PLACES if options.alone else ():
        errors = [error({place: name})[0] for name in options.alone]
        row = PLACES[place], *errors, f"{largest.get(place, 1):.2g}"
        print(f"| {' | '.join(row)} |", flush=True)
    for name in ("bf16", "tf32"):
        print(f"| everything in {name} | {error(dict.fromkeys(PLACES, name))[0]} |", flush=True)
    for name, places in SETS.items():
        left = {place: "fp16" for place in PLACES if place not in places}
        print(f"| {name} | {error(left)[0] if places else half} |", flush=True)


if __name__ == "__main__":
    main()
