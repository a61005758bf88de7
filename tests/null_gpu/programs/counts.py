"""Launches and bytes of a training step by phase: augmentation, forward, backward, update.

Bytes are what the kernels would read and write if each read its inputs and wrote its outputs once (views are free).
Compiled code is not counted.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from tests.null_gpu import recording
from tests.null_gpu.programs.miniature import Run, build_run, data_root
from tests.null_gpu.programs.traffic import Traffic

MODELS: Final = {"deit_s12": ("recipe=deit_12",), "cait_s24": ("recipe=cait_finetune",), "swin_s": ("recipe=swin",)}
PHASES: Final = ("augmentation", "forward", "backward", "update")


class Phases(Traffic):
    """Counts by phase, between :meth:`__enter__` and :meth:`__exit__`.

    Attributes:
        launches, nbytes, milliseconds: by phase; milliseconds are the host's, of this machine at this moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self.milliseconds: Counter[str] = Counter()
        self._phase, self._before, self._begun = "update", recording.count("launch"), time.perf_counter()

    def enter(self, phase: str) -> None:
        """What comes from now on belongs to this phase."""
        now, launches = time.perf_counter(), recording.count("launch")
        self.launches[self._phase] += launches - self._before
        self.milliseconds[self._phase] += 1000 * (now - self._begun)
        self._phase, self._before, self._begun = phase, launches, now

    def add(self, name: str, nbytes: int) -> None:
        """Bytes belong to the present phase, whatever moved them."""
        self.nbytes[self._phase] += nbytes


def counts_of(run: Run) -> dict[str, dict[str, int]]:
    """Take two steps and count the second: phase -> launches, kilobytes an image, milliseconds of the host."""
    trainer, batches = run.trainer, run.batches()
    trainer.network.train()
    trainer._train_step(batches)  # brings constants to the device and makes the optimiser's state
    phases = Phases()
    trainer.transform = _announced(
        trainer.transform, lambda: phases.enter("augmentation"), lambda: phases.enter("forward")
    )
    update: Any = trainer.update
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    update.loss_gradient = _announced(update.loss_gradient, nothing, lambda: phases.enter("backward"))
    update.apply = _announced(update.apply, lambda: phases.enter("update"), nothing)
    trainer.progress.step += 1
    with phases:
        trainer._train_step(batches)
    phases.enter("update")
    images = run.config.batch_size * run.config.accumulate
    return {
        phase: {
            "launches": phases.launches[phase],
            "kilobytes_an_image": phases.nbytes[phase] // images // 1000,
            "host_milliseconds": round(phases.milliseconds[phase]),
        }
        for phase in PHASES
    }


def _announced(
    function: Callable[..., Any], before: Callable[[], None], after: Callable[[], None]
) -> Callable[..., Any]:
    def called(*args: Any, **keywords: Any) -> Any:
        before()
        result = function(*args, **keywords)
        after()
        return result

    return called


def main() -> None:
    """Real sizes, plain and with both techniques: a JSON line for each."""
    root = data_root()
    for name, overrides in MODELS.items():
        for how, flags in {"plain": (), "both": ("attnscale=true", "featscale=true")}.items():
            words = ["data=digits", f"data.root={root}", "data.workers=1", "device=cuda", "data.img_size=224"]
            run = build_run([*words, "batch_size=16", "precision=bf16", f"model={name}", *overrides, *flags])
            print(json.dumps({"case": f"{name}: {how}", "counts": counts_of(run)}), flush=True)


if __name__ == "__main__":
    main()
