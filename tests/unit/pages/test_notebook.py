"""An explanation as a notebook shows it, and keeps it."""

import json
from dataclasses import replace

import pytest
import torch
from IPython.core.formatters import DisplayFormatter

import torchsaliency
from torchsaliency.data import sample_paths


@pytest.fixture(scope="module")
def explained():
    net = torchsaliency.load_model("builtin/shapes_cnn")
    photos = [str(path) for path in [*sample_paths().values()][:4]]
    x = torchsaliency.preprocess(photos, net)
    big = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear")
    return torchsaliency.explain(net, big, "gradcam", [0, 1, 2, 0])["gradcam"]


def test_it_is_the_viewer_and_small(explained):
    html = explained._repr_html_()
    assert html.count("<section") == 4
    assert 'type="range"' in html
    assert 'src="http' not in html
    bundle, _ = DisplayFormatter().format(explained)
    assert bundle["text/html"] == html
    assert html.count('<img class="ts-still" alt="Maps of gradcam" src="data:image/jpeg') == 1
    assert len(json.dumps(bundle)) < 300_000, "all that a notebook keeps of it"


def test_maps_that_are_not_finite_have_no_plain_picture(explained):
    odd = replace(explained, map=torch.full_like(explained.map, torch.nan))
    html = odd._repr_html_()
    assert "ts-still" not in html
    assert html.count("<section") == 4


def test_of_many_images_eight_are_shown():
    net = torchsaliency.load_model("builtin/shapes_cnn")
    many = torchsaliency.explain(net, torch.rand(10, 3, 64, 64), "gradcam")["gradcam"]
    assert many._repr_html_().count("<section") == 8
