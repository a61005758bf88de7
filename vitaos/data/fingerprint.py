"""What data a split is, whatever its path: classes, counts, and one hash over the order of its files or records."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SPLITS: Final = ("train", "val")


def fingerprint(
    kind: str, class_names: list[str], targets_N: NDArray[np.int64], *content: bytes, sample: str | None = None
) -> dict[str, Any]:
    """The fingerprint of one split, as it is stored in checkpoints.

    Args:
        kind: ``folder``, ``ffcv``, ``tar`` or ``huggingface``; hashes are comparable within a kind only.
        class_names: in the order of the targets.
        targets_N: (N,) the class of each image.
        content: what else identifies the images in their order: file names, or a beton's checksums.
        sample: a hash of what some of the files hold, where `content` is their names alone.
    """
    digest = hashlib.sha256(targets_N.tobytes())
    for part in content:
        digest.update(part)
    found = {
        "kind": kind,
        "class_names": list(class_names),
        "class_counts": np.bincount(targets_N, minlength=len(class_names)).tolist(),
        "sha256": digest.hexdigest(),
    }
    return found if sample is None else found | {"sample": sample}


def classes_digest(data: Mapping[str, Any]) -> str:
    """Six digits that stand for the classes and counts of a run's data, in the name of the run.

    Args:
        data: ``{"train": ..., "val": ...}`` fingerprints. What depends on the loader (digits have two) is left out.
    """
    identifying = [[data[split]["class_names"], data[split]["class_counts"]] for split in SPLITS]
    return hashlib.sha256(json.dumps(identifying).encode()).hexdigest()[:6]


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], names: tuple[str, str] = ("there", "here")
) -> list[str]:
    """What differs between two runs' ``{"train": ..., "val": ...}`` fingerprints, for people; empty when nothing does.

    ``names`` are how the two are called in the sentences.
    """
    found: list[str] = []
    for split in SPLITS:
        found += [f"{split}: {difference}" for difference in _split_differences(there[split], here[split], names)]
    return found


def _split_differences(there: Mapping[str, Any], here: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    first, second = names
    classes = (list(there["class_names"]), list(here["class_names"]))
    if classes[0] != classes[1]:
        only = [sorted(set(one) - set(other))[:3] for one, other in (classes, classes[::-1])]
        detail = f"only {first}: {only[0]}; only {second}: {only[1]}" if any(only) else "the same in another order"
        return [f"{len(classes[0])} classes {first}, {len(classes[1])} {second} ({detail})"]
    counts = (list(there["class_counts"]), list(here["class_counts"]))
    if counts[0] != counts[1]:
        changed = [place for place, pair in enumerate(zip(*counts, strict=True)) if pair[0] != pair[1]]
        example = changed[0]
        return [
            f"{sum(counts[0])} images {first}, {sum(counts[1])} {second} (class {classes[0][example]}: "
            f"{counts[0][example]} {first}, {counts[1][example]} {second}; {len(changed)} class(es) differ)"
        ]
    if there["kind"] == here["kind"] and there["sha256"] != here["sha256"]:
        what = "content of the betons" if here["kind"] == "ffcv" else "names or order of the files"
        return [f"as many images of the same classes, but other {what}"]
    if there.get("sample", here.get("sample")) != here.get("sample", there.get("sample")):
        return ["files of the same names and classes, but with other content"]
    return []
