"""Nearest neighbors and logistic regression on features, against scikit-learn and a vote by hand; calibration against
torchmetrics on whole probabilities; confusion by hand."""

import numpy as np
import pytest
import timm
import torch
from miniature import ALONE, normalize, tiny_vit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.preprocessing import StandardScaler
from torchmetrics.functional.classification import multiclass_calibration_error

import vitaos
from vitaos.analysis.merged import record_in
from vitaos.batch import Batch
from vitaos.engine.calibration import BINS, calibrate
from vitaos.engine.confusion import confusion_matrix, worst_classes
from vitaos.engine.evaluation_result import Predictions
from vitaos.engine.evaluator import evaluate
from vitaos.engine.features import FeatureBank, FeatureBatches, Features, NearestNeighbors, extract, fit_linear, gather
from vitaos.engine.precision import build_precision


@pytest.fixture(scope="module")
def bank() -> FeatureBank:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(90) % 3
    centers = torch.randn(3, 8, generator=generator)
    features = centers[targets] + 1.5 * torch.randn(90, 8, generator=generator)
    return FeatureBank(features * torch.linspace(0.1, 20, 8), targets, 3)


def test_neighbors_vote_by_similarity_as_in_dino(bank: FeatureBank) -> None:
    query = bank.features[:7] + 0.5
    found = NearestNeighbors(bank, k=5, temperature=0.07)(query)
    unit = bank.features / bank.features.norm(dim=1, keepdim=True)
    similarity = (query / query.norm(dim=1, keepdim=True)) @ unit.T
    for row, line in enumerate(similarity):
        votes = [0.0, 0.0, 0.0]
        for index in line.argsort(descending=True)[:5].tolist():
            votes[int(bank.targets[index])] += float(torch.exp(line[index] / 0.07))
        assert found[row].exp().tolist() == pytest.approx([vote / sum(votes) for vote in votes], abs=1e-5)
    everyone = NearestNeighbors(bank, k=1000, temperature=1e-3)(query)  # neither more than there are nor an overflow
    assert torch.isfinite(everyone).all()


@pytest.mark.parametrize("inverse", [1.0, 0.01])
def test_the_linear_layer_is_scikit_learns_logistic_regression(bank: FeatureBank, inverse: float) -> None:
    layer = fit_linear(bank, inverse, world=ALONE)
    scaler = StandardScaler().fit(bank.features.numpy())
    expected = LogisticRegression(C=inverse, max_iter=1000, tol=1e-8)
    expected.fit(scaler.transform(bank.features.numpy()), bank.targets.numpy())
    theirs = expected.predict_proba(scaler.transform(bank.features.numpy()))
    np.testing.assert_allclose(layer(bank.features).softmax(1).numpy(), theirs, atol=2e-3)


def test_features_are_those_of_the_model_in_the_order_of_the_data() -> None:
    model = tiny_vit().eval()
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    order = torch.tensor([3, 0, 4, 1, 2])
    batches = [Batch(images[part], part + 10, part) for part in order.split(2)]
    shares = FeatureBatches(batches, 5)
    precision = build_precision("fp32", ALONE.device)
    for kind in ("pooled", "class_token", "mean"):
        (of_model,) = extract([Features(model, kind)], shares, normalize, world=ALONE, precision=precision)
        found = gather(of_model, 20, world=ALONE)
        tokens = model.forward_features(normalize(images))
        expected = {
            "pooled": model.forward_head(tokens, pre_logits=True),
            "class_token": tokens[:, 0],
            "mean": tokens[:, model.num_prefix_tokens :].mean(1),
        }[kind]
        torch.testing.assert_close(found.features, expected.detach())
        assert found.targets.tolist() == [10, 11, 12, 13, 14]
    with pytest.raises(ValueError, match="image by image"):
        gather(FeatureBatches([batches[0]._replace(images=torch.zeros(2, 4))], 5), 20, world=ALONE)


def test_the_mean_of_a_convolutional_network_is_over_places() -> None:
    model = timm.create_model("resnet10t", num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(Features(model, "mean")(images), model.forward_features(images).mean((2, 3)))
        torch.testing.assert_close(Features(model, "mean")(images), Features(model, "pooled")(images))


def test_the_mean_weighs_a_merged_token_by_its_patches() -> None:
    """An image of two kinds of patches without positions: merging equal tokens changes nothing."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "num_classes": 4, "depth": 2}
    plain = vitaos.create_model("deit_ti12", **sizes).double().eval()
    plain.pos_embed.data.zero_()
    merged = vitaos.create_model("deit_ti12", **sizes, token_merging={"r": 4}).double().eval()
    merged.load_state_dict(plain.state_dict())
    kinds = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    which = torch.tensor([0] * 11 + [1] * 5)[torch.randperm(16)].view(4, 4)
    image = torch.cat([torch.cat([kinds[kind] for kind in row], 2) for row in which], 1)[None]
    with torch.no_grad():
        found = Features(merged, "mean", record=record_in(merged))(image)
        torch.testing.assert_close(found, Features(plain, "mean")(image))


def test_calibration_is_that_of_the_whole_probabilities() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = 3 * torch.randn(200, 4, generator=generator), torch.randint(4, (200,), generator=generator)
    logits[0], labels[0] = torch.tensor([100.0, 0, 0, 0]), 0  # a confidence of 1
    logits[1] = torch.nan  # is left out
    batches = [Batch(logits[part], labels[part], part) for part in torch.arange(200).split(64)]
    (result,) = evaluate(
        [torch.nn.Identity()], FeatureBatches(batches, 200), lambda images: images, world=ALONE,
        precision=build_precision("fp32", ALONE.device), num_classes=4, keep_confidences=True,
    )  # fmt: skip
    assert result.confidences is not None
    found = calibrate(result.confidences)
    kept = [index for index in range(200) if index != 1]
    probabilities = logits[kept].softmax(1)
    one_hot = torch.nn.functional.one_hot(labels[kept], 4)
    assert found.images == 199
    expected = multiclass_calibration_error(probabilities.clamp_max(1 - 1e-6), labels[kept], num_classes=4, n_bins=BINS)
    assert found.ece == pytest.approx(float(expected), abs=1e-5)
    assert found.nll == pytest.approx(float(torch.nn.functional.cross_entropy(logits[kept], labels[kept])), rel=1e-5)
    assert found.brier == pytest.approx(float((probabilities - one_hot).square().sum(1).mean()), rel=1e-5)
    assert found.bin_count.sum() == 199
    filled = found.bin_count > 0
    gaps = np.abs(found.bin_accuracy - found.bin_confidence)[filled] * found.bin_count[filled]
    assert gaps.sum() / 199 == pytest.approx(found.ece, abs=1e-5)


def test_confusion_counts_every_answer_and_ranks_the_classes() -> None:
    target, predicted = np.array([0, 0, 0, 1, 1, 2, -1]), np.array([0, 1, 1, 1, -1, 2, -1])
    matrix = confusion_matrix(Predictions(target, predicted, target == predicted), 4)
    assert matrix.tolist() == [[1, 2, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    finite = predicted >= 0
    square = confusion_matrix(Predictions(target[finite], predicted[finite], finite[finite]), 3)
    assert (square == sklearn_confusion(target[finite], predicted[finite])).all()
    table = worst_classes(matrix, ["a", "b", "c", "d"])
    assert table[1:] == [
        [1, 0, "a", 3, 1, "33.33", "b", "66.67"],
        [2, 1, "b", 2, 1, "50.00", "not finite", "50.00"],
        [3, 2, "c", 1, 1, "100.00", "", ""],
    ]
