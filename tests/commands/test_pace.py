"""Minutes per chunk, once a rate is known."""

from helpers import plan_run, run_config, write_dummy_chunk

from cdm.commands.pace import describe_choice, describe_pace, measure_pace
from cdm.run.planning import make_plan

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


def test_a_start_that_another_chunk_hid_is_not_charged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=12)
    write_dummy_chunk(plan, plan.chunks[0], start=1.5, warm_up=0.5, wait=0.5)
    assert measure_pace(plan, RUN).start_s == 4.0
    for chunk in plan.chunks[:3]:  # all but the first job of a run stood by
        write_dummy_chunk(plan, chunk, start=1.5, warm_up=0.5, wait=30.0)
    pace = measure_pace(plan, RUN)
    assert (pace.start_s, pace.seconds(3)) == (0.5, 6.5)


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


def test_the_full_chain_and_the_fast_one_are_told_once_a_rate_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=12)
    assert describe_choice(plan) == ""
    write_dummy_chunk(plan, plan.chunks[0])  # 2 steps a map: 1 s a step
    told = describe_choice(plan)
    # 4 chunks start for 2 s each; 12 maps of 500 or of 20 steps
    assert "about 1:40:08 with the full chain (500 steps), 0:04:08 with config/fast.yaml" in told
    assert "(20 steps), of one device, at 0.5 maps/s of 2 steps measured on dummy" in told


def test_a_rate_of_another_run_and_sampler_serves_if_the_model_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=12)
    write_dummy_chunk(plan, plan.chunks[0])
    (tmp_path / "outputs/not a run").write_text("")
    other = make_plan(run_config(exp_name="other", sampling={"method": "ddim", "k_samples": 2}))[0]
    assert "about 3:20:08 with the full chain" in describe_choice(other)  # 24 maps
    in_bf16 = make_plan(run_config(exp_name="other", sampling={"precision": "bf16"}))[0]
    assert describe_choice(in_bf16) == ""
    short = make_plan(run_config(diffusion={"steps": 17}))[0]
    assert describe_choice(short) == ""  # config/fast.yaml is not possible there


def test_a_damaged_record_has_no_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=12)
    record = write_dummy_chunk(plan, plan.chunks[0])
    record.write_bytes(record.read_bytes()[:-9])
    assert measure_pace(plan, RUN) is None
