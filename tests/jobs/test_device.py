"""Leases of devices: one job each, freed by the system when the process ends, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
import types
import uuid

import pytest
from helpers import REPO
from waiting import PATIENCE_S

from cdm.errors import ConfigError
from cdm.jobs import device
from cdm.jobs.device import choose_device, give_back, lease, visible_devices

HOLD = """
import sys, time
from cdm.jobs.device import lease
def log(line): print(line, flush=True)
print(lease(sys.argv[1:], log), flush=True)
time.sleep(600)
"""
GPUS = [("GPU-aa1", ["GPU-aa1"]), ("GPU-ab2", ["GPU-ab2"]), ("GPU-c", ["MIG-1", "MIG-2"])]


@pytest.fixture
def names():
    """Two names that no other test on this machine leases."""
    unique = uuid.uuid4().hex
    return [f"GPU-a-{unique}", f"GPU-b-{unique}"]


@pytest.fixture
def hold(names):
    """Start a process that leases one of two devices; killed at the end."""
    running = []

    def start(**environment):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, *names],
            cwd=REPO,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two whole GPUs and one that is split into two MIG devices."""
    monkeypatch.setattr(device, "_list_gpus", lambda: iter(GPUS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def leased(process) -> str:
    return process.stdout.readline().strip()


def test_two_jobs_get_two_devices_and_a_third_waits_until_one_is_killed(hold, names):
    first, second = hold(), hold()
    assert {leased(first), leased(second)} == set(names)
    third = hold()
    told = leased(third)
    pids = ", ".join(map(str, sorted((first.pid, second.pid))))
    assert told == f"all 2 GPU(s) are taken by other jobs (process {pids}); waiting for one"
    time.sleep(1)
    first.send_signal(signal.SIGKILL)
    assert leased(third) in names


def test_another_folder_for_temporary_files_or_home_does_not_give_a_device_twice(hold, tmp_path):
    (tmp_path / "contact-map-devices").write_text("a file in the way")
    homes = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert len({leased(hold()), leased(hold(**homes))}) == 2
    assert "taken by other jobs" in leased(hold(TMPDIR="/nowhere"))


def test_a_stopped_job_keeps_its_device(hold, names):
    first, second = hold(), hold()
    leased(first), leased(second)
    first.send_signal(signal.SIGSTOP)
    assert "taken by other jobs" in leased(hold())


def test_jobs_inside_one_allocation_of_a_scheduler_share_no_device(hold, names):
    first, second = hold(SLURM_JOB_ID="7"), hold(SLURM_JOB_ID="7")
    assert {leased(first), leased(second)} == set(names)
    assert "taken by other jobs" in leased(hold(SLURM_JOB_ID="7"))


def test_what_a_scheduler_gave_is_not_waited_for_because_of_its_other_jobs(hold, names):
    for _ in range(2):  # both devices are held by job 7
        assert leased(hold(SLURM_JOB_ID="7")) in names
    assert leased(hold(SLURM_JOB_ID="8")) == names[0]


def test_a_job_of_another_user_is_waited_for(hold, names):
    if os.getuid() != 0:
        pytest.skip("needs root, to be two users")
    names.pop()
    code = (
        "import os, socket, sys, time; os.setuid(1234)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1].encode()); s.listen()\n"
        "print('held', flush=True); time.sleep(600)"
    )
    address = f"@contact-maps/{names[0]}@"
    code = code.replace("sys.argv[1].encode()", "b'\\0' + sys.argv[1][1:].encode()")
    other = subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        job = hold()
        assert f"(process {other.pid})" in leased(job)
    finally:
        other.kill()
        other.wait()
    assert leased(job) == names[0]


def test_a_job_keeps_its_device_for_all_its_chunks(names):
    assert lease(names, print) == names[0]
    assert lease(names, print) == names[0]
    assert lease(names[::-1], print) == names[0]


def test_a_long_job_id_of_a_scheduler_is_no_obstacle(names, monkeypatch):
    monkeypatch.setenv("PBS_JOBID", "1234567[8]." + "server." * 40)
    assert lease(names, print) == names[0]
    with socket.socket(socket.AF_UNIX) as twice, pytest.raises(OSError):
        address = f"\0contact-maps/{names[0]}@{os.environ['PBS_JOBID']}".encode()
        twice.bind(address[:108])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, ["GPU-aa1", "GPU-ab2", "MIG-1", "MIG-2"]),
        ("1", ["GPU-ab2"]),
        ("1,0", ["GPU-ab2", "GPU-aa1"]),
        (" 1 , 0", ["GPU-ab2", "GPU-aa1"]),
        ("GPU-ab2,0", ["GPU-ab2", "GPU-aa1"]),
        ("GPU-ab", ["GPU-ab2"]),
        ("GPU-a", []),  # two begin like that
        ("MIG-2", ["MIG-2"]),
        ("2", ["MIG-1", "MIG-2"]),
        ("MIG-GPU-c/1/0", ["MIG-GPU-c/1/0"]),
        ("0,0", ["GPU-aa1"]),
        ("0,7,1", ["GPU-aa1"]),  # CUDA reads nothing after an entry that names no device
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("١", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(gpus, monkeypatch, setting, expected):
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert visible_devices() == expected


def test_mig_devices_are_listed_and_gpus_that_are_refused_left_out(monkeypatch):
    class Refused(Exception):
        pass

    def handle(index):
        if index == 1:
            raise Refused
        return f"gpu{index}"

    def mig_handle(gpu, index):
        if index == 1:
            raise Refused
        return f"{gpu}-mig{index}"

    def mig_mode(gpu):
        if gpu == "gpu0":
            raise Refused  # knows no MIG
        return [1, 1]

    nvml = types.SimpleNamespace(  # stands in for the library
        NVMLError=Refused,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetUUID=lambda gpu: gpu.upper(),
        nvmlDeviceGetMigMode=mig_mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda gpu: 3,
        nvmlDeviceGetMigDeviceHandleByIndex=mig_handle,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices() == ["GPU0", "GPU2-MIG0", "GPU2-MIG2"]


def test_a_chosen_gpu_is_the_only_one_that_the_process_sees(names, monkeypatch):
    machine = [(name, [name]) for name in names]
    monkeypatch.setattr(device, "_list_gpus", lambda: iter(machine))
    monkeypatch.setattr(device, "_check_that_torch_sees", lambda name: None)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert choose_device(1, print) == "cuda:0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == names[0]


@pytest.mark.parametrize("num_gpus", [1, 2])
def test_the_driver_starts_before_the_turn_where_only_one_gpu_can_be_had(
    num_gpus, names, monkeypatch
):
    gpus = names[:num_gpus]
    monkeypatch.setattr(device, "_list_gpus", lambda: iter([(name, [name]) for name in gpus]))
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num_gpus))))
    happened = []

    def started(name):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == name
        happened.append(name)

    monkeypatch.setattr(device, "_check_that_torch_sees", started)
    assert choose_device("auto", print, lambda: happened.append("turn")) == "cuda:0"
    before = [gpus[0]] if num_gpus == 1 else []
    assert happened == [*before, "turn", gpus[0]]


def test_no_gpu_means_the_cpu(gpus):
    assert choose_device(None, print) == "cpu"


def test_a_job_that_waits_for_its_turn_holds_no_gpu(names, hold, monkeypatch):
    monkeypatch.setattr(device, "_list_gpus", lambda: iter([(name, [name]) for name in names]))
    monkeypatch.setattr(device, "_check_that_torch_sees", lambda name: None)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    other = []

    def wait():  # another job can have the GPU meanwhile, and keeps it
        names.pop()
        other.append(hold())
        assert leased(other[0]) == names[0]
        other[0].kill()

    assert choose_device("auto", print, wait) == "cuda:0"
    give_back()
    assert leased(hold()) == names[0]


@pytest.mark.parametrize("gpu", [None, "auto"])
def test_on_the_cpu_a_job_waits_for_its_turn_too(gpu, monkeypatch):
    monkeypatch.setattr(device, "_list_gpus", lambda: iter(()))
    turns = []
    assert choose_device(gpu, lambda line: None, lambda: turns.append(1)) == "cpu"
    assert turns == [1]


def test_auto_without_a_gpu_computes_on_the_cpu_and_says_so(monkeypatch):
    monkeypatch.setattr(device, "_list_gpus", lambda: iter(()))
    lines = []
    assert choose_device("auto", lines.append) == "cpu"
    assert lines == ["no CUDA device found, computing on the CPU (gpu: auto)"]


def test_a_torch_without_cuda_is_named_as_the_reason(gpus, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", None)
    lines = []
    assert choose_device("auto", lines.append) == "cpu"
    assert "is built without CUDA" in lines[0]
    with pytest.raises(ConfigError, match=r"0 CUDA device\(s\): torch .* is built without CUDA"):
        choose_device(0, print)


def test_a_device_number_that_is_not_there_says_what_to_type(gpus):
    with pytest.raises(ConfigError, match=r"gpu is 99, but .*--config gpu=null"):
        choose_device(99, print)


def test_a_driver_that_does_not_answer_is_told_and_not_replaced_by_the_cpu(monkeypatch):
    import pynvml

    def fail(code):
        def init():
            raise pynvml.NVMLError(code)

        return init

    monkeypatch.setattr(pynvml, "nvmlInit", fail(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))
    with pytest.raises(ConfigError, match=r"driver does not list the GPUs: .*gpu=null"):
        choose_device("auto", print)
    monkeypatch.setattr(pynvml, "nvmlInit", fail(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert choose_device("auto", print) == "cpu"


@pytest.mark.gpu
def test_two_jobs_on_a_machine_with_one_gpu_take_turns():
    code = (
        "import time, torch; from cdm.jobs.device import choose_device\n"
        "device = choose_device('auto', print); began = time.monotonic()\n"
        "a = torch.rand(4096, 4096, device=device)\n"
        "while time.monotonic() < began + 3: (a @ a).sum().item()\n"
        "print('held', device, began, time.monotonic())"
    )
    (only, *_) = visible_devices()
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": only}
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": environment, "cwd": REPO}
    jobs = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    outputs = [job.communicate(timeout=PATIENCE_S)[0] for job in jobs]
    assert sum("all 1 GPU(s) are taken" in output for output in outputs) == 1, outputs
    spans = sorted(
        tuple(map(float, line.split()[2:]))
        for output in outputs
        for line in output.splitlines()
        if line.startswith("held cuda:0")
    )
    assert len(spans) == 2 and spans[0][1] <= spans[1][0] + 0.1, spans
