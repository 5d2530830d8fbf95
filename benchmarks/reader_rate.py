"""Items per second that the reader makes: read, checked, rotated; by threads.

    python benchmarks/reader_rate.py --folder /scratch/whole_job
    python benchmarks/reader_rate.py --folder /scratch/whole_job --real ../shared/realdata

Files are those of benchmarks/made_data.py, in the page cache, and with --real those of a folder
with afford-motion's layout. `cdm` is the one on PYTHONPATH.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from made_data import dataset_section, write_dataset

from cdm.commands.config_files import read_config
from cdm.datasets import FileReader
from cdm.errors import BadItem, CDMError
from cdm.run.dataset import open_dataset

REAL = {
    "real custom": "ContactMapCustomDataset",
    "real H3D": "ContactHumanML3DDataset",
}


def rate(section: dict, threads: int, seconds: float) -> float:
    """Items per second of `threads` threads, within about so many seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"exp_name": "reader", "dataset": section}, file)  # JSON is YAML
        file.flush()
        config = read_config([file.name], [], strict=False)
    dataset = open_dataset(config, 0)
    samples, reader = dataset.samples(), FileReader(config.data_dir)

    def load(sample) -> int:
        try:
            dataset.load(sample, reader)
        except BadItem as problem:
            raise SystemExit(str(problem)) from None
        return 1

    work, done = itertools.cycle(samples), 0
    for sample in itertools.islice(work, min(64, len(samples))):
        load(sample)  # into the page cache
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            done += sum(pool.map(load, itertools.islice(work, 16 * threads)))
        return done / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--items", type=int, default=2048)
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--real", type=Path, help="folder with custom/ and H3D/")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    sections = {}
    for layout in ("h3d", "humanise"):
        data = write_dataset(options.folder.resolve(), layout, options.items, options.points)
        sections[layout] = dataset_section(data, layout, options.points)
    if options.real:
        for name, dataset in REAL.items():
            data_dir = str(options.real.resolve())
            sections[name] = {"name": dataset, "data_dir": data_dir, "num_points": 8192}
    found = {}
    print(f"items/s, {len(os.sched_getaffinity(0))} cores; threads: {options.threads}")
    for name, section in sections.items():
        try:
            found[name] = {t: round(rate(section, t, options.seconds), 1) for t in options.threads}
        except CDMError as error:
            found[name] = {"error": str(error)}
        print(f"  {name:12} {found[name]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
