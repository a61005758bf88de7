"""ImageNet's relatives: the right answers count, whatever the order of the class folders."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitaos.assembly import corrupted
from vitaos.assembly.imagenet import _synsets, match_classes, real_labels
from vitaos.data.corruptions import CELLS, Cell

IMAGENET = _synsets("imagenet")
CHECKPOINT = Path("model.pt")


def test_the_same_classes_need_no_choice() -> None:
    assert match_classes("val", ["cat", "dog"], ["cat", "dog"], CHECKPOINT).indices is None
    assert match_classes("val", None, ["cat", "dog"], CHECKPOINT).answers == 2


def test_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="trained on 2 classes, the images are of 3"):
        match_classes("val", ["cat", "dog"], ["ant", "cat", "dog"], CHECKPOINT)
    with pytest.raises(ValueError, match="'dog' / 'emu'"):
        match_classes("val", ["cat", "dog"], ["cat", "emu"], CHECKPOINT)
    with pytest.raises(ValueError, match="expected its 200 classes, found 2"):
        match_classes("a", None, ["cat", "dog"], CHECKPOINT)


def test_v2_numbers_its_folders_which_sort_as_words() -> None:
    names = sorted(str(index) for index in range(1000))
    assert names[1:3] == ["1", "10"]
    found = match_classes("v2", None, names, CHECKPOINT)
    assert found.indices is not None
    assert found.indices[:3] == [0, 1, 10]
    assert sorted(found.indices) == list(range(1000))
    in_words = [f"class {index}" for index in range(1000)]
    assert match_classes("v2", in_words, names, CHECKPOINT).indices == found.indices
    known = sorted(IMAGENET, reverse=True)  # a model of one's own order: the numbers stay ImageNet's
    assert match_classes("v2", known, names, CHECKPOINT).indices == [known.index(IMAGENET[int(name)]) for name in names]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0", "1", "999"], "found 3, without 2, 3, 4"),
        ([*map(str, range(999)), "5000"], "without 999, among them 5000"),
        ([*map(str, range(999)), "00"], "without 999"),
    ],
)
def test_a_part_of_v2_is_not_taken_for_it(names: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        match_classes("v2", None, names, CHECKPOINT)
    with pytest.raises(ValueError, match="does not answer ImageNet's"):  # digits have numbers for names as well
        match_classes("v2", [str(digit) for digit in range(10)], sorted(map(str, range(1000))), CHECKPOINT)


@pytest.mark.parametrize(("dataset", "classes"), [("a", 200), ("r", 200), ("sketch", 1000)])
def test_subsets_take_their_answers_out_of_the_thousand(dataset: str, classes: int) -> None:
    names = sorted(_synsets(f"imagenet_{dataset}") if classes == 200 else IMAGENET)
    found = match_classes(dataset, None, names, CHECKPOINT)
    assert (found.answers, found.classes) == (1000, classes)
    assert found.indices is not None
    assert [IMAGENET[index] for index in found.indices] == names


def test_real_labels_follow_the_file_names() -> None:
    found = real_labels(["ILSVRC2012_val_00000002.JPEG", "ILSVRC2012_val_00000001.png"])
    first, second = real_labels(["ILSVRC2012_val_00000001.JPEG"]), real_labels(["ILSVRC2012_val_00000002.JPEG"])
    assert found == [*second, *first]
    assert all(0 <= label < 1000 for labels in found for label in labels)
    with pytest.raises(ValueError, match=r"cat\b"):
        real_labels(["cat.jpg"])
    with pytest.raises(ValueError, match="data=imagenet"):
        real_labels(None)


def test_a_corrupted_folder_is_opened_once_for_both_kinds_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_folder(config: Any, target: Any, folders: Any, cell: Cell, world: Any) -> io.BytesIO:
        opened.append(cell)
        return io.BytesIO()

    monkeypatch.setattr(corrupted, "_open", open_folder)
    judges: Any = SimpleNamespace(judge=lambda *_: {kind: SimpleNamespace(result=kind) for kind in "ab"})
    nothing: Any = None
    found = corrupted.Corrupted(nothing, nothing, None, nothing).judge(judges, nothing)
    assert opened == list(CELLS)
    assert found == {kind: dict.fromkeys(CELLS, kind) for kind in "ab"}
