"""What has to be answered in a moment imports neither torch nor timm; timm knows vitaos' names all the same."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    *("train.py", "eval.py", "scripts/analyze.py", "scripts/export.py", "scripts/report.py"),
    *("scripts/write_ffcv.py", "scripts/prepare_imagenet.py", "scripts/doctor.py"),
]
ANSWER = """
import runpy, sys
sys.argv = [{path!r}, {word!r}]
try:
    runpy.run_path({path!r}, run_name="__main__")
except SystemExit as ending:
    assert ending.code == {status}, ending.code
assert not {{"torch", "timm", "ffcv", "matplotlib"}} & set(sys.modules)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_mistakes_are_answered_without_torch(command: str) -> None:
    path = str(ROOT / command)
    words = {"--help": 0} if command != "train.py" else {"--help": 0, "atnscale=true": 2}
    for word, status in words.items():
        answered = python(ANSWER.format(path=path, word=word, status=status))
        assert answered.returncode == 0, answered.stderr
        assert (answered.stdout if status == 0 else answered.stderr).strip()


def test_every_benchmark_answers_without_torch() -> None:
    """All take their keys in one process, then one answers: it is checked before what measures is imported."""
    every = "import importlib, sys; from scripts.benchmark import COMMANDS; sys.path.insert(0, '.')"
    every += "; [importlib.import_module(module) for module in COMMANDS.values()]"
    done = python(f"{every}; assert not {{'torch', 'timm', 'ffcv'}} & set(sys.modules)")
    assert done.returncode == 0, done.stderr
    step = ANSWER.format(path=str(ROOT / "scripts/benchmark.py"), word="step", status=2)
    answered = python(step.replace("'step']", "'step', 'atnscale=true']"))
    assert answered.returncode == 0, answered.stderr
    assert "attnscale" in answered.stderr


def test_timm_knows_the_names_whichever_is_imported_first() -> None:
    lazily = (
        "import vitaos, sys; assert 'timm' not in sys.modules; import timm; assert timm.is_model('swin_s_featscale')"
    )
    done = python(f"{lazily}; assert vitaos.techniques.names() and callable(vitaos.create_model)")
    assert done.returncode == 0, done.stderr


def test_weights_and_biases_waits_until_it_is_used() -> None:
    """timm's import asks for it: a run that tracks nothing never pays for it, and one that does has all of it."""
    used = "import vitaos, timm, sys; assert 'wandb.sdk' not in sys.modules; import wandb; wandb.sdk.wandb_run.Run"
    done = python(f"{used}; from wandb.errors import CommError; assert issubclass(CommError, Exception)")
    assert done.returncode == 0, done.stderr
    missing = python("import sys; sys.modules['wandb'] = None; import vitaos, timm; assert timm.list_models()")
    assert missing.returncode == 0, missing.stderr
