"""DDP on CUDA, without a GPU: no rank's loop waits for the device. gloo takes NCCL's place."""

from tests.null_gpu.launch import lines_of


def test_no_rank_waits_for_the_device() -> None:
    cases = lines_of("tests.null_gpu.programs.ranks")
    assert cases == [{"case": "DDP of 1", "faults": []}, {"case": "DDP of 2", "faults": []}]
