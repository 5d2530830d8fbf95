"""What a chunk job does before its first step, and how long each part takes.

    python benchmarks/job_start.py --folder /tmp/job_start                       # on a CPU
    python benchmarks/job_start.py --folder /tmp/job_start --trees ../before .   # two checkouts

One job (8 samples, 2 steps) of a full-size, untrained PointMamba is run again and again, by turns
of the trees, without a Snakemake around it. Its captions go through a text tower of the size of
CLIP's ViT-B/32 with random weights (`--text clip`), or are hashed. The first turn warms caches and
is not counted. Printed are medians, in seconds: of each phase that the job records, of all before
the first step, of the whole job, and its CPU time, which other work on the machine changes least.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from denoising_step import architecture
from made_data import dataset_section, write_dataset
from safetensors.torch import save_file

from cdm.model.clip_text import END, START, Sizes, expected_shapes
from cdm.training.initial_weights import write_checkpoint

REPO = Path(__file__).resolve().parent.parent
BEFORE = "start", "plan", "import", "load", "wait", "text", "model", "warm_up"  # the first step
# What Snakemake puts before a script, with the few things that the script asks of it. Reading its
# own pickled object imports Snakemake, as here.
JOB = """
import sys, json
import snakemake.iocontainers
from types import SimpleNamespace
told = json.loads(sys.argv[1])
snakemake = SimpleNamespace(
    log=[told["log"]], input=[], config=told["config"], threads=0,
    resources=type("R", (dict,), {"__getattr__": dict.get})(compute_threads=told["threads"]),
    wildcards=SimpleNamespace(chunk=told["chunk"]),
)
exec(compile(open(told["script"]).read(), told["script"], "exec"))
"""
# The plan is saved by the tree itself, as the start of a run does.
PLAN = """
import sys, json
from cdm.commands.config_files import configure
from cdm.config import load_config
from cdm.run.plan_files import save_plan
from cdm.run.planning import make_plan
config = configure(json.loads(sys.argv[1]), (), ()).raw
plan, samples = make_plan(load_config(config))
save_plan(plan, samples)
[chunk] = plan.chunks
print(json.dumps([config, chunk.name, plan.chunk_record(chunk)]))
"""


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="for data, weights and runs")
    add("--trees", type=Path, nargs="+", default=[REPO], help="checkouts that take turns")
    add("--text", nargs="+", choices=("hashing", "clip"), default=["hashing", "clip"])
    add("--repeats", type=int, default=5)
    add("--points", type=int, default=1024)
    add("--trans-dim", type=int, default=256)
    add("--depth", type=int, default=8)
    add("--threads", type=int, default=1)
    add("--gpu", action="store_true", help="on a GPU; default: on the CPU")
    return parser.parse_args()


def main() -> None:
    """Make what the jobs read, run them by turns, print the medians."""
    options = read_options()
    folder = options.folder.resolve()
    data = write_dataset(folder, "humanise", 8, options.points)
    checkpoint = folder / f"exp_{options.trans_dim}_{options.depth}" / "ckpt" / "model000000.pt"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, architecture(options.trans_dim, options.depth))
    clip = write_clip(folder / "clip")
    for text in options.text:
        section = {"hashing": {"version": "hashing"}, "clip": {"version": "ViT-B/32"}}[text]
        if text == "clip":
            section["path"] = str(clip)
        config = {
            "exp_dir": str(checkpoint.parent.parent),
            "gpu": "auto" if options.gpu else None,
            "dataset": dataset_section(data, "humanise", options.points),
            "model": {"text_model": section},
            "diffusion": {"timestep_respacing": 2},
            "workflow": {"chunk_size": 8},
        }
        found = {tree: [] for tree in options.trees}
        for turn in range(options.repeats + 1):
            for number, tree in enumerate(options.trees):
                outputs = {"exp_name": f"job{number}", "output_dir": str(folder / "runs" / text)}
                figures = run_job(tree.resolve(), config | outputs, options.threads)
                found[tree] += [figures] * (turn > 0)
        for tree, figures in found.items():
            medians = {key: statistics.median(x[key] for x in figures) for key in figures[0]}
            parts = ", ".join(f"{key} {value:.2f}" for key, value in medians.items())
            print(f"{text}, {tree}: {parts}", flush=True)


def write_clip(folder: Path) -> Path:
    """A tower of ViT-B/32's size with small random weights, and a vocabulary of single bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = Sizes()
    signs = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
    pieces = [*signs, *(f"{sign}</w>" for sign in signs)]
    vocab = dict(zip(pieces, range(len(pieces)), strict=True)) | {START: 49406, END: 49407}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"model_type": "clip_text_model", "architectures": ["CLIPTextModelWithProjection"]}
    (folder / "config.json").write_text(json.dumps(config | sizes._asdict()))
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        weights = {key: torch.randn(s) * 0.02 for key, s in expected_shapes(sizes).items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def run_job(tree: Path, config: dict, threads: int) -> dict[str, float]:
    """Seconds of the phases of one job, which is planned before and makes its chunk anew."""
    path = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-c", PLAN, json.dumps(config)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    config, chunk, record = json.loads(done.stdout)
    Path(record).unlink(missing_ok=True)
    script = tree / "scripts" / "generate_chunk.py"
    told = {"config": config, "threads": threads, "chunk": chunk, "script": str(script)}
    told["log"] = str(Path(record).parent.parent / "logs" / "job.log")
    command = [sys.executable, "-c", JOB, json.dumps(told)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = json.loads(Path(record).read_bytes())["seconds"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    phases = {key: seconds.get(key, 0.0) for key in BEFORE}
    first = sum(phases.values())
    return phases | {"first step after": first, "whole job": wall, "its CPU seconds": cpu}


if __name__ == "__main__":
    main()
