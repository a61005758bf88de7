"""The command itself: exit statuses, messages and files."""

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("ffcv", reason="FFCV is not installed")

from vitaos import cli

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "write_ffcv.py"
Command = Callable[..., int]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_ffcv", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["write_ffcv"] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs the command as a shell would, in a folder of its own; gives its exit status."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*overrides: str) -> int:
        monkeypatch.setattr(sys, "argv", ["write_ffcv.py", *overrides])
        with pytest.raises(SystemExit) as ended:
            cli.run(script.main, config_name="write_ffcv", schema=script.WriteConfig, about=script.ABOUT)
        return int(ended.value.code or 0)

    yield run
    signal.signal(signal.SIGTERM, handler)


def test_write_again_verify_damage(
    command: Command, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (f"source={photo_folder / 'val'}", "out=x.beton", "workers=1")
    assert command(*overrides) == 0
    printed = capsys.readouterr().out
    assert "writing: 7/7" in printed
    assert "x.beton: 7 images" in printed
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.beton", "x.beton.json"]
    assert command(*overrides) == 0
    assert "is finished already: 7 images" in capsys.readouterr().out
    assert command("verify=x.beton") == 0
    assert "7 images, every byte as it was written" in capsys.readouterr().out
    with (tmp_path / "x.beton").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"xyz")
    assert command("verify=x.beton") == 2
    assert "allocation table differs" in capsys.readouterr().err


AFTER_OPENCV = """
import sys
import cv2, numpy
from vitaos.data.ffcv.writer import write_beton
cv2.setNumThreads(4)
cv2.GaussianBlur(numpy.zeros((2000, 2000, 3), numpy.uint8), (9, 9), 0)  # starts OpenCV's threads
print(write_beton(sys.argv[1], sys.argv[2], workers=1).num_images, cv2.getNumThreads())
"""


def test_processes_are_started_where_opencv_has_threads(photo_folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", AFTER_OPENCV, str(photo_folder / "val"), str(tmp_path / "x.beton")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "7 4\n"), done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("source=nowhere", "out=x.beton"), "data folder nowhere does not exist"),
        (("source=.", "out=x.beton", "on_bad=ignore"), "on_bad=ignore: not a valid choice; valid: fail, skip"),
        (("source=.", "out=x.beton", "mode=webp"), "mode=webp: not a valid choice; valid: jpg, raw, proportion"),
        (("out=x.beton",), "give source=DIR and out=FILE.beton"),
        (("verify=gone.beton",), "gone.beton does not exist"),
        (("sauce=.", "out=x.beton"), "sauce: unknown key; did you mean source?"),
    ],
)
def test_bad_input_ends_with_status_2_and_a_message(
    command: Command, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], message: str
) -> None:
    assert command(*overrides) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_ctrl_c_ends_with_status_130_and_leaves_nothing(
    command: Command, script: ModuleType, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script.Display, "show", interrupted)
    assert command(f"source={photo_folder / 'val'}", "out=x.beton", "workers=1") == 130
    assert not list(tmp_path.iterdir())
