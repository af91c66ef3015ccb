"""A method that does not fit the network says so in a sentence, and names methods that do."""

import re

import pytest
from PIL import Image

from nets import (
    ATTENTION_NAMES,
    DETECTION_NAMES,
    NEEDS_A_LINEAR_HEAD,
    NEEDS_CONVOLUTIONS,
    NEEDS_RELU,
)
from torchsaliency.core.method import methods
from torchsaliency.data import shapes

PAIRS = [
    *(("builtin/shapes_cnn", name, "has no attention") for name in ATTENTION_NAMES),
    *(("builtin/shapes_cnn", name, "gives no boxes") for name in DETECTION_NAMES),
    *(("builtin/shapes_vit", name, "has none") for name in sorted(NEEDS_RELU)),
    *(
        ("builtin/shapes_vit", name, "defined on convolutional networks")
        for name in sorted(NEEDS_CONVOLUTIONS)
    ),
    *(
        (model, name, "global average pooling and one linear layer")
        for model in ("builtin/shapes_vit", "net.py:deep")
        for name in sorted(NEEDS_A_LINEAR_HEAD)
    ),
]


@pytest.fixture
def drawn(place):
    pixels = (255 * shapes(1, seed=2).images[0]).round().byte().permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(place / "drawn.png")
    return "drawn.png"


@pytest.mark.parametrize(("model", "name", "said"), PAIRS)
def test_an_unsuitable_method_names_some_that_fit(model, name, said, explain, drawn):
    ran = explain(drawn, "--model", model, "--method", name)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not ran.out
    advice = re.findall(r"[\w+-]+", ran.err.partition("; use ")[2])
    fitting = [word for word in advice if word in methods()]
    assert len(fitting) >= 3
    assert explain(drawn, "--model", model, "--method", ",".join(fitting)).code == 0


def test_every_attention_method_and_cams_on_a_transformer(explain, drawn, place):
    names = [*ATTENTION_NAMES, "gradcam", "layercam", "eigencam", "mtsm"]
    ran = explain(drawn, "--model", "builtin/shapes_vit", "--method", ",".join(names))
    assert ran.code == 0, ran.err
    assert len(list((place / "saliency").glob("*.png"))) == len(names)
