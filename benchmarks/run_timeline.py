"""What the records and logs of a run say about its time."""

import itertools
import json
import re
from collections import defaultdict
from pathlib import Path

WRITTEN = re.compile(r"written in ([\d.]+) s")
FINISHED = re.compile(r"finished: [\d.]+ s: (.*)$", re.MULTILINE)  # a job's last line
DEVICE = re.compile(r"computing on (\S+)|on (CPU)", re.MULTILINE)


def read_timeline(run: Path) -> list[dict]:
    """One entry per finished chunk, by the time at which its record was written.

    Returns:
        name, device (UUID, or "cpu"), maps, seconds (of each phase), gpu_busy, began and ended
        (of the sampling, seconds since 1970). Where a record does not tell when, the sampling
        ended as long before the record was written as the log says that writing took.
    """
    entries = []
    for path in sorted((run / "chunks").glob("*.json")):
        record = json.loads(path.read_text())
        log = run / "logs" / "generate_chunk" / f"{path.stem}.log"
        text = log.read_text("utf-8", "replace") if log.exists() else ""
        written, device = WRITTEN.search(text), DEVICE.search(text)
        seconds = dict(record["seconds"])
        finished = FINISHED.search(text)
        if finished:  # what came after the record too
            parts = (part.rsplit(" ", 1) for part in finished[1].split(", "))
            seconds = {phase: float(spent) for phase, spent in parts} | seconds
            seconds["write"] = float(written[1])
        elif written:
            seconds["write"] = float(written[1])
        sample_s = seconds.get("sample", 0.0)
        ended = path.stat().st_mtime - (float(written[1]) if written else 0.0)
        skipped = sum("reason" in row for row in record["samples"])
        maps = (len(record["samples"]) - skipped) * record["layout"]["k_samples"]
        entries.append(
            {
                "name": path.stem,
                "device": device[1] if device and device[1] else "cpu",
                "maps": maps,
                "seconds": seconds,
                "gpu_busy": record.get("gpu_busy"),
                "began": ended - sample_s,
                "ended": ended,
            }
        )
    return sorted(entries, key=lambda entry: entry["ended"])


def summarise(entries: list[dict], wall_s: float, num_devices: int) -> dict:
    """Figures of a whole run.

    Returns:
        phases: seconds summed over all chunks; gpu_share: of the wall time of all devices, in
        which the recorded batches ran; lost_between_s: per device, from the last batch of one
        chunk to the first of the next, summed, and per chunk.
    """
    phases = defaultdict(float)
    for entry in entries:
        for phase, seconds in entry["seconds"].items():
            phases[phase] += seconds
    busy = [
        (e["gpu_busy"] if e["gpu_busy"] is not None else 1.0) * e["seconds"].get("sample", 0.0)
        for e in entries
    ]
    by_device = defaultdict(list)
    for entry in entries:
        by_device[entry["device"]].append(entry)
    gaps = {
        device: [max(0.0, b["began"] - a["ended"]) for a, b in itertools.pairwise(of)]
        for device, of in by_device.items()
    }
    all_gaps = [gap for of in gaps.values() for gap in of]
    maps = sum(entry["maps"] for entry in entries)
    sample_s = phases.get("sample", 0.0)
    return {
        "chunks": len(entries),
        "maps": maps,
        "largest_chunk": max((entry["maps"] for entry in entries), default=0),
        "maps_per_s": maps / wall_s,
        "maps_per_s_while_sampling": maps / sample_s if sample_s else None,
        "phases_s": {phase: round(seconds, 2) for phase, seconds in phases.items()},
        "busy_s": round(sum(busy), 2),
        "gpu_share": round(sum(busy) / wall_s / num_devices, 4),
        "lost_between_s": {device: round(sum(of), 2) for device, of in gaps.items()},
        "lost_per_gap_s": round(sum(all_gaps) / len(all_gaps), 2) if all_gaps else None,
        "outside_sampling_per_chunk_s": round(
            (wall_s * num_devices - sample_s) / max(1, len(entries)), 2
        ),
    }
