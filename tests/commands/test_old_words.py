"""What was typed to afford-motion's scripts, in our keys."""

import pytest
from training_logs import composed, write_log

from cdm.commands.config_files import flow
from cdm.commands.old_words import config_words, read_words
from cdm.errors import ConfigError

RULES = {"train", "evaluate", "export_pred_contact"}


def read(line):
    return read_words(line.split(), RULES)


def test_keys_of_both_kinds_are_taken():
    job = read(
        "task.dataset.sigma=0.8 model.arch=PointMamba gpu=0 sampling.batch_size=16 "
        "task.dataset.sets=[HUMANISE,PROX] exp_name=007 dataset={phase:val}"
    )
    assert job.values == {
        "dataset.sigma": 0.8,
        "model.arch": "PointMamba",
        "gpu": 0,
        "sampling.batch_size": 16,
        "dataset.sets": ["HUMANISE", "PROX"],
        "exp_name": "007",
        "dataset.phase": "val",
    }
    assert job.kind == "sample" and not job.targets and not job.left_out


def test_the_words_for_snakemake_are_one_for_each_section():
    job = read("exp_dir=a/b task.dataset.sigma=0.8 task.train.phase=test task.train.batch_size=4")
    assert sorted(config_words(job, flow)) == [
        "dataset={phase: test, sigma: 0.8}",
        "exp_dir=a/b",
        "sampling={batch_size: 4}",
    ]


def test_what_changes_nothing_is_left_out():
    job = read(
        "hydra/job_logging=none log_dir=logs platform=TensorBoard task.train.lr=1 "
        "model.arch_perceiver.encoder_dropout=0.3 +task.evaluator.save_results=true seed=3"
    )
    assert job.values == {"seed": 3}
    assert len(job.left_out) == 6 and "log_dir=logs" in job.left_out


def test_where_outputs_lie_and_which_joints_a_map_has_count():
    job = read("output_dir=/scratch/me model.data_repr=contact_pelvis")
    assert job.values == {"output_dir": "/scratch/me", "dataset.data_repr": "contact_pelvis"}
    assert not job.left_out


@pytest.mark.parametrize("line", ["train mine.yaml", "train.py exp_dir=x", "exp_dir=x train"])
def test_a_training_takes_sizes_and_dropout(line):
    sizes = "model.time_emb_dim=64 model.arch_pointmamba.depth=4 training.dropout=0.2"
    job = read(f"{line} {sizes} model.arch_perceiver.encoder_dropout=0.1")
    expected = {"model.time_emb_dim": 64, "model.arch_pointmamba.depth": 4, "training.dropout": 0.2}
    assert expected.items() <= job.values.items() and not job.left_out
    with pytest.raises(ConfigError, match=r"expected 0\.1; training\.dropout=SHARE"):
        read(f"{line} model.arch_perceiver.encoder_dropout=0.3")


@pytest.mark.parametrize("line", ["exp_dir=x", "train.py task=contact_gen model=cdm"])
def test_weights_of_the_scene_model_count_where_it_is_switched_on_elsewhere(line):
    key = "model.scene_model.pretrained_weight"
    assert read(f"{line} {key}=/w.pth").values[key] == "/w.pth"
    section = "model={scene_model:{pretrained_weight:/w.pth}}"  # as messages have it
    assert read(f"{line} {section}").values[key] == "/w.pth"
    job = read(f"{line} {key}=/w.pth model.scene_model.use_scene_model=false")
    assert key not in job.values and f"{key}=/w.pth" in job.left_out


def test_a_key_that_is_taken_out_is_as_if_it_was_never_typed():
    assert read("seed=3 task.dataset.sigma=1 ~task.dataset.sigma ~seed").values == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sampling.batchsize=3", "unknown key 'sampling.batchsize'; did you mean 'sampling.batch_"),
        ("task.dataset.sigmas=3", "did you mean 'task.dataset.sigma'"),
        ("dataset.train_transforms.sigma=3", "did you mean 'dataset.sigma'"),
        ("sampling=ddim", "unknown key 'sampling'"),
        ("~nothing.here", "unknown key 'nothing.here'"),
        ("evalute", "expected key=value, a .yaml file, or a rule"),
        ("seed=1 -n", "options of Snakemake stand behind --, as in: -- -n"),
        ("seed=1,2", "several values are several runs"),
        ("task=contact_motion_gen", "is of stage 2"),
        ("model=cmdm", "is of stage 2"),
        ("task={a:3}", "expected task= one"),
        ("task=other", "expected task= one of text_to_motion_contact_gen"),
        ("diffusion.predict_xstart=false", "diffusion.predict_xstart is false"),
        ("sample.py seed=1", "not a script of stage 1"),
        ("trian mine.yaml", "or a rule; did you mean 'train'?"),
        ("x", "or a rule (evaluate, export_pred_contact, train)"),
        ("train.py task.train.phase=all", "trained on the split train"),
        ("CUDA_VISIBLE_DEVICES=0 python test.py", "CUDA_VISIBLE_DEVICES=0 cdm run"),
        ("test.py task.evaluator.k_samples=x", "expected a whole number"),
    ],
)
def test_what_cannot_be_done_is_told(line, message):
    with pytest.raises(ConfigError) as error:
        read(line)
    assert message in str(error.value)


def test_the_name_of_a_script_says_what_is_done():
    job = read("torchrun --nnodes=1 train_ddp.py task.train.batch_size=64 task.train.max_steps=9")
    assert (job.kind, job.targets) == ("train", ["train"])
    assert job.values == {
        "training.batch_size": 64,
        "training.steps": 9,
        "dataset.data_dir": "data",
    }
    assert read("train.py task.dataset.data_dir=x").values == {"dataset.data_dir": "x"}
    job = read("python test.py exp_dir=x")
    assert job.values == {
        "dataset.phase": "test",
        "dataset.captions": "reference",
        "exp_dir": "x",
    }
    assert read("python train_contact_gen.py gpu=null").values == {"gpu": None}
    assert read("export_pred_contact exp_dir=x").targets == ["export_pred_contact"]


def test_maps_may_go_straight_to_where_stage_2_looks():
    job = read("python gen_train_contact.py exp_dir=x save_dir=data task.dataset.phase=train")
    assert job.targets == ["export_pred_contact"]
    assert (job.values["export.to"], job.values["export.for"]) == ("data", "train")


@pytest.mark.parametrize(
    ("words", "maps", "items"),
    [
        ("k_samples=0 task.evaluator.eval_nbatch=32", None, 1024),
        ("k_samples=30 task.evaluator.num_k_samples=128", 30, 128),
        ("k_samples=30 task.evaluator.num_k_samples=40 task.test.batch_size=16", 30, 32),
        ("k_samples=30 task.evaluator.num_k_samples=40 sampling.batch_size=auto", 30, 32),
        ("k_samples=30 task.evaluator.num_k_samples=40 sampling.batch_size=0", 30, 32),
        ("k_samples=0", None, None),
    ],
)
def test_the_protocol_of_the_test_becomes_items_and_maps(words, maps, items):
    values = read(f"test.py task.evaluator.{words}").values
    assert (values.get("sampling.k_samples"), values.get("dataset.max_items")) == (maps, items)


def test_their_defaults_count_where_no_log_tells(tmp_path):
    job = read("task=contact_gen model=cdm task.dataset.sigma=0.8")
    assert job.values["dataset.name"] == "ContactMapDataset"
    assert (job.values["diffusion.steps"], job.values["dataset.sigma"]) == (1000, 0.8)
    assert job.values["model.text_model.max_length"] == 32
    assert job.values["model.scene_model.use_scene_model"] is True
    assert job.values["model.scene_model.pretrained_weight"].endswith("model.pth")
    write_log(tmp_path, composed())
    told = read(f"task=contact_gen model=cdm exp_dir={tmp_path}").values
    assert told == {"dataset.name": "ContactMapDataset", "exp_dir": str(tmp_path)}
