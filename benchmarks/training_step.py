"""Time one training step on a GPU: as a CUDA graph, kernel by kernel, and on the plain torch scan.

    python benchmarks/training_step.py                          # the demo's model and batches
    python benchmarks/training_step.py --configfile mine.yaml   # a model of one's own
    python benchmarks/training_step.py --profile                # and where the time goes

A step is all of it: features of the frozen scene model where there is one, gradients, optimiser and
averaged weights. Batches are random numbers of the configured sizes.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from cdm.commands.config_files import DEMO_DEFAULTS, read_config
from cdm.model.checkpoint import inspect_scene_model
from cdm.model.mamba import Mamba
from cdm.model.point_features import columns_to_read
from cdm.model.scene_model import load_scene_model
from cdm.training.beginning import find_beginning
from cdm.training.items import TrainingBatch
from cdm.training.trainer import Trainer

DEMO = [DEMO_DEFAULTS, DEMO_DEFAULTS.with_name("demo_training.yaml")]


def random_batch(config, architecture) -> TrainingBatch:
    """Normal maps and features, points in a box of 4 m."""
    batch, points = config.training.batch_size, config.dataset.num_points
    columns = columns_to_read(config, architecture.point_feat_dim)
    return TrainingBatch(
        x_start=torch.randn(batch, points, architecture.contact_dim, device="cuda"),
        c_text=torch.randn(batch, architecture.text_feat_dim, device="cuda"),
        c_pc_xyz=4 * torch.rand(batch, points, 3, device="cuda"),
        c_pc_feat=torch.randn(batch, points, columns, device="cuda") if columns else None,
    )


def make_trainer(config, architecture, precision: str, form: str, scene_model) -> Trainer:
    """A trainer whose gradients come as a CUDA graph, kernel by kernel, or from plain torch."""
    settings = replace(config.training, precision=precision)
    config = replace(config, training=settings)
    trainer = Trainer(config, architecture, "cuda", scene_model=scene_model)
    if form != "graph":
        trainer._gradients = trainer._eager
    if form == "plain torch scan":
        for module in trainer.model.modules():
            if isinstance(module, Mamba):
                module.backend = "chunked"
    return trainer


def milliseconds(function, repeats: int) -> float:
    """Median time of a call, from its first kernel to its last."""
    times = []
    for turn in range(repeats + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def print_profile(function) -> None:
    """The kernels of one call, those that take most first."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as trace:
        function()
        torch.cuda.synchronize()
    events = sorted(trace.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) / 1e3
    print(f"\n{'kernel':82}{'calls':>6}{'ms':>8}   of {total:.2f} ms")
    for event in events[:40]:
        print(f"{event.key[:80]:82}{event.count:6}{event.self_device_time_total / 1e3:8.3f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configfile", nargs="+", default=DEMO, help="of the model and its data")
    parser.add_argument("--config", nargs="+", default=[], help="key=value laid over them")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--profile", action="store_true", help="the kernels of one step in bf16")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("measures a step on a GPU, and torch finds none here")
    config = read_config(options.configfile, options.config)
    architecture = find_beginning(config).architecture
    scene_weights = inspect_scene_model(config, architecture.point_feat_dim)
    scene_model = None
    if scene_weights is not None:
        scene_model = load_scene_model(Path(scene_weights["path"]), scene_weights["sha256"]).cuda()
    batch = random_batch(config, architecture)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {len(batch.x_start)} items of "
        f"{config.dataset.num_points} points, {architecture.sizes}"
    )
    print(f"{'':24}{'':6}{'ms/step':>9}{'peak GB':>9}")
    forms = ["graph", "kernel by kernel"] + ["plain torch scan"] * (not options.no_baseline)
    for precision in options.precision:
        for form in forms:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            trainer = make_trainer(config, architecture, precision, form, scene_model)
            try:
                ms = milliseconds(lambda: trainer.train_step(batch), options.repeats)  # noqa: B023
                found = f"{ms:9.2f}{torch.cuda.max_memory_allocated() / 2**30:9.2f}"
            except torch.OutOfMemoryError:
                found = "  out of memory"
            print(f"{form:24}{precision:6}{found}", flush=True)
    if options.profile:
        trainer = make_trainer(config, architecture, "bf16", "kernel by kernel", scene_model)
        trainer.train_step(batch)
        print_profile(lambda: trainer.train_step(batch))


if __name__ == "__main__":
    main()
