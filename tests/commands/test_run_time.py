"""What a run takes, from the seconds of a chunk job's parts."""

from dataclasses import replace

import pytest

from cdm.commands.run_time import (
    DISPATCH_S,
    JobTimes,
    Work,
    chunks_s,
    cut,
    device_s,
    run_s,
    size_for,
)
from cdm.jobs.standby import Share

# On a CPU: 0.5 s a map and 0.1 s a step; 5 s to start, 1 s to begin, 2 s to write.
CPU = JobTimes(
    ready_s=5.0, device_s=1.0, batch_maps=1, batch_s=0.5, step_s=0.1, item_s=0.0, write_s=2.0,
    byte_s=0.0,
)  # fmt: skip
GPU = replace(CPU, batch_maps=4)  # the same for batches of four
ONE = Share(jobs=1, turns=1, threads=1)
STANDBY = Share(jobs=2, turns=1, threads=1)


def work(*sizes, **changes):
    values = {"k": 1, "num_steps": 5, "sample_bytes": 0, "own_s": 0.0, "merge_s": 0.0}
    return Work(sizes=sizes, **(values | changes))


def test_a_map_on_a_cpu_is_no_batch():
    assert CPU.sample_s(3, k=1, num_steps=5) == 3 * (0.5 + 5 * 0.1)
    assert CPU.sample_s(3, k=2, num_steps=5) == 6 * (0.5 + 5 * 0.1)


def test_a_short_batch_on_a_gpu_takes_as_long_as_a_full_one():
    assert GPU.sample_s(1, k=1, num_steps=5) == GPU.sample_s(4, k=1, num_steps=5) == 1.0
    assert GPU.sample_s(5, k=1, num_steps=5) == 2.0


def test_a_reader_that_is_slower_than_the_device_sets_the_pace():
    slow = replace(GPU, item_s=0.75)
    assert slow.sample_s(4, k=1, num_steps=5) == 3.0
    assert slow.sample_s(4, k=12, num_steps=5) == 12.0  # each item is read once for twelve maps


def test_every_chunk_pays_for_its_start_once():
    # 5 to start, 1 to begin, 3 maps of a second, 2 to write
    assert chunks_s(CPU, work(3), ONE) == 11.0
    assert chunks_s(CPU, work(3, 3, 3), ONE) == pytest.approx(33.0 + 2 * DISPATCH_S)
    assert chunks_s(CPU, work(3, 1), ONE) == pytest.approx(11.0 + 9.0 + DISPATCH_S)


def test_a_start_that_is_hidden_behind_sampling_is_not_counted_again():
    # The first job starts and the last one writes; between, one computes after the other.
    sizes = work(*[20] * 4)
    assert chunks_s(CPU, sizes, STANDBY) == 5.0 + 4 * (1.0 + 20.0) + 2.0
    assert chunks_s(CPU, sizes, ONE) == pytest.approx(4 * 28.0 + 3 * DISPATCH_S)


def test_a_start_that_is_longer_than_sampling_is_hidden_in_part():
    # Two jobs of 9 s each at a time, of which 2 s compute
    found = chunks_s(CPU, work(*[1] * 10), STANDBY)
    assert 5 * 9.0 <= found <= 5 * 9.0 + 2.0 + 5 * DISPATCH_S


def test_devices_share_the_chunks():
    two = Share(jobs=4, turns=2, threads=1)
    assert chunks_s(CPU, work(*[20] * 4), two) == 5.0 + 2 * (1.0 + 20.0) + 2.0
    assert chunks_s(CPU, work(20), two) == chunks_s(CPU, work(20), ONE)
    assert device_s(CPU, work(*[20] * 4)) == 4 * 21.0  # however many devices


def test_what_is_no_chunk_job_comes_before_and_after():
    assert run_s(CPU, work(3, own_s=4.0, merge_s=1.5), ONE) == 4.0 + 11.0 + 1.5


def test_writing_grows_with_the_chunk():
    writes = replace(CPU, byte_s=0.25)
    assert chunks_s(writes, work(3, sample_bytes=4), ONE) == 11.0 + 3.0
    assert writes.job_s(3, 1, 5, 4) == 14.0


def test_chunks_are_cut_as_the_plan_cuts_them():
    assert cut(7, 3) == (3, 3, 1)
    assert cut(6, 3) == (3, 3)
    assert cut(2, 3) == (2,)


@pytest.mark.parametrize(
    ("seconds", "size"), [(8.9, 4), (10.0, 8), (10.9, 8), (11.0, 12), (1e6, 24)]
)
def test_the_suggested_chunk_is_the_largest_that_fits_in_whole_batches(seconds, size):
    assert size_for(GPU, work(12, 12), seconds) == size


def test_the_suggested_chunk_has_a_sample_at_least():
    assert size_for(GPU, work(12, k=30), 1.0) == 1
