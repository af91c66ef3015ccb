"""Targets against formulas written out by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from torchsaliency import (
    BoxScore,
    EmbeddingSimilarity,
    Logit,
    LogProbability,
    Margin,
    MaskScore,
    OptionError,
    OwnEmbedding,
    Probability,
    Regression,
    TargetError,
)
from torchsaliency.core.network import unwrap_output
from torchsaliency.core.target import TARGETS, RowWise, parse_target, resolve_target, score

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -5.0, -4.0]])
LABELS = torch.tensor([1, 0])


def test_class_scores():
    powers = LOGITS.exp()
    share = powers / powers.sum(1, keepdim=True)
    assert Logit(LABELS)(LOGITS).tolist() == [-1, -3]
    torch.testing.assert_close(Probability(LABELS)(LOGITS), share[[0, 1], LABELS])
    torch.testing.assert_close(LogProbability(LABELS)(LOGITS), share[[0, 1], LABELS].log())
    # The second is the reference sheet's example, where the official code returns -3.
    assert Margin(LABELS)(LOGITS).tolist() == [-3, 1]


def test_log_probability_is_finite_for_a_sure_network():
    sure = torch.tensor([[200.0, 0.0]], requires_grad=True)
    value = LogProbability(torch.tensor([1]))(sure)
    value.sum().backward()
    assert value.item() == -200
    assert sure.grad.tolist() == [[-1, 1]]


def test_the_margins_gradient_is_one_and_minus_one():
    logits = LOGITS.clone().requires_grad_()
    Margin(LABELS)(logits).sum().backward()
    assert logits.grad.tolist() == [[-1, 1, 0], [1, 0, -1]]


@pytest.mark.parametrize(
    ("kind", "expected"), [("dot", [11.0, 0.0]), ("cosine", [11 / 125**0.5, 0]), ("mse", [-8, -5])]
)
def test_embedding_similarity(kind, expected):
    made = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert EmbeddingSimilarity(reference, kind)(made).tolist() == pytest.approx(expected)


def test_embedding_similarity_refuses():
    with pytest.raises(TargetError, match="dot, cosine or mse"):
        EmbeddingSimilarity(torch.ones(1, 2), "euclid")
    with pytest.raises(TargetError, match="same length"):
        EmbeddingSimilarity(torch.ones(1, 2))(torch.ones(1, 3))


def test_regression():
    output = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert Regression(1)(output).tolist() == [2, 4]
    assert Regression(-2, sign=-1.0)(output).tolist() == [-1, -3]
    assert Regression()(torch.tensor([5.0, 6.0])).tolist() == [5, 6]
    with pytest.raises(TargetError, match="0 to 1"):
        Regression(2)(output)


def test_mask_score_is_a_weighted_mean():
    output = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    masks = torch.zeros(2, 4, 4)
    masks[0, :2, :2] = 1  # the first output cell
    masks[1, :, 2:] = 0.5  # the right column
    # image 0: category 1 starts at 4; image 1: 12 + 4, cells 17 and 19
    assert MaskScore(masks, 1)(output).tolist() == [4, 18]
    assert MaskScore(torch.zeros(2, 2, 2), 1)(output).tolist() == [0, 0]
    with pytest.raises(TargetError, match="dense output"):
        MaskScore(masks, 1)(output[:1])
    assert MaskScore(masks, 1).describe() == {
        "kind": "MaskScore",
        "category": 1,
        "areas": [0.25, 0.25],
    }


def test_targets_that_hold_tensors_can_be_compared():
    one, other = (MaskScore(torch.ones(2, 4, 4), 1) for _ in range(2))
    assert one != other
    assert len({one, other}) == 2


def detections(scores: list[float]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 10], [20, 20, 30, 30]]),
        "labels": torch.tensor([3, 3, 4, 3]),
        "scores": torch.tensor(scores),
    }


def test_box_score_counts_matching_detections():
    boxes, labels = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.tensor([3, 3])
    output = [detections([0.5, 0.25, 0.9, 0.8]), detections([0.5, 0.25, 0.9, 0.8])]
    found = BoxScore(boxes, labels)(output)
    assert found.tolist() == pytest.approx([0.5 + 0.6 * 0.25, 0.8])
    assert BoxScore(boxes, labels, overlap=0.7)(output).tolist() == pytest.approx([0.5, 0.8])
    taken = BoxScore(boxes, labels).take(torch.tensor([1]))
    assert taken(output[1:]).tolist() == pytest.approx([0.8])
    assert taken.describe()["labels"] == [3]


def test_box_score_without_detections_is_zero():
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.long),
        "scores": torch.zeros(0),
    }
    assert BoxScore(torch.ones(1, 4), torch.tensor([1]))([empty]).tolist() == [0]


def test_box_score_needs_a_detector():
    with pytest.raises(TargetError, match="detector"):
        BoxScore(torch.ones(1, 4), torch.tensor([1]))(torch.ones(1, 4))
    with pytest.raises(TargetError, match="detector"):
        BoxScore(torch.ones(1, 4), torch.tensor([1]))([])


@pytest.mark.parametrize("kind", [Logit, Probability, LogProbability, Margin])
def test_taking_repeats_and_reorders(kind):
    index = torch.tensor([1, 1, 0])
    whole, taken = kind(LABELS)(LOGITS), kind(LABELS).take(index)(LOGITS[index])
    torch.testing.assert_close(taken, whole[index])
    assert kind(LABELS).describe() == {"kind": kind.__name__, "labels": [1, 0]}


def test_taking_of_the_others():
    index = torch.tensor([1, 0, 1])
    masks = torch.rand(2, 2, 2)
    output = torch.rand(2, 3, 2, 2)
    torch.testing.assert_close(
        MaskScore(masks, 2).take(index)(output[index]), MaskScore(masks, 2)(output)[index]
    )
    reference = torch.rand(2, 3)
    torch.testing.assert_close(
        EmbeddingSimilarity(reference).take(index)(LOGITS[index]),
        EmbeddingSimilarity(reference)(LOGITS)[index],
    )
    assert EmbeddingSimilarity(reference).describe()["dimensions"] == 3
    assert Regression(2).take(index) == Regression(2)
    assert Regression(2).describe() == {"kind": "Regression", "index": 2, "sign": 1.0}


def test_resolving():
    assert resolve_target(None, LOGITS).labels.tolist() == [0, 0]
    assert resolve_target(2, LOGITS).labels.tolist() == [2, 2]
    assert resolve_target([2, 1], LOGITS).labels.tolist() == [2, 1]
    assert (
        resolve_target(torch.tensor([2, 1], dtype=torch.int32), LOGITS).labels.dtype == torch.int64
    )
    found = resolve_target(Margin(LABELS), LOGITS)
    assert isinstance(found, Margin)
    assert found.labels.tolist() == LABELS.tolist()

    def brightness(output: torch.Tensor) -> torch.Tensor:
        return output.sum(1)

    made = resolve_target(brightness, LOGITS)
    assert isinstance(made, RowWise)
    assert made.describe() == {"kind": "callable", "name": "brightness"}
    torch.testing.assert_close(score(made, LOGITS, 2), LOGITS.sum(1))


def test_class_targets_need_logits():
    with pytest.raises(TargetError, match="MaskScore, Regression"):
        resolve_target(None, torch.ones(2, 3, 4, 4))
    with pytest.raises(TargetError, match="list"):
        resolve_target(1, [{}])


def test_unwrapping():
    tensor = torch.ones(1, 2)
    for output in (
        tensor,
        SimpleNamespace(logits=tensor),
        {"aux": tensor * 0, "logits": tensor},
        {"aux": tensor * 0, "out": tensor},
        {"note": "x", "whatever": tensor},
        ("text", tensor, None),
        [tensor],
    ):
        assert unwrap_output(output) is tensor
    found = [{"boxes": tensor}]
    assert unwrap_output(found) is found
    for nothing in ({}, [], (), "text", None, {"note": "x"}, 3):
        with pytest.raises(TargetError, match="holds no tensor"):
            unwrap_output(nothing)


def test_cosine_agrees_with_torch_on_random_embeddings():
    made, reference = torch.randn(4, 8), torch.randn(4, 8)
    expected = F.cosine_similarity(made, reference)
    torch.testing.assert_close(EmbeddingSimilarity(reference)(made), expected)


def class_index(text: str) -> int:
    names = {"cat": 0, "dog": 2}
    return names[text] if text in names else int(text)


def test_every_registered_target_can_be_named():
    for name, entry in TARGETS.entries().items():
        assert isinstance(parse_target(name, class_index), entry.factory)
        if entry.names_class:
            assert parse_target(f"{name}:dog", class_index).labels.tolist() == 2
        assert entry.summary


def test_words_that_name_targets():
    assert parse_target("predicted", class_index) is None
    assert parse_target("dog", class_index) == parse_target("2", class_index) == 2
    assert parse_target("regression:index=2,sign=-1", class_index) == Regression(2, -1.0)
    assert parse_target("own-embedding:kind=mse", class_index) == OwnEmbedding("mse")
    with pytest.raises(TargetError, match="dot, cosine or mse"):
        parse_target("own-embedding:kind=euclid", class_index)
    with pytest.raises(OptionError, match="no option 'place'"):
        parse_target("regression:place=2", class_index)


def test_a_class_target_without_classes_takes_the_predicted_ones():
    assert resolve_target(Margin(), LOGITS).labels.tolist() == [0, 0]
    assert Margin().take(torch.tensor([0])).describe() == {"kind": "Margin", "labels": None}
    with pytest.raises(TargetError, match="no classes yet"):
        Margin()(LOGITS)
