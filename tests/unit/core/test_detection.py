"""Targets of detectors: which detection is explained, and how it is found again."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nets import images, tiny_detector
from torchsaliency import Box, DetectionScore, InputError, OptionError, TargetError, explain
from torchsaliency.core.detection import box_overlaps, is_detections, read_detections
from torchsaliency.core.session import mixes_images
from torchsaliency.core.target import parse_target, resolve_target

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 10], [20, 20, 30, 30]])


def found(scores, labels=(3, 3, 4, 3), boxes=BOXES, **more):
    return {
        "boxes": boxes,
        "labels": torch.tensor(labels),
        "scores": torch.as_tensor(scores),
        **more,
    }


CLEAN = [found([0.5, 0.25, 0.9, 0.8]), found([0.1, 0.6, 0.2, 0.3])]


def test_overlaps():
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
    assert box_overlaps(BOXES[:1], others).tolist() == [[1, pytest.approx(1 / 3), 0]]


@pytest.mark.parametrize(
    ("box", "labels", "scores"),
    [
        (Box(), [[4], [3]], [[0.9], [0.6]]),
        (Box(1, least=0.3), [[3], [3]], [[0.8], [0.3]]),
        (Box(category=3, least=0.2), [[3], [3]], [[0.8], [0.6]]),
        (Box("all", least=0.45), [[4, 3, 3], [3, -1, -1]], [[0.9, 0.8, 0.5], [0.6, 0, 0]]),
    ],
    ids=["surest", "number", "class", "all"],
)
def test_a_box_is_chosen_by_number_class_and_score(box, labels, scores):
    made = box.resolve(CLEAN)
    assert made.labels.tolist() == labels
    torch.testing.assert_close(made.found, torch.tensor(scores))
    assert made.describe()["labels"] == [[one for one in row if one >= 0] for row in labels]


def test_an_image_in_which_nothing_is_found():
    with pytest.raises(InputError, match=r"no object with a score of at least 0\.7 in image 1 "):
        Box(least=0.7).resolve(CLEAN)
    with pytest.raises(InputError, match=r"2 objects of class 3 .* and number 2 was asked for"):
        Box(2, category=3, least=0.4).resolve(CLEAN[:1])
    nothing = found([], labels=[], boxes=torch.zeros(0, 4))
    with pytest.raises(InputError, match="it finds nothing"):
        Box().resolve([nothing])


def test_a_box_without_an_area_is_passed_over():
    line = torch.tensor([[0.0, 0, 0, 10], [1, 1, 2, 2]])
    assert Box().resolve([found([0.9, 0.8], [1, 2], line)]).labels.tolist() == [[2]]


def test_what_is_no_detector():
    for output in (torch.ones(2, 5), [], [{"boxes": BOXES}]):
        assert not is_detections(output)
        with pytest.raises(TargetError, match="box explains what a detector found"):
            Box().resolve(output)
    with pytest.raises(TargetError, match="leave match=mask out"):
        Box(match="mask").resolve(CLEAN)
    with pytest.raises(TargetError, match="use form=score"):
        Box(form="cosine").resolve(CLEAN)
    with pytest.raises(OptionError, match="score, cosine or sum"):
        Box(form="product")
    with pytest.raises(OptionError, match="give box or mask"):
        Box(match="outline")
    with pytest.raises(OptionError, match=r"\[0, 1\]"):
        Box(overlap=2.0)
    with pytest.raises(OptionError, match="0 or above"):
        Box(-1)


def test_words():
    def of_class(word):
        return {"dog": 18}[word]

    assert parse_target("box", of_class) == Box()
    assert parse_target("box:2", of_class) == Box(2)
    assert parse_target("box:dog,overlap=0.5,least=0.1", of_class) == Box(0, 18, 0.1, 0.5)
    assert parse_target("box:all,form=sum", of_class) == Box("all", form="sum")
    assert parse_target("box:least=0.1,match=mask", of_class) == Box(least=0.1, match="mask")


# --- the score ------------------------------------------------------------------------------------


def score(form="score", *, overlap=0.0, output=None, **more):
    made = DetectionScore(BOXES[:1], torch.tensor([3]), overlap=overlap, form=form, **more)
    return float(made([output or CLEAN[0]]))


def test_the_similarity_is_the_best_overlap_times_score():
    assert score() == pytest.approx(max(1.0 * 0.5, 0.6 * 0.25))  # the third is of another class
    worse = found([0.1, 0.5, 0.9, 0.8])
    assert score(output=worse) == pytest.approx(0.6 * 0.5)
    assert score(output=worse, overlap=0.7) == pytest.approx(0.1)


def test_the_sum_is_that_of_the_one_that_overlaps_most():
    near = found([0.5, 0.25], [3, 3], torch.tensor([[0.0, 0, 10, 6], [20, 20, 30, 30]]))
    assert score("sum", output=near) == pytest.approx(0.6 + 0.5)
    assert score("sum", output=near, overlap=0.6) == 0
    assert score("sum", output=found([0.5], [4], BOXES[:1])) == 0


def test_class_probabilities_take_the_place_of_labels():
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 1.0]])
    output = found([0.4, 1.0], [3, 3], BOXES[:2], probabilities=probabilities)
    assert score(output=output) == pytest.approx(max(0.4, 0.6))
    own = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    assert score("cosine", output=output, probabilities=own) == pytest.approx(1.0)
    with pytest.raises(TargetError, match="none were given"):
        score("cosine")
    with pytest.raises(TargetError, match="probabilities of the detector"):
        score("cosine", probabilities=own)


def test_several_objects_add_up():
    both = DetectionScore(BOXES[None, [0, 3]], torch.tensor([[3, 3]]))
    assert float(both(CLEAN[:1])) == pytest.approx(0.5 + 0.8)
    padded = DetectionScore(BOXES[None, [0, 3]], torch.tensor([[3, -1]]))
    assert float(padded(CLEAN[:1])) == pytest.approx(0.5)


def test_masks_are_compared_instead_of_boxes():
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, 0, :2] = 0.9  # the upper half
    masks[1, 0, :, :2] = 0.6  # the left half: a third of both
    output = [found([0.9, 0.8], [3, 3], BOXES[[3, 0]], masks=masks)]
    upper = Box(match="mask").resolve(output)
    assert float(upper(output)) == pytest.approx(0.9)
    masked = [{**output[0], "scores": torch.tensor([0.1, 0.9])}]
    assert float(upper(masked)) == pytest.approx(0.9 / 3)
    with pytest.raises(TargetError, match="16 pixels"):
        upper([{**output[0], "masks": torch.ones(2, 1, 2, 2)}])


def test_no_detection_is_zero_and_keeps_the_graph():
    nothing = found([], labels=[], boxes=torch.zeros(0, 4))
    assert score(output={**nothing, "scores": torch.zeros(0)}) == 0
    scores = torch.zeros(0, requires_grad=True)
    made = DetectionScore(BOXES[:1], torch.tensor([3]))([{**nothing, "scores": scores}])
    assert made.requires_grad


def test_taking_and_refusing():
    two = Box().resolve(CLEAN)
    index = torch.tensor([1, 1, 0])
    torch.testing.assert_close(two.take(index)([CLEAN[i] for i in index]), two(CLEAN)[index])
    with pytest.raises(TargetError, match="2 images have boxes"):
        two(CLEAN[:1])
    with pytest.raises(TargetError, match="boxes \\(N, B, 4\\)"):
        DetectionScore(BOXES, torch.tensor([1]))


def test_the_gradient_is_that_of_the_matched_score():
    scores = torch.tensor([0.5, 0.25, 0.9, 0.8], requires_grad=True)
    DetectionScore(BOXES[:1], torch.tensor([3]))([found(scores)]).sum().backward()
    assert scores.grad.tolist() == [1, 0, 0, 0]


def test_a_detector_is_explained_by_its_surest_detection():
    made = resolve_target(None, CLEAN)
    assert isinstance(made, DetectionScore)
    assert made.labels.tolist() == [[4], [3]]
    with pytest.raises(TargetError, match="give Box"):
        resolve_target(3, CLEAN)


# --- DETR and its kin -----------------------------------------------------------------------------


def queries(classes, logits):
    net = nn.Identity()
    net.config = SimpleNamespace(num_labels=classes)
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 1.0]]])
    return read_detections(net, {"logits": logits, "pred_boxes": boxes}, (40, 80))


def test_the_last_logit_may_be_no_object():
    logits = torch.tensor([[[1.0, 3.0, 2.0]]])
    (made,) = queries(2, logits)
    assert made["boxes"].tolist() == [[20, 0, 60, 40]]
    assert made["labels"].tolist() == [1]
    torch.testing.assert_close(made["scores"], logits.softmax(2)[0, :, 1])
    (made,) = queries(3, logits)
    torch.testing.assert_close(made["probabilities"], logits.sigmoid()[0])
    with pytest.raises(TargetError, match="'no object' cannot be known"):
        queries(7, logits)


def test_other_outputs_are_left_alone():
    boxes = torch.zeros(1, 2, 4)
    for output in (torch.ones(1, 2), [1], {"logits": torch.ones(1, 2)}, SimpleNamespace(a=1)):
        assert read_detections(nn.Identity(), output, (4, 4)) is None
    odd = {"logits": torch.ones(1, 3, 2), "pred_boxes": boxes}
    assert read_detections(nn.Identity(), odd, (4, 4)) is None


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fasterrcnn", "fpn", "maskrcnn", "retinanet", "ssd"])
def test_an_image_has_the_map_that_it_has_alone(kind):
    net, x = tiny_detector(kind), images(2, 64, 64)
    assert not mixes_images(net, x)
    methods = ["gradcam", "saliency"]
    both, alone = explain(net, x, methods), explain(net, x[1:], methods)
    for name in methods:
        torch.testing.assert_close(both[name].map[1:], alone[name].map, atol=1e-3, rtol=0)
        assert both[name].status == ("ok", "ok")
    assert all(not parameter.grad_fn and parameter.grad is None for parameter in net.parameters())


class Mixes(nn.Module):
    """A detector that subtracts the mean of the batch."""

    def forward(self, x):
        x = x - x.mean(0)
        return [found(row.mean()[None], [1], BOXES[:1]) for row in x]


def test_a_detector_that_mixes_images_runs_them_one_by_one():
    assert mixes_images(Mixes(), images(2, 8, 8))
