"""Minutes per chunk, once a rate is known."""

from helpers import plan_run, write_dummy_chunk

from cdm.commands.pace import describe_pace, measure_pace

RUN = "outputs/run"  # dummy chunks: 2 s to start, 6 s to sample 3 maps


def test_the_pace_is_that_of_finished_chunks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=12)
    assert measure_pace(plan, RUN) is None
    assert "not known before a chunk is finished" in describe_pace(plan)
    write_dummy_chunk(plan, plan.chunks[2])
    pace = measure_pace(plan, RUN)
    assert (pace.num_chunks, pace.start_s, pace.map_s, pace.seconds(3)) == (1, 2.0, 2.0, 8.0)
    assert "about 0.133 minutes a chunk" in describe_pace(plan)
    assert "3 chunks, 0:00:24 of one device, are left" in describe_pace(plan)


def test_another_chunk_size_is_told_by_the_chunks_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=12)
    write_dummy_chunk(plan, plan.chunks[0])
    larger, _ = plan_run(tmp_path, workflow={"chunk_size": 12}, seed=4)
    assert "about 0.433 minutes a chunk" in describe_pace(larger)


def test_chunks_that_cost_something_else_do_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=12)
    write_dummy_chunk(plan, plan.chunks[0])
    dearer, _ = plan_run(tmp_path, diffusion={"timestep_respacing": 4})
    assert measure_pace(dearer, RUN) is None


def test_a_damaged_record_has_no_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=12)
    record = write_dummy_chunk(plan, plan.chunks[0])
    record.write_bytes(record.read_bytes()[:-9])
    assert measure_pace(plan, RUN) is None
