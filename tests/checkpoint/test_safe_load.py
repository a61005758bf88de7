"""Nothing in a checkpoint file is ever run, damage is always noticed, and errors name the file."""

import argparse
import collections
import copyreg
import functools
import io
import os
import pickle
import random
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vitaos.checkpoint.safe_load import load_file


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists as soon as any of the hostile pickles has run."""
    return tmp_path / "canary"


class _Calls:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class _StateSetter:
    """Runs code when its state is set; importable here, so that an unrestricted pickle would find it."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["canary"]).touch()


class _Storage(torch.Tensor):
    """A tensor subclass with a reduction of its own."""

    canary: str

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (os.system, (f"touch {self.canary}",))


def _code(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


def _protocol_0(canary: Path) -> bytes:
    return f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()


def _nested(canary: Path) -> Any:
    inner = {"weight": torch.zeros(2), "bias": _Calls(os.system, f"touch {canary}")}
    return {"format": "vitaos-1", "model": collections.OrderedDict(blocks=[inner])}


def _tensor_subclass(canary: Path) -> Any:
    tensor = torch.zeros(2).as_subclass(_Storage)
    tensor.canary = str(canary)
    return {"model": {"weight": tensor}}


def _object_array(canary: Path) -> Any:
    array = np.empty(1, dtype=object)
    array[0] = _Calls(os.system, f"touch {canary}")
    return {"model": {"weight": array}}


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "os_system": lambda canary: _Calls(os.system, f"touch {canary}"),
    "eval": lambda canary: {"model": _Calls(eval, _code(canary))},
    "exec": lambda canary: {"ema": _Calls(exec, _code(canary))},
    "import": lambda canary: {"model": _Calls(__import__, "antigravity"), "x": _Calls(exec, _code(canary))},
    "nested_in_state_dict": _nested,
    "setstate": lambda canary: {"optimizer": _StateSetter(str(canary))},
    "partial": lambda canary: {"model": _Calls(functools.partial(os.system, f"touch {canary}"))},
    "tensor_subclass": _tensor_subclass,
    "numpy_object_array": _object_array,
    "getattr_chain": lambda canary: {"model": _Calls(getattr, _Calls(__import__, "os"), "system")},
    "namespace_holding_code": lambda canary: {"args": argparse.Namespace(x=_Calls(os.system, f"touch {canary}"))},
    "reconstructor": lambda canary: {"x": _Calls(copyreg._reconstructor, _StateSetter, object, None)},  # type: ignore[attr-defined]
    "file_write": lambda canary: {"x": _Calls(open, str(canary), "w")},
}


def _refused(path: Path, canary: Path, wording: str = "contains code.*refused, nothing was run") -> None:
    with pytest.raises(ValueError, match=wording) as refusal:
        load_file(path)
    assert str(path) in str(refusal.value)
    assert not canary.exists()


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_hostile_pickle_is_refused_unrun(kind: str, new_format: bool, canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "hostile.pt"
    torch.save(HOSTILE[kind](canary), path, _use_new_zipfile_serialization=new_format)
    _refused(path, canary)


def test_the_canary_works(canary: Path) -> None:
    pickle.loads(pickle.dumps(HOSTILE["os_system"](canary)))
    assert canary.exists()


def test_bare_pickle_of_protocol_0_is_refused(canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    path.write_bytes(_protocol_0(canary))
    _refused(path, canary, "nothing was run|damaged")


def test_hostile_pickle_swapped_into_a_good_archive_is_refused(canary: Path, tmp_path: Path) -> None:
    good, path = tmp_path / "good.pt", tmp_path / "swapped.pt"
    torch.save({"model": {"weight": torch.zeros(3)}}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            target.writestr(name, _protocol_0(canary) if name.endswith("data.pkl") else source.read(name))
    _refused(path, canary)


def test_legacy_tar_is_refused(canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            information = tarfile.TarInfo(name)
            data = _protocol_0(canary)
            information.size = len(data)
            archive.addfile(information, io.BytesIO(data))
    _refused(path, canary, "refused, nothing was run")


def test_torchscript_is_refused(canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    _refused(path, canary)


def test_good_files_load(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.randn(3, 4)}, "args": argparse.Namespace(lr=0.1, name="deit")}
    torch.save(state, tmp_path / "release.pth")
    loaded = load_file(tmp_path / "release.pth")
    assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])  # type: ignore[index]
    assert loaded["args"].lr == 0.1
    torch.save(state["model"], tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert load_file(tmp_path / "legacy.pth")["weight"].shape == (3, 4)
    save_file({"weight": torch.ones(2)}, tmp_path / "exchange.safetensors")
    assert load_file(str(tmp_path / "exchange.safetensors"))["weight"].tolist() == [1, 1]


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_what_scripts_save_beside_the_weights_is_read_as_plain_values(new_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "script.pth"
    meters: collections.defaultdict[str, list[float]] = collections.defaultdict(list, loss=[0.5])
    beside = {
        "args": argparse.Namespace(output_dir=Path("/data/run"), resume=Path("a/b.pth")),
        "acc": np.float64(81.5), "epoch": np.int64(-3), "half": np.float32(0.25), "done": np.bool_(True),
        "big": np.array(2.5, dtype=">f8")[()], "meters": meters,
    }  # fmt: skip
    torch.save({"model": {"weight": torch.ones(2)}, **beside}, path, _use_new_zipfile_serialization=new_format)
    loaded = load_file(path)
    assert loaded["model"]["weight"].tolist() == [1, 1]
    assert vars(loaded["args"]) == {"output_dir": "/data/run", "resume": "a/b.pth"}
    assert loaded["meters"] == {"loss": [0.5]}
    numbers = [loaded[key] for key in ("acc", "epoch", "half", "done", "big")]
    assert numbers == [81.5, -3, 0.25, True, 2.5]
    assert [type(number) for number in numbers] == [float, int, float, bool, float]


def test_swins_training_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their configuration is a yacs.config.CfgNode: a dict with attributes, under that module's name."""
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    config = node(MODEL=node(NAME="swin_tiny"), EPOCHS=300)
    config.immutable = True
    module = types.ModuleType("yacs.config")
    module.CfgNode = node  # type: ignore[attr-defined]
    path = tmp_path / "swin.pth"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        torch.save({"model": {"weight": torch.ones(2)}, "config": config, "max_accuracy": 81.2}, path)
    loaded = load_file(path)
    assert loaded["config"] == {"MODEL": {"NAME": "swin_tiny"}, "EPOCHS": 300}
    assert "yacs.config" not in sys.modules


@pytest.mark.parametrize("code", ["O", "V8", "(9,)f8", "f8,f8", "U4"])
def test_only_numbers_are_numpy_scalars(code: str, tmp_path: Path) -> None:
    class Scalar:
        def __reduce__(self) -> Any:
            return (np.dtype, (code, False, True))

    path = tmp_path / "scalar.pth"
    torch.save({"x": Scalar()}, path)
    with pytest.raises(ValueError, match=r"scalar\.pth.*no number"):
        load_file(path)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.empty(3, device="meta"), "meta"),
        (torch.eye(3).to_sparse(), "sparse_coo"),
    ],
)  # fmt: skip
def test_tensors_without_values_are_named(tensor: torch.Tensor, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    torch.save({"model": {"norm.weight": tensor}}, path)
    with pytest.raises(ValueError, match=rf"odd\.pth: model\.norm\.weight is a .*{kind}"):
        load_file(path)


@pytest.mark.parametrize("name", ["missing.pt", "empty.pt", "text.pt", "text.safetensors", "folder"])
def test_what_is_no_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "empty.pt":
        path.touch()
    elif name != "missing.pt":
        path.write_text("these are not weights")
    with pytest.raises(ValueError, match=r"no checkpoint file|not a checkpoint|truncated or damaged") as refusal:
        load_file(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_foreign_file_cut_short_is_refused(ending: str, tmp_path: Path) -> None:
    whole, path = tmp_path / f"whole{ending}", tmp_path / f"cut{ending}"
    state = {"weight": torch.randn(400)}
    if ending == ".pt":
        torch.save(state, whole)
    else:
        save_file(state, whole)
    data = whole.read_bytes()
    for keep in random.Random(1).sample(range(1, len(data)), 40):
        path.write_bytes(data[:keep])
        with pytest.raises(ValueError, match="damaged"):
            load_file(path)


def test_a_bit_flipped_in_a_foreign_archives_weights_is_noticed(tmp_path: Path) -> None:
    """torch.load alone would return the wrong weight without a word."""
    path = tmp_path / "flipped.pt"
    torch.save({"weight": torch.zeros(4000)}, path)
    data = bytearray(path.read_bytes())
    data[8000] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["weight"].count_nonzero() == 1
    with pytest.raises(ValueError, match=r"checksum of its record .* does not match"):
        load_file(path)


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_file(tmp_path / "pytorch_model.bin")["weight"], torch.ones(2))


def test_a_text_file_is_not_accused_of_code_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model:\n  name: deit_s12\n")
    with pytest.raises(ValueError, match="is not a checkpoint, or one that contains code"):
        load_file(tmp_path / "config.yaml")
