"""The samplers against the papers in float64, laws, stored numbers, and afford-motion."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers.schedulers import DDPMScheduler, DPMSolverMultistepScheduler, scheduling_ddpm
from golden import load_case

from cdm.kernels import philox
from cdm.noise import stream_key
from cdm.sampling.diffusion import create_diffusion, get_named_beta_schedule
from cdm.sampling.samplers import UPDATES, sample_loop, sampler_updates

SHAPE = (2, 5, 6)
KEYS = np.array([stream_key(2023, "noise", "toy", i) for i in range(SHAPE[0])], np.uint32)
CASES = [
    ("ddpm", 0.0),
    ("ddim", 0.0),
    ("ddim", 0.5),
    ("ddim", 1.0),
    ("dpmpp_2m", 0.0),
    ("dpmpp_2m_sde", 0.0),
]
NOISY = ("ddpm", "dpmpp_2m_sde")


def noise(step):
    return philox.normal(KEYS, step, *SHAPE[1:])


def sample(name, denoise, diffusion, noise, eta=0.0, callback=None):
    updates = sampler_updates(name, diffusion, eta)
    return sample_loop(updates, denoise, noise, diffusion.original_num_steps, callback)


def toy(x, t):
    """Stands for a model: bounded, and different at every step."""
    return (0.7 * x + 0.001 * t - 0.2).clip(-1, 1)


def naive(name, eta, diffusion):
    """The papers in float64 and steps of t.

    Ho et al. 2020, algorithm 2; Song et al. 2021, eq. 12; for DPM-Solver++ the first-order step is
    DDIM's (eta 0, stochastic 1) with the extrapolated prediction of Lu et al. 2022, algorithm 2.
    """
    steps = diffusion.timestep_map

    def half_log_snr(ab):
        return np.log(ab / (1 - ab)) / 2

    predictions = []
    full = create_diffusion(diffusion.original_num_steps).alphas_cumprod
    x = noise(diffusion.original_num_steps).double().numpy()
    for i in range(len(steps) - 1, -1, -1):
        ab, ab_prev = full[steps[i]], full[steps[i - 1]] if i else 1.0
        x_0 = toy(x, steps[i])
        predictions.append(x_0)
        if name.startswith("dpmpp"):
            eta = float(name == "dpmpp_2m_sde")
            if 0 < i < len(steps) - 1:
                h = half_log_snr(ab_prev) - half_log_snr(ab)
                r = (half_log_snr(ab) - half_log_snr(full[steps[i + 1]])) / h
                x_0 = x_0 + (predictions[-1] - predictions[-2]) / (2 * r)
        z = noise(int(steps[i])).double().numpy() if i else 0
        variance = (1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev)
        if name == "ddpm":
            alpha = ab / ab_prev
            mean = np.sqrt(ab_prev) * (1 - alpha) / (1 - ab) * x_0
            x = mean + np.sqrt(alpha) * (1 - ab_prev) / (1 - ab) * x + np.sqrt(variance) * z
        else:
            eps = (x - np.sqrt(ab) * x_0) / np.sqrt(1 - ab)
            toward = np.sqrt(1 - ab_prev - eta**2 * variance) * eps
            x = np.sqrt(ab_prev) * x_0 + toward + eta * np.sqrt(variance) * z
    return x


GRIDS = ["snr18", "karras12", "steps=0,5,17,99"]


@pytest.mark.parametrize("respacing", [None, "10", "ddim20", "3,1,4", "1", *GRIDS])
@pytest.mark.parametrize(("name", "eta"), CASES)
def test_loops_match_the_papers_in_float64(name, eta, respacing):
    diffusion = create_diffusion(100, "cosine", respacing)
    out = sample(name, toy, diffusion, noise, eta=eta)
    assert out.dtype == torch.float32 and out.shape == SHAPE
    np.testing.assert_allclose(out.numpy(), naive(name, eta, diffusion), rtol=1e-4, atol=1e-4)


# Written by `python tests/sampling/test_samplers.py`: first map, first point, joints 0 to 2.
GOLDEN = {
    ("ddpm", 0.0): [-0.842137, -0.776907, -0.841458],
    ("ddim", 0.0): [-0.432798, -0.900071, -0.590035],
    ("ddim", 0.5): [-0.850278, -0.918805, -0.808354],
    ("ddim", 1.0): [-0.842137, -0.776907, -0.841458],
    ("dpmpp_2m", 0.0): [-0.486803, -0.87782, -0.614119],
    ("dpmpp_2m_sde", 0.0): [-0.82911, -0.746068, -0.903894],
}


@pytest.mark.parametrize(("name", "eta"), CASES)
def test_loops_give_the_stored_numbers(name, eta):
    out = sample(name, toy, create_diffusion(100, "cosine", "20"), noise, eta=eta)
    np.testing.assert_allclose(out[0, 0, :3].numpy(), GOLDEN[name, eta], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "eta"), CASES)
def test_a_model_that_knows_the_answer_is_believed(name, eta):
    answer = torch.linspace(-2, 2, noise(0).numel()).reshape(SHAPE)
    out = sample(name, lambda x, t: answer, create_diffusion(50), noise, eta=eta)
    torch.testing.assert_close(out, answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "eta"), [case for case in CASES if case[1] != 0.5])
def test_samples_of_a_gaussian_have_its_moments(name, eta):
    """With the exact posterior mean of N(0.5, 0.3^2) the samples are that Gaussian."""
    diffusion = create_diffusion(200)
    key = KEYS[:1]

    def posterior_mean(x, t):
        ab = float(diffusion.alphas_cumprod[t])
        gain = np.sqrt(ab) * 0.09 / (ab * 0.09 + 1 - ab)
        return 0.5 + gain * (x - np.sqrt(ab) * 0.5)

    out = sample(
        name, posterior_mean, diffusion, lambda step: philox.normal(key, step, 4096, 6), eta=eta
    ).double()
    assert abs(out.mean() - 0.5) < 0.01
    assert abs(out.std() - 0.3) < 0.012  # 200 steps discretise the chain


@pytest.mark.parametrize(("name", "eta"), CASES)
def test_loops_ask_for_original_steps_and_draw_no_more_than_they_use(name, eta):
    diffusion = create_diffusion(100, "cosine", "4")
    seen, drawn, called = [], [], []

    def denoise(x, t):
        seen.append(t)
        return toy(x, t)

    def draw(step):
        drawn.append(step)
        return noise(step)

    out = sample(
        name,
        denoise,
        diffusion,
        draw,
        eta=eta,
        callback=lambda t, x, x_0: called.append((t, x, x_0)),
    )
    assert seen == diffusion.timestep_map[::-1].tolist() and all(type(t) is int for t in seen)
    assert drawn == [100, *(seen[:-1] if name in NOISY or eta else [])]
    assert [t for t, _, _ in called] == seen
    assert torch.equal(called[-1][1], out) and called[0][2].shape == SHAPE


@pytest.mark.parametrize(("name", "eta"), CASES)
def test_points_may_run_in_any_order(name, eta):
    order = torch.randperm(SHAPE[1], generator=torch.Generator().manual_seed(0))
    diffusion = create_diffusion(100, "cosine", "5")
    in_order = sample(name, toy, diffusion, noise, eta=eta)
    shuffled = sample(name, toy, diffusion, lambda step: noise(step)[:, order], eta=eta)
    torch.testing.assert_close(shuffled, in_order[:, order], rtol=1e-6, atol=1e-6)


def test_eta_out_of_range_is_refused():
    with pytest.raises(ValueError, match="eta is"):
        sample("ddim", toy, create_diffusion(10), noise, eta=1.5)


def test_a_loop_waits_for_no_device():
    """Meta tensors have no values: a loop that looked at one would raise."""

    def empty(step):
        return torch.empty(SHAPE, device="meta")

    for name in UPDATES:
        out = sample(name, lambda x, t: x, create_diffusion(10), empty, eta=0.5)
        assert out.shape == SHAPE and out.device.type == "meta"


def test_eta_belongs_to_ddim_alone():
    diffusion = create_diffusion(10)
    for name in UPDATES:
        changed = sampler_updates(name, diffusion, 1.0) != sampler_updates(name, diffusion, 0.0)
        assert changed == (name == "ddim"), name


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_errors_fall_with_the_order_of_the_solver(name, order):
    """Against the exact solution for N(0.5, 1): five times the steps, 5^order less error."""
    full = create_diffusion(1000)
    x = torch.linspace(-2, 2, 41)

    def posterior_mean(x, t):
        root = float(np.sqrt(full.alphas_cumprod[t]))
        return 0.5 + root * (x - root * 0.5)

    def error(steps):
        diffusion = create_diffusion(1000, "cosine", steps)
        out = sample(name, posterior_mean, diffusion, lambda step: x)
        return float((out - exact).abs().max())

    exact = 0.5 + x - 0.5 * np.sqrt(full.alphas_cumprod[-1])  # of unit variance at every step
    assert 0.6 * 5**order < error(50) / error(250) < 2.5 * 5**order


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_two_steps_of_dpm_solver_are_ddim(name):
    """First and last step are of first order: DDIM, without noise or with all of it."""
    diffusion = create_diffusion(100, "cosine", "2")
    expected = sample("ddim", toy, diffusion, noise, eta=float(name in NOISY))
    out = sample(name, toy, diffusion, noise)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def sde_coefficients(levels):
    """SDE-DPM-Solver++ 2M in plain float64, from lambda = log(alpha / sigma) before each step.

    x <- alpha_s [(G + e) D - e D'] + (sigma_s / sigma_t) exp(-h) x + sigma_s sqrt(G) noise with
    G = 1 - exp(-2 h) and e = G h / (2 h'); the first step has e = 0, the last is x <- D.
    """
    rows = []
    for i, level in enumerate(levels[:-1]):
        alpha = math.sqrt(1 / (1 + math.exp(-2 * levels[i + 1])))
        sigma, sigma_before = (math.sqrt(1 / (1 + math.exp(2 * v))) for v in (levels[i + 1], level))
        h = levels[i + 1] - level
        gain = 1 - math.exp(-2 * h)
        extra = gain * h / (2 * (level - levels[i - 1])) if i else 0.0
        shrink, noise_coef = sigma / sigma_before * math.exp(-h), sigma * math.sqrt(gain)
        rows.append((alpha * (gain + extra), shrink, noise_coef, -alpha * extra))
    return [*rows, (1.0, 0.0, 0.0, 0.0)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [100, 500, 1000])
@pytest.mark.parametrize("grid", ["snr18", "karras18", "steps=0,3,50,99", "20"])
def test_sde_coefficients_on_a_grid_match_the_formula(grid, steps, schedule):
    diffusion = create_diffusion(steps, schedule, grid.replace("99", str(steps - 1)))
    full = np.cumprod(1 - get_named_beta_schedule(schedule, steps))
    updates = sampler_updates("dpmpp_2m_sde", diffusion)
    levels = [0.5 * math.log(full[u.t] / (1 - full[u.t])) for u in updates]
    assert updates[0].t == steps - 1 and updates[-1].t == 0
    np.testing.assert_allclose(
        [update[1:] for update in updates], sde_coefficients(levels), rtol=2e-6, atol=2e-7
    )


@pytest.mark.parametrize("respacing", ["3", "10", "20", "50", None, *GRIDS])
@pytest.mark.parametrize(
    ("name", "algorithm"), [("dpmpp_2m", "dpmsolver++"), ("dpmpp_2m_sde", "sde-dpmsolver++")]
)
def test_dpm_solver_agrees_with_diffusers(name, algorithm, respacing):
    diffusion = create_diffusion(100, "cosine", respacing)
    full = create_diffusion(100, "cosine")
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=100,
        trained_betas=full.betas,
        algorithm_type=algorithm,
        prediction_type="sample",
        solver_order=2,
        final_sigmas_type="zero",
    )
    # In float32, as it keeps them, 1 - alpha_bar of the first steps has three digits.
    scheduler.alphas_cumprod = full.alphas_cumprod
    scheduler.set_timesteps(timesteps=diffusion.timestep_map[::-1].tolist())
    x = noise(100)
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(toy(x, t), t, x, variance_noise=noise(t)).prev_sample
    out = sample(name, toy, diffusion, noise)
    torch.testing.assert_close(out, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("respacing", ["10", *GRIDS])
def test_ddpm_agrees_with_diffusers(respacing, monkeypatch):
    diffusion = create_diffusion(100, "cosine", respacing)
    scheduler = DDPMScheduler(
        num_train_timesteps=100,
        trained_betas=create_diffusion(100).betas,
        prediction_type="sample",
        variance_type="fixed_small",
        clip_sample=False,
    )
    scheduler.alphas_cumprod = torch.from_numpy(create_diffusion(100).alphas_cumprod)
    scheduler.set_timesteps(timesteps=diffusion.timestep_map[::-1].tolist())
    x = noise(100)
    for t in scheduler.timesteps.tolist():
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, t=t, **__: noise(t))
        x = scheduler.step(toy(x, t), t, x).prev_sample
    torch.testing.assert_close(
        sample("ddpm", toy, diffusion, noise), x.float(), rtol=1e-5, atol=1e-5
    )


# ---- afford-motion's trajectories, with its model ----


def eta_of(file_name):
    """traj_ddim_eta05 -> 0.5, traj_ddim_eta0 -> 0, traj_p_sample -> 0."""
    digits = file_name.partition("_eta")[2]
    return float(f"{digits[0]}.{digits[1:] or 0}") if digits else 0.0


def check_trajectories(parity, parity_index, device):
    folder = parity / "09_diffusion"
    config = json.loads((folder / "config.json").read_text())
    tolerance = parity_index["tolerances"]["trajectory_fp32"]
    inputs = np.load(folder / "traj_inputs.npz")
    given = {k: torch.from_numpy(inputs[k]).to(device) for k in inputs.files if k != "text"}
    cdm = load_case(parity, config["checkpoint"].split("/")[0]).to(device)
    files = sorted(path for path in folder.glob("traj_*.npz") if path.stem != "traj_inputs")
    assert files
    with torch.inference_mode():
        denoise = cdm.condition(given["text_vec"], given["c_pc_xyz"], given.get("c_pc_feat"))
        batch = torch.arange(len(denoise.order), device=device)[:, None]
        for path in files:
            golden = np.load(path)
            name = "ddim" if "ddim" in path.stem else "ddpm"
            respacing = config["respacing_ddim" if name == "ddim" else "respacing_p_sample"]
            diffusion = create_diffusion(
                config["diffusion_steps"], config["noise_schedule"], respacing
            )
            executed = golden["model_timesteps"].tolist()
            draws = {diffusion.original_num_steps: given["init_noise"]}
            draws |= dict(zip(executed, given["step_noises"], strict=True))
            seen = []

            sample(
                name,
                denoise,
                diffusion,
                lambda step, draws=draws: draws[step][batch, denoise.order],
                eta=eta_of(path.stem),
                callback=lambda *step, seen=seen: seen.append(step),
            )
            assert [t for t, _, _ in seen] == executed

            def in_point_order(x):
                return x[batch, denoise.inverse].cpu().numpy()

            samples = [in_point_order(seen[i][1]) for i in golden["sample_steps"].tolist()]
            for key, value in {
                "pred_xstart_first": in_point_order(seen[0][2]),
                "pred_xstart_last": in_point_order(seen[-1][2]),
                "samples": np.stack(samples),
                "final": in_point_order(seen[-1][1]),
            }.items():
                message = f"{path.stem}: {key}"
                np.testing.assert_allclose(value, golden[key], **tolerance, err_msg=message)


def test_trajectories_match_afford_motion(parity, parity_index):
    check_trajectories(parity, parity_index, "cpu")


@pytest.mark.gpu
def test_trajectories_match_afford_motion_on_gpu(parity, parity_index):
    check_trajectories(parity, parity_index, "cuda")


if __name__ == "__main__":
    for name, eta in CASES:
        out = sample(name, toy, create_diffusion(100, "cosine", "20"), noise, eta=eta)
        print(f'    ("{name}", {eta}): {[round(float(v), 6) for v in out[0, 0, :3]]},')
