"""A request to stop only sets a flag, and the handlers go back to whoever had them."""

import os
import signal
from pathlib import Path

import pytest

from vitaos.runtime.preemption import EXIT_PREEMPTED, MARKER_VARIABLE, Preemption, mark_preempted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.requested
        os.kill(os.getpid(), number)
        assert preemption.requested
    assert signal.getsignal(number) == before


def test_the_second_interrupt_interrupts() -> None:
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_leaving_marks_the_job_for_its_batch_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKER_VARIABLE, str(tmp_path / "jobs" / "preempted"))
    assert mark_preempted() == EXIT_PREEMPTED == 75
    assert (tmp_path / "jobs" / "preempted").exists()
    monkeypatch.delenv(MARKER_VARIABLE)
    assert mark_preempted() == EXIT_PREEMPTED
