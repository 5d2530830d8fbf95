"""Run the workflow itself on a full-size dataset and checkpoint, and print what it took.

    python benchmarks/whole_job.py --folder /scratch/whole_job --steps "" 50 20

The dataset (HUMANISE's layout, random points) and the checkpoint (untrained PointMamba) are made
once and used again. For every number of steps the run is started, killed with SIGKILL once a
share of its chunks is finished, unlocked and started again; the figures are those of the chunks'
records and of the wall clock.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from denoising_step import architecture

from cdm.training.initial_weights import write_checkpoint

REPO = Path(__file__).resolve().parent.parent


def write_dataset(folder: Path, num_items: int, num_points: int) -> None:
    """HUMANISE's files with random points and distances."""
    base = folder / "HUMANISE" / "contact_motion"
    (base / "contacts").mkdir(parents=True, exist_ok=True)
    lines = ["scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others"]
    for i in range(num_items):
        lines.append(f"scene{i:04},0,0,0,sit on chair {i},x")
        path = base / "contacts" / f"{i:05}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng(i)
        points = rng.uniform(-1, 1, (num_points, 6)).astype(np.float32)
        dist = rng.uniform(0, 3, (num_points, 22)).astype(np.float32)
        np.savez(path, points=points, mask=np.arange(num_points), dist=dist)
    (base / "anno.csv").write_text("\n".join(lines) + "\n")
    (folder / "HUMANISE" / "train.txt").write_text("".join(f"{i:06}\n" for i in range(num_items)))
    name = "Mean_Std_Cont_HUMANISE_contact_cont_joints_0.8.npz"
    np.savez(folder / name, mean=np.full((1, 6), 0.2, "f4"), std=np.full((1, 6), 0.3, "f4"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--items", type=int, default=512)
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--trans-dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--chunk-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--gpu", default="auto", help="auto, a number, or null for the CPU")
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--steps", nargs="+", default=["50"], help='"" is the whole chain, 500')
    parser.add_argument("--kill-after", type=int, default=1, help="finished chunks; 0: no kill")
    options = parser.parse_args()
    folder = options.folder.resolve()

    write_dataset(folder / "data", options.items, options.points)
    checkpoint = folder / f"exp_{options.trans_dim}_{options.depth}" / "ckpt" / "model000000.pt"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, architecture(options.trans_dim, options.depth))
    print(f"{options.items} items, {options.points} points, chunks of {options.chunk_size}")
    for steps in options.steps:
        run(options, folder, checkpoint, steps)


def run(options, folder: Path, checkpoint: Path, steps: str) -> None:
    """One run, killed once and resumed; prints its figures."""
    name = f"steps_{steps or 500}"
    config = {
        "exp_name": name,
        "exp_dir": str(checkpoint.parent.parent),
        "gpu": options.gpu,
        "dataset": {
            "data_dir": str(folder / "data"), "sets": ["HUMANISE"], "num_points": options.points,
        },
        "model": {"text_model": {"version": "hashing"}},
        "diffusion": {"timestep_respacing": steps},
        "sampling": {"batch_size": options.batch_size, "precision": options.precision},
        "workflow": {"chunk_size": options.chunk_size},
    }  # fmt: skip
    configfile = folder / f"{name}.yaml"
    configfile.write_text(json.dumps(config))  # JSON is YAML
    command = [
        sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"),
        "--configfile", str(configfile), "--cores", str(options.cores), "--resources", "gpu=1",
    ]  # fmt: skip
    chunks = folder / "outputs" / name / "chunks"
    print(f"\n{steps or 500} steps: {' '.join(command[1:])}")

    seconds, killed = 0.0, None
    with open(folder / f"{name}.log", "w") as log:
        if options.kill_after:
            started = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
            while process.poll() is None and count(chunks) < options.kill_after:
                time.sleep(0.05)
            if process.poll() is None:
                time.sleep(2)  # into the next chunk
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed = count(chunks)
            seconds += time.perf_counter() - started
            subprocess.run([*command, "--unlock"], cwd=folder, stdout=log, stderr=log, check=True)
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True)
        seconds += time.perf_counter() - started

    records = [json.loads(path.read_text()) for path in sorted(chunks.glob("*.json"))]
    maps = sum(record["layout"]["num_samples"] for record in records)
    archive = folder / "outputs" / name / "contact_maps.zarr"
    size = sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())
    if killed is not None:
        print(f"  killed with {killed} of {len(records)} chunks finished, then resumed")
    print(f"  {maps} maps in {seconds:.1f} s, Snakemake and merge and all: {maps / seconds:.2f}/s")
    phases = list(records[0]["seconds"])
    for phase in phases:
        values = [record["seconds"][phase] for record in records]
        print(f"  {phase:10} median {np.median(values):8.2f} s, max {max(values):8.2f} s")
    sampling = sum(record["seconds"]["sample"] for record in records)
    whole = sum(sum(record["seconds"].values()) for record in records)
    busy = [record["gpu_busy"] for record in records]
    print(f"  while sampling {maps / sampling:.2f} maps/s; chunk jobs {maps / whole:.2f} maps/s")
    if busy[0] is not None:
        share = sum(b * r["seconds"]["sample"] for b, r in zip(busy, records, strict=True)) / whole
        print(f"  GPU busy {100 * np.mean(busy):.1f} % of sampling, {100 * share:.1f} % of jobs")
    print(f"  archive {size / 1e6:.0f} MB, {size / seconds / 1e6:.1f} MB/s")


def count(chunks: Path) -> int:
    """Finished chunks."""
    return len(list(chunks.glob("*.json")))


if __name__ == "__main__":
    main()
