"""Steps of one family in every form: ``steps.py FAMILY``. Prints a JSON line for each case: what it found wrong."""

import json
import sys
import traceback
import warnings
from typing import Final

import torch

from tests.null_gpu.programs.miniature import Run, build_run, data_root, misplaced, overrides_of
from tests.null_gpu.recording import recording
from vitaos import techniques
from vitaos.engine.meter import DeviceScalars
from vitaos.engine.precision import enable_determinism

BOTH = ("attnscale=true", "featscale=true")
PRECISIONS = ("bf16", "fp16", "fp32")
KINDS = {"deit": "ViT", "cait": "CaiT", "swin": "Swin"}


# torch compiles an outer product (a gradient of one query's scores) from its own Triton source, in which nothing says
# whether products and sums are fused: Triton 3.9 announces another default. Neither is ours to choose.
TORCHS_OWN: Final = "TRITON_DEFAULT_FP_FUSION is unset"


def cases(family: str) -> dict[str, tuple[str, ...]]:
    """Name -> overrides of the command line."""
    found: dict[str, tuple[str, ...]] = {}
    for precision in PRECISIONS:
        found[f"plain {precision}"] = (f"precision={precision}",)
        found[f"both {precision}"] = (f"precision={precision}", *BOTH)
    for name in techniques.names():
        if KINDS[family] not in techniques.TECHNIQUES[name].refuses:
            found[name] = (f"{name}=true",)
    found["accumulation"] = ("accumulate=2", *BOTH)
    found["clipping"] = ("recipe.clip=1.0", "precision=fp16")
    found["channels last"] = ("channels_last=true",)
    found["checkpointed gradients"] = ("checkpoint_gradients=true", *BOTH)
    found["skipping"] = ("nonfinite=skip", "precision=fp16")
    found["regularized"] = ("recipe.pos_drop=0.1", "recipe.proj_drop=0.1", *BOTH)
    if family != "swin":
        by_patch = ("recipe.mask_mix=1", "recipe.mask_mix_patch=16")
        found["labels by attention"] = ("recipe.mix_labels=progressive", *by_patch)
    found["timm's augmentation"] = ("augment=timm", "data.loader=folder")
    if family == "swin":
        found["regularized"] = ("recipe.proj_drop=0.1", *BOTH)
    found["deterministic"] = ("deterministic=true", *BOTH)  # the last: it holds for all that follows in the process
    return found


def faults_of_steps(run: Run) -> list[str]:
    """Take three steps; what the last two, with the meter's request, made the host wait for."""
    if run.config.deterministic:
        enable_determinism()
        # Torch would fill new memory with NaN, and no kernel of this device puts values in its place.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module
    trainer, batches = run.trainer, run.batches()
    trainer.network.train()
    trainer.meter.start()
    faults: list[str] = []
    for step in range(3):
        with warnings.catch_warnings(record=True) as warned, recording() as record:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", message=TORCHS_OWN)
            trainer._train_step(batches)
            trainer.progress.step += 1
            trainer.meter.send()
        faults += [f"warning: {warning.message}" for warning in warned]
        if step:  # the first step brings constants to the device and makes the optimizer's state
            faults += [f"{times} x {event}" for event, times in record.lines().items()]
            if not record.kernels:
                faults.append("nothing ran on the device")
        trainer.meter.receive()
    return faults + [f"on the wrong device: {name}" for name in misplaced(trainer)]


def read_zeros() -> None:
    """No kernel puts values into what is read back, so that it may be anything, NaN too: read, then take it for 0."""
    read = DeviceScalars.values
    DeviceScalars.values = lambda scalars: [0.0] * len(read(scalars))  # type: ignore[method-assign]


def main(family: str) -> None:
    """Every case; one that raises says so and the next begins."""
    read_zeros()
    root = data_root()
    for name, overrides in cases(family).items():
        try:
            faults = faults_of_steps(build_run(overrides_of(family, root, *overrides)))
        except Exception:
            faults = [traceback.format_exc(limit=-3, chain=False)]
        print(json.dumps({"case": f"{family}: {name}", "faults": faults}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
