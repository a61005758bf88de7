"""Config strings, choices and magnitudes against timm's own; color jitter against torchvision; three-augment."""

import math
import random
from collections import defaultdict

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import ColorJitter as TorchvisionJitter

from vitaos.data.augment.color_jitter import ColorJitter, ThreeAugment, parse_color_jitter
from vitaos.data.augment.op_batch import Operation
from vitaos.data.augment.randaugment import INCREASING, LEVELS, PLAIN, SETS, parse_randaugment

RECIPE = "rand-m9-mstd0.5-inc1"
DECISIONS = 20_000


def our_decisions(config: str) -> tuple[dict[Operation, NDArray[np.float64]], int]:
    """Arguments by operation over 20,000 choices, and how many of these were passed over."""
    policy = parse_randaugment(config)
    layers = policy.draw(3, 1, np.arange(DECISIONS // policy.layers))
    operations = np.concatenate([layer.operations for layer in layers])
    arguments = np.concatenate([layer.arguments for layer in layers])
    return {op: arguments[operations == op] for op in Operation if op and (operations == op).any()}, int(
        (operations == Operation.IDENTITY).sum()
    )


def timm_decisions(config: str) -> tuple[dict[Operation, NDArray[np.float64]], int]:
    """The same of timm's own transform, its operations replaced by ones that record their arguments."""
    random.seed(1)
    np.random.seed(1)
    transform = rand_augment_transform(config, {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC})
    seen: dict[Operation, list[float]] = defaultdict(list)
    for operation in transform.ops:
        name = operation.name

        def record(image: object, *arguments: float, name: str = name, **_: object) -> object:
            seen[LEVELS[name][0]].append(
                1.0 - arguments[0] if name == "Desaturate" else arguments[0] if arguments else 0.0
            )
            return image

        operation.aug_fn = record
    for _ in range(DECISIONS // transform.num_layers):
        transform(object())
    done = {op: np.array(values) for op, values in seen.items()}
    if Operation.POSTERIZE in done:  # beyond magnitude 10 timm counts below 0 bits, which is as black as 0
        done[Operation.POSTERIZE] = np.maximum(done[Operation.POSTERIZE], 0)
    return done, DECISIONS // transform.num_layers * transform.num_layers - sum(map(len, done.values()))


@pytest.mark.parametrize(
    "config",
    [
        RECIPE,
        "rand-m7-n3-p0.8",
        "rand-m9-mstd101-inc1",
        "rand-m12-mmax15-mstd2-inc1",
        "rand-m9-mstd0.5-tweights",
        "rand-m6-n1-t3a-mstd1",
        "rand-n4-t3aw-p0.9",
    ],
)
def test_choices_and_magnitudes_are_distributed_as_timms(config: str) -> None:
    mine, my_idle = our_decisions(config)
    yours, your_idle = timm_decisions(config)
    assert mine.keys() == yours.keys()
    keys = sorted(mine)
    counts = [[my_idle, *(len(mine[k]) for k in keys)], [your_idle, *(len(yours[k]) for k in keys)]]
    columns = [column for column in zip(*counts, strict=True) if sum(column)]
    assert stats.chi2_contingency(np.array(columns).T).pvalue > 1e-3
    for key in keys:
        if len(mine[key]) > 20 and len(yours[key]) > 20:
            assert stats.ks_2samp(mine[key], yours[key]).pvalue > 1e-4, key.name


def test_the_two_operations_of_an_image_are_independent() -> None:
    first, second = parse_randaugment("rand-m9-p1-inc1").draw(0, 0, np.arange(30_000))
    table = np.zeros((17, 17))
    np.add.at(table, (first.operations, second.operations), 1)
    assert stats.chi2_contingency(table[1:, 1:][np.ix_(table[1:].sum(1) > 0, table[:, 1:].sum(0) > 0)]).pvalue > 1e-3


def test_the_recipe_is_read_in_full() -> None:
    policy = parse_randaugment(RECIPE)
    assert (policy.magnitude, policy.magnitude_std, policy.magnitude_max) == (9.0, 0.5, 10.0)
    assert (policy.layers, policy.probability, policy.weights) == (2, 0.5, None)
    assert policy.operations == INCREASING
    assert len(INCREASING) == 15


def test_other_parts_are_read() -> None:
    policy = parse_randaugment("rand-n3-p0.7-mstdinf-mmax12-m8")
    assert (policy.layers, policy.probability, policy.magnitude_max, policy.magnitude) == (3, 0.7, 12.0, 8.0)
    assert policy.magnitude_std == math.inf
    assert policy.operations == PLAIN
    assert parse_randaugment("rand-mstd100").magnitude_std == 100.0
    assert parse_randaugment("rand-mstd100.5").magnitude_std == math.inf
    assert parse_randaugment("rand").magnitude == 10.0
    weighted = parse_randaugment("rand-tweights")
    assert dict(zip(weighted.operations, weighted.weights or (), strict=True)) == SETS["weights"]


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ("rand-m9-x3", "'x3'"),
        ("rand-m9-mxtd0.5-inc1", "'mxtd0.5' is unknown"),
        ("rand-m9.5", "'m9.5'"),
        ("rand-m9-mstd", "'mstd'"),
        ("rand-m9-mstdwide", "'mstdwide'"),
        ("rand-m9-inc", "'inc'"),
        ("rand-m9-inc2", "'inc2'"),
        ("rand-m9-p1.5", "'p1.5'"),
        ("rand-n0", "'n0'"),
        ("rand-m9-m8", "'m8'"),
        ("rand-m9--inc1", "''"),
        ("rand-w0", "'w0'"),
        ("rand-tfoo", "'tfoo'"),
        ("rand-n4-t3a", None),
        ("rand-n20-tweights", "'n20'"),
        ("augmix-m5", "'augmix'"),
        ("v0", "'v0'"),
        ("rand-m9-mstdnan", "'mstdnan'"),
    ],
)
def test_wrong_parts_are_refused_by_name(config: str, part: str | None) -> None:
    if part is None:
        assert parse_randaugment(config).layers == 4  # equal chances: with replacement, so any number goes
        return
    with pytest.raises(ValueError, match="for example rand-m9") as error:
        parse_randaugment(config)
    assert part in str(error.value)


def test_draws_depend_on_seed_epoch_and_position_alone() -> None:
    policy = parse_randaugment(RECIPE)
    whole = policy.draw(0, 5, np.arange(100))
    part = policy.draw(0, 5, np.array([70, 3]))
    for a, b in zip(whole, part, strict=True):
        assert a.operations[[70, 3]].tolist() == b.operations.tolist()
        assert a.arguments[[70, 3]].tolist() == b.arguments.tolist()
    for other in (policy.draw(1, 5, np.arange(100)), policy.draw(0, 6, np.arange(100))):
        assert other[0].operations.tolist() != whole[0].operations.tolist()


def test_color_jitter_is_torchvisions() -> None:
    jitter = parse_color_jitter((0.4, 0.3, 0.2))
    assert jitter is not None
    layers = jitter.draw(0, 0, np.arange(6000))
    operations = np.stack([layer.operations for layer in layers], axis=1)
    orders, counts = np.unique(operations, axis=0, return_counts=True)
    assert len(orders) == 6
    assert stats.chisquare(counts).pvalue > 1e-3
    theirs = TorchvisionJitter(0.4, 0.3, 0.2)
    ranges = (theirs.brightness, theirs.contrast, theirs.saturation)
    arguments = np.stack([layer.arguments for layer in layers], axis=1)
    for operation, (low, high) in zip((Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR), ranges, strict=True):
        factors = arguments[operations == operation]
        assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_color_jitter_values() -> None:
    assert parse_color_jitter(None) is None
    assert parse_color_jitter(0.0) is None
    assert parse_color_jitter(0.4) == ColorJitter((0.4, 0.4, 0.4))
    only_contrast = parse_color_jitter((0.0, 0.4, 0.0))
    assert only_contrast is not None
    assert {int(o) for layer in only_contrast.draw(0, 0, np.arange(50)) for o in layer.operations} == {
        Operation.IDENTITY,
        Operation.CONTRAST,
    }
    for wrong in (-0.1, (0.1, 0.2), (0.1, 0.1, 0.1, 0.1)):
        with pytest.raises(ValueError, match="color_jitter"):
            parse_color_jitter(wrong)


def test_three_augment_chooses_evenly() -> None:
    [layer] = ThreeAugment().draw(0, 0, np.arange(6000))
    kinds, counts = np.unique(layer.operations, return_counts=True)
    assert set(kinds) == {Operation.COLOR, Operation.SOLARIZE, Operation.GAUSSIAN_BLUR}
    assert stats.chisquare(counts).pvalue > 1e-3
    assert set(layer.arguments[layer.operations == Operation.COLOR]) == {0.0}
    assert set(layer.arguments[layer.operations == Operation.SOLARIZE]) == {128.0}
    radius = layer.arguments[layer.operations == Operation.GAUSSIAN_BLUR]
    assert stats.kstest(radius, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
