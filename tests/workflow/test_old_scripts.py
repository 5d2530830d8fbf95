"""afford-motion's scripts for its three tasks, as their page has them, plan on small trees."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pages
import pytest
import torch
from helpers import NUM_POINTS, REPO, small_architecture, write_contacts, write_dataset
from training_logs import composed, write_log

from cdm.commands.config_files import read_config
from cdm.commands.old_words import read_words
from cdm.commands.snakemake_line import known_rules, snakemake_words
from cdm.model.checkpoint import expected_shapes, inspect_scene_model
from cdm.model.scene_model import PointTransformerSeg
from cdm.run.planning import make_plan
from cdm.training.beginning import find_beginning
from cdm.training.initial_weights import write_checkpoint

PAGE = (REPO / "docs/from-the-old-script.md").read_text()
SCRIPTS = PAGE[PAGE.index("## The scripts") : PAGE.index("## Single words")]
COMMANDS = [command for command in pages.commands(SCRIPTS) if "exp_" in command]
SCENE_WEIGHTS = "POINTTRANS_C_N8192_E300/model.pth"
# Experiment of the page -> sets, point features, what its log has otherwise.
EXPERIMENTS = {
    "CDM-Perceiver-H3D": (False, 0, {}),
    "CDM-Perceiver-HUMANISE": (True, 32, {}),
    "CDM-Perceiver-ALL": (True, 32, {"task__dataset__sets": ["HUMANISE", "PROX"]}),
}


def write_tree(folder: Path) -> None:
    """A data folder with the sets, clips and scans, and the three experiments."""
    data = write_dataset(folder / "data", 4, NUM_POINTS, split=[0, 1, 2])
    (data / "HUMANISE/test.txt").write_text("000003\n")
    mask = data / "HUMANISE/contact_motion/target_mask/00003.npy"
    mask.parent.mkdir()
    np.save(mask, np.zeros(NUM_POINTS, bool))
    shutil.copytree(data / "HUMANISE", data / "PROX")
    kinds = ("HUMANISE", "HUMANISE_PROX", "OriH3D", "HumanML3D_HUMANISE_PROX")
    for index, sets in enumerate(kinds):
        mean = np.full((1, 6), 0.1 * (index + 1), np.float32)
        fur = "_fur" if "HumanML3D" in sets else ""
        path = data / f"Mean_Std_Cont_{sets}_contact_cont_joints_0.8{fur}.npz"
        np.savez(path, mean=mean, std=mean)

    for name in ("a", "b"):
        write_contacts(data / f"H3D/contacts/{name}.npz", NUM_POINTS, 0)
        for part in ("new_joint_vecs", "texts"):
            (data / "H3D" / part).mkdir(exist_ok=True)
        np.save(data / f"H3D/new_joint_vecs/{name}.npy", np.zeros((60, 263), np.float32))
        (data / f"H3D/texts/{name}.txt").write_text("walk#x#0.0#0.0\nrun#x#0.0#0.0\n")
    for phase in ("train", "test", "all"):
        (data / f"H3D/{phase}.txt").write_text("a\nb\n")

    (data / "custom/points").mkdir(parents=True)
    header = "scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others\n"
    (data / "custom/anno.csv").write_text(f"{header}room,1,2,3,sit on the sofa,\n")
    points = np.random.default_rng(0).uniform(0, 2, (NUM_POINTS, 6)).astype(np.float32)
    np.savez(data / "custom/points/0000.npz", points=points)

    (data / SCENE_WEIGHTS).parent.mkdir()
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in PointTransformerSeg(6).state_dict().items()}
    torch.save(
        {k: torch.zeros(s, dtype=torch.float16) for k, s in shapes.items()}, data / SCENE_WEIGHTS
    )
    for arch, dim in (("Perceiver", 0), ("Perceiver", 32), ("PointMamba", 0)):
        architecture = replace(small_architecture(arch, dim), text_feat_dim=512)
        write_checkpoint(folder / f"{arch}-{dim}.pt", architecture)
    for name, (sets, dim, changes) in EXPERIMENTS.items():
        checkpoint = folder / f"outputs/{name}/ckpt/model000100.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.hardlink_to(folder / f"Perceiver-{dim}.pt")
        usual = {
            "model__arch_perceiver__encoder_num_heads": 4,
            "model__scene_model__use_scene_model": bool(dim),
        }
        write_log(folder / "outputs" / name, composed(sets=sets, **usual | changes))


@pytest.fixture(scope="module")
def tree(made_once):
    return made_once("afford-motion", write_tree)


@pytest.fixture(autouse=True)
def in_tree(tree, tmp_path, monkeypatch):
    """Links to the tree in a folder of the test's own; CLIP's weights are taken as they were."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(tree / "data")
    Path("outputs").mkdir()
    for name in EXPERIMENTS:
        Path("outputs", name).symlink_to(tree / "outputs" / name)
    monkeypatch.setattr("cdm.run.planning.find_text_weights", lambda *arguments: [])


def assignments(command: str) -> list[str]:
    """What a command of the page gives to `--config`."""
    program, *words = shlex.split(command)
    if program == "cdm":
        end = words.index("--") if "--" in words else len(words)
        words = snakemake_words(read_words(words[1:end], known_rules()), [])
    return words[words.index("--config") + 1 :]


SAMPLING = [command for command in COMMANDS if "train.py" not in command]


def test_the_page_has_every_task_and_split():
    for name in EXPERIMENTS:
        found = [command for command in SAMPLING if f"/{name}" in command]
        assert any("phase: test" in c or "CustomDataset" in c for c in found), name
        assert any(c.startswith("snakemake") and "_train" in c for c in found), name
        assert any(c.startswith("cdm run") for c in found), name


@pytest.mark.parametrize("command", SAMPLING)
def test_each_command_of_the_page_plans_what_the_script_sampled(command):
    config = read_config([], assignments(command))
    plan, samples = make_plan(config)
    assert (config.dataset.sigma, config.diffusion.steps, config.seed in (7, 2023)) == (
        0.8,
        500,
        True,
    )
    assert plan.architecture.sizes["encoder_num_heads"] == 4
    assert config.model.text_model.max_length == 20
    custom, test = "Custom" in command, "test" in command
    first = {"CDM-Perceiver-H3D": 0.3, "CDM-Perceiver-HUMANISE": 0.1, "CDM-Perceiver-ALL": 0.2}
    [name] = [name for name in EXPERIMENTS if f"/{name}" in command]
    assert plan.statistics.values["mean"][0][0] == pytest.approx(first[name])
    if custom:
        assert {sample.set for sample in samples} == {"custom"}
        assert (config.sampling.k_samples, config.dataset.max_items) == (30, 32)
    elif name == "CDM-Perceiver-H3D":
        assert {sample.set for sample in samples} == {"H3D"}
    else:
        held = {"HUMANISE"} if "HUMANISE" in name else {"HUMANISE", "PROX"}
        indices = {"3"} if test and "_train" not in command else {"0", "1", "2"}
        assert {sample.set for sample in samples} == held
        assert {sample.index for sample in samples} == indices
    assert bool(plan.scene_model) == (name != "CDM-Perceiver-H3D")


@pytest.mark.parametrize(
    "command", [c for c in SAMPLING if c.startswith("cdm") and "model=cdm" in c]
)
def test_without_a_log_the_words_of_the_script_are_enough(command, tree):
    for name in EXPERIMENTS:
        folder = Path("outputs", name)
        folder.unlink()
        folder.mkdir()
        (folder / "ckpt").symlink_to(tree / "outputs" / name / "ckpt")
    heads = "model.arch_perceiver.encoder_num_heads=4"
    points = f"task.dataset.num_points={NUM_POINTS}"
    command = command.replace("model=cdm", f"model=cdm {heads} {points}")
    if "Custom" in command:
        command += " task.dataset.sets=[HUMANISE,PROX]"
    config = read_config([], assignments(command))
    plan, _ = make_plan(config)
    h3d = "-H3D" in command
    assert config.model.text_model.max_length == (20 if h3d else 32)
    assert (config.dataset.sigma, config.diffusion.steps) == (0.8, 500)
    assert bool(plan.scene_model) == (not h3d)


# Experiment that a training script of the page makes -> steps, tokens, sets.
TRAININGS = {
    "my_t2m": (300000, 20, None),
    "my_ts2m": (200000, 32, ("HUMANISE",)),
    "my_novel": (300000, 32, ("HumanML3D", "HUMANISE", "PROX")),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_the_training_script_of_each_task_starts_a_training(name):
    [command] = [c for c in COMMANDS if f"train.py exp_name={name} " in c]
    steps, tokens, sets = TRAININGS[name]
    job = read_words(shlex.split(command)[2:], known_rules())
    assert job.targets == ["train"]
    config = read_config([], assignments(command))
    training = config.training
    assert (training.steps, training.batch_size, training.checkpoint_every) == (steps, 64, 100000)
    assert (config.data_dir, config.run_dir) == ("data", f"outputs/{name}")
    assert (config.dataset.sigma, config.diffusion.steps) == (0.8, 500)
    assert config.model.text_model.max_length == tokens
    assert config.dataset.name == ("ContactMapDataset" if sets else "ContactHumanML3DDataset")
    assert sets is None or config.dataset.sets == sets

    # The model, and the scene model's weights where afford-motion has them.
    architecture = find_beginning(config).architecture
    assert architecture.arch == "Perceiver" and expected_shapes(architecture)
    found = inspect_scene_model(config, architecture.point_feat_dim)
    assert architecture.point_feat_dim == (32 if sets else 0)
    assert (found and found["path"]) == (f"data/{SCENE_WEIGHTS}" if sets else None)


def experiment(tree: Path, model: str) -> Path:
    """A new experiment folder with the weights of a small model, and no log."""
    checkpoint = Path("exp/ckpt/model000100.pt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.symlink_to(tree / f"{model}.pt")
    return Path("exp")


def test_an_experiment_of_the_fork_needs_its_folder_alone(tree):
    write_log(experiment(tree, "PointMamba-0"), composed(fork=True), composed(fork=True, seed=9))
    plan, samples = make_plan(read_config([], ["exp_dir=exp"]))
    assert plan.architecture.arch == "PointMamba" and plan.config.seed == 9
    assert {sample.set for sample in samples} == {"H3D"}


def plan_of_all(*settings):
    return make_plan(read_config([], ["exp_dir=outputs/CDM-Perceiver-ALL", *settings]))


def test_a_list_of_examples_needs_its_name_beside_the_experiment_alone(tree):
    Path("mine.txt").write_text("sit#PROX#00003#60\nlie#HUMANISE#0\nstand#PROX#3#\n")
    plan, samples = plan_of_all("dataset={name: ContactMapExampleDataset, examples: mine.txt}")
    assert [(s.set, s.index, s.caption_idx, s.text) for s in samples] == [
        ("PROX", "3", 0, "sit"),
        ("HUMANISE", "0", 0, "lie"),
        ("PROX", "3", 1, "stand"),
    ]
    assert plan.statistics.values["mean"][0][0] == pytest.approx(0.2)  # of the training's sets
    assert not plan.identity["dataset"]["rotates"]

    # An appended line leaves whole chunks as they are, and a changed text does not.
    def names(text):
        Path("mine.txt").write_text(text)
        return [chunk.name for chunk in plan_of_all(*settings)[0].chunks]

    settings = [
        "dataset={name: ContactMapExampleDataset, examples: mine.txt}",
        "workflow={chunk_size: 1}",
    ]
    found = names("sit#PROX#3\nlie#PROX#1\n")
    assert names("sit#PROX#3#60\nlie#PROX#1\nlie#PROX#2\n")[:2] == found
    assert names("sat#PROX#3\nlie#PROX#1\n")[1:] == found[1:]
    assert names("sat#PROX#3\nlie#PROX#1\n")[0] != found[0]


def test_a_ratio_in_the_log_changes_no_chunk():
    def chunks(**ratios):
        shutil.rmtree("exp/log", ignore_errors=True)
        sets = {"task__dataset__sets": ["HUMANISE", "PROX"]}
        write_log(Path("exp"), composed(sets=True, **sets, **ratios))
        plan, samples = make_plan(read_config([], ["exp_dir=exp"]))
        return [chunk.name for chunk in plan.chunks], samples

    Path("exp").mkdir()
    Path("exp/ckpt").symlink_to(Path("outputs/CDM-Perceiver-ALL/ckpt").resolve())
    heads = {"model__arch_perceiver__encoder_num_heads": 4, "model__arch": "Perceiver"}
    usual = heads | {"model__scene_model__use_scene_model": True}
    part = {"task__dataset__ratio": 0.1, "task__dataset__sets_config__PROX__ratio": 0.1}
    assert chunks(**usual, **part) == chunks(**usual)


# Logs of the public forks -> model, what is set beside them for the small tree, first mean.
REAL = {
    "t2m_perceiver": ("Perceiver-0", [], 0.3),
    "t2m_pointmamba": ("PointMamba-0", [], 0.3),
    "novel_perceiver": ("Perceiver-32", ["dataset={sets: [HUMANISE]}"], 0.4),
}


@pytest.mark.parametrize("name", REAL)
def test_logs_as_the_public_forks_write_them_plan(name, tree):
    log = REPO / "../shared/experiments" / name / "log"
    if not log.exists():
        pytest.skip(f"no logs of experiments: {log} is missing")
    model, settings, mean = REAL[name]
    (experiment(tree, model) / "log").symlink_to(log.resolve())
    points = f"dataset={{num_points: {NUM_POINTS}}}"
    config = read_config([], ["exp_dir=exp", points, *settings])
    plan, samples = make_plan(config)
    assert plan.architecture.arch == config.model.arch == model.split("-")[0]
    assert (config.dataset.sigma, config.diffusion.steps, config.seed) == (0.8, 500, 2023)
    assert plan.statistics.values["mean"][0][0] == pytest.approx(mean)
    assert config.model.text_model.max_length == (32 if settings else 20)
    assert bool(plan.scene_model) == bool(settings) == plan.identity["dataset"]["rotates"]
    assert {sample.set for sample in samples} == {"HUMANISE" if settings else "H3D"}
