"""The garbage collector around a command, whose imports make more than a million objects that stay (PyTorch, timm).

The collector goes through them again and again as they come, a quarter of the import's time, in every full collection
later, and once more when the process ends, where that takes a second.
"""

import atexit
import gc
import os
import sys
from typing import NoReturn


def pause() -> None:
    """Collect nothing while a command is imported; :func:`resume` before it works."""
    gc.disable()


def resume() -> None:
    """Collect again, but look no more at what was imported since :func:`pause`; without a pause nothing happens."""
    if not gc.isenabled():
        gc.freeze()
        atexit.register(gc.unfreeze)  # native libraries count at the end what nothing has let go
        gc.enable()


def leave() -> NoReturn:
    """End the process with status 0 and take nothing apart: for a command without threads of its own at its end."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
