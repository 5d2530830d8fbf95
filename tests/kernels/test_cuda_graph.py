"""Work that is recorded once as a CUDA graph and replayed."""

import pytest
import torch

from cdm.kernels.cuda_graph import capture

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "device",
    [
        "cuda:0",
        pytest.param(
            "cuda:1",
            marks=pytest.mark.skipif(
                torch.cuda.device_count() < 2, reason="needs two CUDA devices"
            ),
        ),
    ],
)
def test_a_replay_does_the_work_again_and_overwrites_its_result(device):
    x, calls = torch.zeros(4, device=device), []

    def work():
        calls.append(1)
        x.add_(1)
        return 2 * x

    graph, result = capture(work, torch.device(device))
    assert len(calls) == 2  # once for real, once while it is recorded
    assert x.tolist() == [1] * 4
    for count in (2, 3):
        graph.replay()
        torch.cuda.synchronize(device)
        assert x.tolist() == [count] * 4 and result.tolist() == [2 * count] * 4
    assert len(calls) == 2
