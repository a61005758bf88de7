"""The collector rests while a command is imported, works afterwards, and leaves alone what was imported."""

import gc
import subprocess
import sys

from vitaos.runtime import garbage


def test_collector_rests_between_pause_and_resume() -> None:
    garbage.pause()
    try:
        assert not gc.isenabled()
    finally:
        garbage.resume()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    garbage.resume()
    assert gc.get_freeze_count() == 0, "without a pause nothing is set aside"


def test_leaving_runs_what_was_to_run_at_the_end() -> None:
    program = (
        "import atexit; from vitaos.runtime import garbage\n"
        "atexit.register(print, 'closed'); print('done', end=' '); garbage.leave()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "done closed\n"
