"""Places, devices and launchers; the collectives themselves are tried in test_ranks."""

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from vitaos.runtime import world as world_module
from vitaos.runtime.world import (
    _find_main_address,
    choose_device,
    initialize,
    rank_from_env,
    refuse_shared_gpus,
    shutdown,
)


def test_places() -> None:
    assert rank_from_env({}) == (0, 1, 0)
    assert rank_from_env({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == (5, 8, 1)
    srun = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
    assert rank_from_env(srun) == (3, 4, 1)
    assert rank_from_env(srun | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}) == (0, 2, 0)
    # In a batch script one process runs, whatever the number of tasks of the job.
    assert rank_from_env({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == (0, 1, 0)


def test_srun_names_its_first_host_and_a_port_of_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho node3\necho node4\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environment = {"SLURM_STEP_NODELIST": "node[3-4]", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "1"}
    _find_main_address(environment)
    assert environment["MASTER_ADDR"] == "node3"
    assert 20000 <= int(environment["MASTER_PORT"]) < 40000
    with pytest.raises(ValueError, match="torchrun"):
        _find_main_address({})


def test_devices() -> None:
    assert choose_device("cpu", 3) == torch.device("cpu")
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        choose_device("gpu", 0)


def test_cuda_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", 0) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device=cuda, but PyTorch sees no CUDA device.*device=cpu"):
        choose_device("cuda", 0)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"local rank 2 has no GPU.*nproc-per-node=2"):
        choose_device("cuda", 2)


def test_the_one_gpu_that_a_task_sees_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda", 3) == torch.device("cuda", 0)


def test_ranks_that_share_a_gpu_are_named() -> None:
    refuse_shared_gpus([("a", "GPU-1"), ("a", "GPU-2"), ("b", "GPU-1")])
    with pytest.raises(ValueError, match=r"ranks 1 and 2 share one GPU \(GPU-2 of a\).*nproc-per-node"):
        refuse_shared_gpus([("a", "GPU-1"), ("a", "GPU-2"), ("a", "GPU-2")])


def test_one_process_needs_no_launcher_and_can_begin_again() -> None:
    for _ in range(2):
        world = initialize("cpu")
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.broadcast_object({"a": 1}) == {"a": 1}
        assert world.any_rank(True).result()
        assert not world.any_rank(False).result()
    shutdown()


def test_a_process_that_waits_for_the_others_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for key, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setattr(world_module, "JOIN_NOTICE_S", 0.4)
    monkeypatch.setattr(world_module, "_COLLECTIVE_TIMEOUT", timedelta(seconds=1.5))
    with pytest.raises(ValueError, match=rf"the 2 processes .* could not join each other at localhost:{port}: one did"):
        initialize("cpu")
    assert "for all 2 processes to start" in capsys.readouterr().err
