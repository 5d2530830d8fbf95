"""The whole chain against a run of afford-motion's map generation script, with its own noise."""

import numpy as np
import pytest
import torch
from example_datasets import dataset_config
from golden import load_case

from cdm.contact import to_distance
from cdm.datasets import FileReader, make_dataset
from cdm.datasets.statistics import find_statistics
from cdm.model.point_order import gather_points
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.samplers import ddpm_updates, sample_loop

CASE = "12_end_to_end_h3d"


@pytest.fixture
def recorded(parity, parity_index):
    files = parity_index["cases"][CASE]["files"]
    meta = next(entry["meta"] for entry in files.values() if "meta" in entry)
    return meta, np.load(parity / CASE / "run.npz")


def test_maps_are_those_of_afford_motions_script(parity, parity_index, recorded):
    meta, run = recorded
    dataset = make_dataset(
        dataset_config(
            name="ContactHumanML3DDataset",
            phase=meta["phase"],
            captions="all",
            on_bad_item="skip",  # a clip of the split has no motion file
            data_repr=meta["data_repr"],
            sigma=meta["sigma"],
            num_points=run["batch0.init_noise"].shape[1],
        ),
        data_dir=parity / meta["data_dir"],
    )
    assert dataset.statistics_name() == meta["stats_file"]
    statistics = find_statistics(dataset)
    np.testing.assert_array_equal(statistics.mean, run["mean"])
    np.testing.assert_array_equal(statistics.std, run["std"])

    samples = {(sample.index, sample.caption_idx): sample for sample in dataset.samples()}
    vectors = dict(zip(run["captions"].tolist(), run["caption_vecs"], strict=True))
    model = load_case(parity, meta["checkpoint"].split("/")[0])
    diffusion = create_diffusion(meta["diffusion_steps"], "cosine", meta["respacing"])
    reader = FileReader(dataset.data_dir)
    made = {}
    for batch in range(sum(name.endswith(".init_noise") for name in run.files)):
        names = run[f"batch{batch}.info_index"].tolist()
        chosen = [
            samples[key]
            for key in zip(names, run[f"batch{batch}.info_caption_index"].tolist(), strict=True)
        ]
        assert [sample.text for sample in chosen] == run[f"batch{batch}.text"].tolist()
        x_0 = sample_batch(model, diffusion, dataset, reader, chosen, vectors, run, batch)
        for sample, x in zip(chosen, x_0, strict=True):
            made[f"{sample.index}-{sample.caption_idx}"] = to_distance(
                x, statistics.mean, statistics.std, meta["sigma"]
            )

    saved = {name[6:-4]: run[name] for name in run.files if name.startswith("saved:")}
    assert sorted(made) == sorted(saved)
    tolerance = parity_index["tolerances"]["trajectory_fp32"]
    for name, reference in saved.items():
        # Held as contact, which is what the model gives: the root in the distance blows up the
        # last bit of a contact near 1.
        as_contact = [
            np.exp(-(d**2) / (2 * meta["sigma"] ** 2)) for d in (made[name], reference[0])
        ]
        np.testing.assert_allclose(*as_contact, **tolerance, err_msg=name)
        far = reference[0] > 0.2
        np.testing.assert_allclose(made[name][far], reference[0][far], **tolerance, err_msg=name)


@torch.inference_mode()
def sample_batch(model, diffusion, dataset, reader, chosen, vectors, run, batch):
    xyz = np.stack([dataset.load(sample, reader).c_pc_xyz for sample in chosen])
    c_text = torch.from_numpy(np.stack([vectors[sample.text] for sample in chosen]))
    denoise = model.condition(c_text, torch.from_numpy(xyz))
    executed = sorted(diffusion.timestep_map, reverse=True)
    draws = dict(zip(executed, run[f"batch{batch}.step_noises"], strict=False))  # last not stored
    draws[diffusion.original_num_steps] = run[f"batch{batch}.init_noise"]

    def noise(step):
        return gather_points(torch.from_numpy(draws[int(step)]), denoise.order)

    x_0 = sample_loop(ddpm_updates(diffusion), denoise, noise, diffusion.original_num_steps)
    return gather_points(x_0, denoise.inverse).numpy()
