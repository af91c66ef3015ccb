"""Insertion and deletion of what detectors and segmenters find; other measures say why not."""

import pytest
import torch

from nets import TinySegmenter, images, tiny_detector
from torchsaliency import Box, Segment, TorchSaliencyError, explain
from torchsaliency.core.masking import MeanColour
from torchsaliency.evaluation import score
from torchsaliency.measures import perturbation_curve
from torchsaliency.metrics import create_metric, metrics

SUBJECTS = {
    "detector": (tiny_detector("fasterrcnn"), Box(least=0.1)),
    "segmenter": (TinySegmenter(), Segment()),
}
X = images(2, 64, 64)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("order", ["insertion", "deletion"])
def test_the_curve_is_that_of_the_targets_score(subject, order):
    net, spec = SUBJECTS[subject]
    made = explain(net, X, "gradcam", spec)["gradcam"]
    given = made.target if order == "insertion" else spec  # resolved, or not yet
    curve = perturbation_curve(net, X, made.map, given, order=order, budget=4, masking=MeanColour())
    assert (curve.labels, curve.clean) == (None, None)
    ranks = made.map.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    for step, share in enumerate(curve.fractions.tolist()):
        taken = (ranks < share * 64 * 64).view(2, 1, 64, 64)
        shown = X * (taken if order == "insertion" else ~taken)
        with torch.no_grad():
            output = net(shown)
        expected = made.target(output if subject == "detector" else output["out"])
        torch.testing.assert_close(curve.probabilities[:, step].float(), expected)
    assert curve.inputs()[order] is curve.probabilities


def test_metrics_of_a_box_are_those_of_its_curve():
    net, spec = SUBJECTS["detector"]
    made = explain(net, X, "gradcam", spec)["gradcam"]
    found = score(net, made, [create_metric("deletion", {"budget": 4})])["deletion"]
    curve = perturbation_curve(net, X, made.map, made.target, order="deletion", budget=4)
    area = torch.trapezoid(curve.probabilities, curve.fractions, dim=1)
    torch.testing.assert_close(found.per_image, 100 * area)


REFUSED = {
    *("aic", "sic", "consistency", "sufficiency", "grid-pointing-game", "focus", "random-logit"),
    *("mse", "cosine", "ris", "ros", "rrs", "input-invariance", "completeness"),
}
"""They need classes, an embedding or one row of numbers an image, or attributions that add up."""


@pytest.mark.parametrize("name", [n for n, one in metrics().items() if not one.annotations])
def test_every_metric_of_a_detector_gives_numbers_or_a_sentence(name):
    net, spec = SUBJECTS["detector"]
    made = explain(net, X, "gradcam", spec)["gradcam"]
    options = {"budget": 2, "samples": 2, "stages": 1}
    known = metrics()[name].options
    metric = create_metric(name, {key: options[key] for key in options if key in known})
    try:
        score(net, made, [metric])
    except TorchSaliencyError as error:
        assert name in REFUSED, error
        assert "\n" not in str(error)
    else:
        assert name not in REFUSED
        assert len(metric.per_image) == 2
