"""Seconds and peak memory of everything but sampling, at 10,000 chunks and 1,000,000 samples.

    python benchmarks/scale.py --folder /scratch/scale
    python benchmarks/scale.py --folder /scratch/h3d --chunks 8 --chunk-size 3072 --points 8192

A dummy generator takes the model's place: every chunk holds the same random maps, and a record of
its own. The folder of the first command needs 1.5 million inodes and 4 GB; it is kept, and what is
there is used again. That of the second, 24,576 maps as float32, needs 12 GB. Every figure is one
process of its own, as people run it.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from cdm.archive.layout import OK, Layout
from cdm.archive.records import ChunkRecord, record_path
from cdm.archive.store import write_chunk
from cdm.files import seal, write_bytes
from cdm.run.dataset import open_dataset
from cdm.run.plan_files import read_plan, read_samples

REPO = Path(__file__).resolve().parent.parent
NUM_JOINTS = 6
LARGE = 1000  # points of a map from which on the copies of a template are hard links
RUN = "outputs/scale"


def write_dataset(folder: Path, num_items: int) -> None:
    """A HUMANISE folder of empty items: whatever plans only looks at names, sizes and times."""
    base = folder / "HUMANISE" / "contact_motion"
    (base / "contacts").mkdir(parents=True)
    with open(base / "anno.csv", "w") as table:
        table.write("scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others\n")
        for i in range(num_items):
            table.write(f"scene{i // 40:05},0.5,-0.25,{i % 8 / 8},walk to the chair number {i},x\n")
    (folder / "HUMANISE" / "train.txt").write_text("".join(f"{i:06}\n" for i in range(num_items)))
    for i in range(num_items):
        os.close(os.open(base / "contacts" / f"{i:05}.npz", os.O_CREAT | os.O_WRONLY))
    name = "Mean_Std_Cont_HUMANISE_contact_cont_joints_0.8.npz"
    mean, std = np.full((1, 6), 0.2, np.float32), np.full((1, 6), 0.3, np.float32)
    np.savez(folder / name, mean=mean, std=std)


def generate(run: str, numbers: list[int]) -> None:
    """The dummy generator: one real chunk of random maps, copied under the name of each chunk.

    Every chunk has a record of its own, as long as a real one.
    """
    os.chdir(Path(run).parents[1])
    plan = read_plan(RUN)
    points, size = plan.config.dataset.num_points, plan.config.workflow.chunk_size
    layout = Layout(size, size, 1, points, NUM_JOINTS, plan.config.workflow.dtype)
    provenance = {
        "config": plan.config.as_dict(),
        "settings": plan.identity,
        "checkpoint": asdict(plan.checkpoint),
        "architecture": asdict(plan.architecture),
        "statistics": plan.statistics.values | {"path": plan.statistics.path, "sigma": 0.8},
        "precision": "fp32",
        "device": "dummy generator",
        "versions": {},
    }
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        template = Path(scratch, "template.zarr")
        rng = np.random.default_rng(0)
        arrays = {
            name: rng.random(values.shape, np.float32).astype(values.dtype)
            for name, values in layout.empty().items()
        }
        seconds = {"load": 1.0, "text": 0.1, "model": 0.5, "sample": 300.0}
        rows = [{"status": OK}] * size
        record = ChunkRecord("", "", layout, rows, {}, provenance, seconds)
        record = write_chunk(template, arrays, record)
        dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
        for chunk in (plan.chunks[number] for number in numbers):
            store = Path(RUN, "chunks", f"{chunk.name}.zarr")
            if record_path(store).exists():
                continue
            samples = read_samples(plan, chunk, dataset)
            rows = [asdict(sample) | {"status": OK} for sample in samples]
            for row in rows:
                del row["scene_trans"]
            items = dict(content(plan, sample) for sample in samples)
            contents = {"items": items, "text_model": {}, "statistics": {}}
            copy = os.link if points >= LARGE else shutil.copy2
            shutil.copytree(template, store, copy_function=copy)
            mine = replace(
                record, name=chunk.name, base=chunk.base, samples=rows, contents=contents
            )
            write_bytes(record_path(store), seal(asdict(mine)))


def content(plan, sample) -> tuple[str, dict]:
    """What a chunk's record says of an empty item."""
    name = f"HUMANISE/contact_motion/contacts/{int(sample.index):05}.npz"
    modified = Path(plan.config.data_dir, name).stat().st_mtime_ns
    sha256 = hashlib.sha256(b"").hexdigest()
    return name, {"size": 0, "mtime_ns": modified, "sha256": sha256}


def measure(what: str, command: list, folder: Path) -> dict:
    """Wall and CPU seconds, and peak memory (MB), of one process."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        output.seek(0)
        told = output.read()
    if process.returncode:
        sys.exit(f"{what}: exit status {process.returncode}\n{told[-3000:]}")
    figure = {
        "what": what,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_MB": usage.ru_maxrss // 1024,
    }
    print("| " + " | ".join(map(str, figure.values())) + " |", flush=True)
    return figure


def prepare(folder: Path, num_items: int, options: argparse.Namespace) -> None:
    """A data set and its configuration, unless they are there."""
    if (folder / "mine.yaml").exists():
        return
    write_dataset(folder / "data", num_items)
    config = {
        "exp_name": "scale",
        "exp_dir": "demo",
        "gpu": None,
        "dataset": {"data_dir": "data", "sets": ["HUMANISE"], "num_points": options.points},
        "model": yaml.safe_load((REPO / "config/demo.yaml").read_text())["model"],
        "workflow": {"chunk_size": options.chunk_size, "dtype": options.dtype},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))


def main() -> None:
    """Build what is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="working folder, kept")
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--chunk-size", type=int, default=100, help="samples of each chunk")
    parser.add_argument("--points", type=int, default=4, help="of each map")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--deep", action="store_true", help="measure verify --deep, too")
    args = parser.parse_args()
    large, small = args.folder.resolve() / "large", args.folder.resolve() / "45000"
    prepare(large, args.chunks * args.chunk_size, args)
    prepare(small, 45_000, args)
    (args.folder / "Snakefile").write_text("rule all:\n    input: []\n")

    python, cdm = sys.executable, [sys.executable, "-m", "cdm"]
    here = ["--configfile", "mine.yaml"]
    make_plan = (
        "from cdm.commands.config_files import read_config; "
        "from cdm.run.plan_files import save_plan; from cdm.run.planning import make_plan; "
        "save_plan(*make_plan(read_config(['mine.yaml'], [])))"
    )
    snakemake = [python, "-m", "snakemake", *here, "--cores", "2", "--quiet", "all"]
    workflow = ["-s", REPO / "Snakefile"]
    merge = (
        "from cdm.run.merge import merge; from cdm.run.plan_files import read_plan; "
        f"merge(read_plan('{RUN}'), print, threads={args.cores})"
    )
    print("| what | seconds | CPU seconds | peak MB |\n| --- | --- | --- | --- |")
    measure("plan, 45,000 items", [python, "-c", make_plan], small)
    measure("plan", [python, "-c", make_plan], large)
    measure("dry run (plan and DAG)", [*snakemake, *workflow, "-n"], large)
    job = ["--mode", "remote", "-n"]
    measure("Snakemake's own start", [*snakemake, "-s", "../Snakefile", *job], large)
    with open(large / RUN / "plan" / "plan.json") as file:
        name = "{number:05}-{fingerprint}".format(**json.load(file)["chunks"][-1])
    target = ["--target-jobs", f"generate_chunk:chunk={name}", "--allowed-rules", "generate_chunk"]
    measure("a cluster job's start", [*snakemake, *workflow, *job, *target], large)

    with ProcessPoolExecutor(args.cores) as pool:
        parts = np.array_split(np.arange(args.chunks), 4 * args.cores)
        list(pool.map(partial(generate, str(large / RUN)), [part.tolist() for part in parts]))
    measure("plan, all finished", [python, "-c", make_plan], large)
    measure("dry run, all finished", [*snakemake, *workflow, "-n"], large)
    shutil.rmtree(large / RUN / "contact_maps.zarr", ignore_errors=True)
    measure("merge", [python, "-c", merge], large)
    measure("status", [*cdm, "status", RUN], large)
    measure("why, seed changed", [*cdm, "why", *here, "--config", "seed=1"], large)
    measure("verify", [*cdm, "verify", RUN], large)
    if args.deep:
        measure("verify --deep", [*cdm, "verify", RUN, "--deep"], large)


if __name__ == "__main__":
    main()
