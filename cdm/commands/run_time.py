"""How long a run takes, from the seconds of a chunk job's parts (no torch).

A chunk job gets ready, computes on its device, and writes. How many jobs there may be at a time,
and how many of them may compute, is what `cdm.jobs.standby.share_out` gave them. The others get
ready or write meanwhile.
"""

import heapq
import math
from dataclasses import dataclass

from cdm.jobs.standby import Share

DISPATCH_S = 0.2  # Snakemake's own, from the end of a job to the start of the next


@dataclass(frozen=True)
class JobTimes:
    """Seconds of the parts of a chunk job.

    Attributes:
        ready_s: from the start of its process until it needs its device.
        device_s: on the device before the first map: context, weights, kernels.
        batch_maps: maps that are computed together; 1 on a CPU, where each map is on its own.
        batch_s: of a batch besides its steps.
        step_s: of a step of a batch.
        item_s: until the next item is read, by all threads of the job together.
        write_s, byte_s: after the last map: of any chunk, and per byte of its arrays.
    """

    ready_s: float
    device_s: float
    batch_maps: int
    batch_s: float
    step_s: float
    item_s: float
    write_s: float
    byte_s: float

    def sample_s(self, num_samples: int, k: int, num_steps: int) -> float:
        """On the device, from the first map of a chunk to its last.

        On a GPU a short batch takes as long as a full one. Items are read meanwhile.
        """
        num_batches = math.ceil(num_samples * k / self.batch_maps)
        work_s = num_batches * (self.batch_s + num_steps * self.step_s)
        return max(work_s, num_samples * self.item_s)

    def job_s(self, num_samples: int, k: int, num_steps: int, sample_bytes: int) -> float:
        """A whole job, from its start to its end, if it waits for nothing."""
        write_s = self.write_s + num_samples * sample_bytes * self.byte_s
        return self.ready_s + self.device_s + self.sample_s(num_samples, k, num_steps) + write_s


@dataclass(frozen=True)
class Work:
    """What a run has to do.

    Attributes:
        sizes: samples of each chunk.
        k: maps of a sample.
        num_steps: of a map.
        sample_bytes: of a sample's rows in all arrays.
        own_s: of Snakemake before the first chunk job: its start, the plan, statistics.
        merge_s: of the merge, and of Snakemake's end.
    """

    sizes: tuple[int, ...]
    k: int
    num_steps: int
    sample_bytes: int
    own_s: float
    merge_s: float


def cut(num_samples: int, chunk_size: int) -> tuple[int, ...]:
    """Samples of each chunk."""
    whole, rest = divmod(num_samples, chunk_size)
    return (chunk_size,) * whole + ((rest,) if rest else ())


def chunks_s(job: JobTimes, work: Work, share: Share) -> float:
    """From the start of the first chunk job to the end of the last one.

    Each job begins when one before it has ended, and computes when a turn is free.
    """
    places, turns = [0.0] * share.jobs, [0.0] * share.turns
    last = 0.0
    for size in work.sizes:
        ready = heapq.heappop(places) + job.ready_s
        begins = max(ready, heapq.heappop(turns))
        computed = begins + job.device_s + job.sample_s(size, work.k, work.num_steps)
        heapq.heappush(turns, computed)
        ends = computed + job.write_s + size * work.sample_bytes * job.byte_s
        heapq.heappush(places, ends + DISPATCH_S)
        last = max(last, ends)
    return last


def run_s(job: JobTimes, work: Work, share: Share) -> float:
    """From the start of the command to its end."""
    return work.own_s + chunks_s(job, work, share) + work.merge_s


def device_s(job: JobTimes, work: Work) -> float:
    """Seconds of devices that all chunks together take."""
    return sum(job.device_s + job.sample_s(size, work.k, work.num_steps) for size in work.sizes)


def size_for(job: JobTimes, work: Work, seconds: float) -> int:
    """The largest chunk, in whole batches, whose job takes at most so long; at least one batch."""

    def size_of(num_batches: int) -> int:
        return max(1, num_batches * job.batch_maps // work.k)

    def fits(num_batches: int) -> bool:
        size = size_of(num_batches)
        return job.job_s(size, work.k, work.num_steps, work.sample_bytes) <= seconds

    low, high = 1, math.ceil(sum(work.sizes) * work.k / job.batch_maps)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return size_of(low)
