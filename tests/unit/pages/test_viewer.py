"""The viewer's fragment: whole, small, escaped, and read back as it was written."""

import base64
import dataclasses
import io
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import torchsaliency
from torchsaliency.errors import InputError, OptionError
from torchsaliency.pages.pictures import describe_map, encode_map, encode_photo
from torchsaliency.pages.viewer import encode_colours, format_value, viewer_html
from torchsaliency.pages.views import BoxView, MapView, PhotoView, view_inputs, view_photo
from torchsaliency.viz.overlay import colourise

HOSTILE = "<script>alert('1')</script>\"></style>&amp;"


@pytest.fixture(scope="module")
def net():
    return torchsaliency.load_model("builtin/shapes_cnn")


@pytest.fixture(scope="module")
def photo():
    draw = np.random.default_rng(0)
    return Image.fromarray(draw.integers(0, 255, (60, 90, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def explained(net, photo):
    x = torchsaliency.preprocess(photo, net)
    return torchsaliency.explain(net, x, ["gradcam", "mtsm"])


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def blank(**facts):
    return MapView(**{"title": "gradcam", "values": torch.rand(4, 6), **facts})


def test_a_map_is_read_back_to_half_a_level():
    values = torch.rand(9, 13)
    found = torch.from_numpy(decode(encode_map(values)).copy()) / 255
    assert float((found - values).abs().max()) <= 0.5 / 255 + 1e-6
    signed = 2 * torch.rand(9, 13) - 1
    signed[0, 0] = 0
    levels = torch.from_numpy(decode(encode_map(signed, signed=True)).astype(np.float32))
    assert levels[0, 0] == 128
    assert float(((levels - 128) / 127 - signed).abs().max()) <= 0.5 / 127 + 1e-6


def test_the_worst_hundred_photographs_by_six_methods_stay_below_25_megabytes():
    draw = np.random.default_rng(0)
    noise = Image.fromarray(draw.integers(0, 256, (900, 900, 3), dtype=np.uint8))
    maps = tuple(blank(values=torch.rand(300, 300), title=f"m{i}") for i in range(6))
    assert 100 * len(viewer_html([PhotoView("noise", noise, maps)])) < 25_000_000


def test_a_photograph_keeps_its_aspect():
    uri = encode_photo(Image.new("RGB", (4000, 1000), "red"))
    assert decode(uri).shape == (140, 560, 3)


@given(st.integers(0, 2), st.integers(0, 2))
def test_the_peak_is_told_in_words(row, column):
    values = torch.zeros(3, 3)
    values[row, column] = 1
    rows, columns = ("upper", "middle", "lower"), ("left", "middle", "right")
    where = "centre" if row == column == 1 else f"{rows[row]} {columns[column]}"
    share = ("17", "50", "83")
    assert describe_map(values) == (
        f"The map peaks in the {where}, at {share[column]} % of the width and {share[row]} % of "
        "the height; half of it lies within 11 % of the picture."
    )


def test_other_maps_in_words():
    assert describe_map(torch.ones(3, 3)) == "The map is the same everywhere."
    assert "not finite" in describe_map(torch.full((2, 2), torch.nan))
    both = torch.zeros(3, 3)
    both[0, 0], both[2, 2] = 1, -1
    words = describe_map(both, signed=True)
    assert "for it peaks in the upper left" in words
    assert "against it peaks in the lower right" in words


def test_names_and_labels_are_escaped(photo):
    view = PhotoView(
        HOSTILE,
        photo,
        (blank(title=HOSTILE, about=HOSTILE, facts=(HOSTILE,), remark=HOSTILE, group=HOSTILE,
               boxes=(BoxView((0.0, 0.0, 0.5, 0.5), HOSTILE),)),),
        ((HOSTILE, 0.5),),
        HOSTILE,
    )  # fmt: skip
    found = viewer_html([view], assets=False, key=HOSTILE)
    assert "<script" not in found
    assert "</style" not in found
    assert found.count("alert(") == found.count("&lt;script&gt;alert(&#39;1&#39;)") >= 12


def test_nothing_is_loaded(photo):
    found = viewer_html([PhotoView("a", photo, (blank(),))])
    addresses = re.findall(r"(?:src|href)=\"([^\"]{0,20})|url\('?([^')]{0,20})", found)
    assert addresses
    assert all((one or other).startswith("data:image/") for one, other in addresses)
    assert "import(" not in found
    assert "fetch(" not in found


def test_the_colours_are_those_of_the_overlays():
    table = np.frombuffer(base64.b64decode(encode_colours("viridis", signed=False)), np.uint8)
    assert (table.reshape(1, 256, 3) == colourise(torch.linspace(0, 1, 256)[None], "viridis")).all()


def test_a_view_of_an_explanation(net, photo, explained):
    view = view_photo(photo, explained, model=net, title="noise", facts={"mtsm": ("AD 3 %",)})
    gradcam, mtsm = view.maps
    assert (gradcam.title, mtsm.title, mtsm.facts) == ("gradcam", "mtsm", ("AD 3 %",))
    raw = explained["mtsm"].raw
    assert raw.min() <= mtsm.low < mtsm.high <= raw.max()
    names = [name for name, _ in view.classes]
    shares = [share for _, share in view.classes]
    assert gradcam.about.startswith(names[0])
    assert set(names) <= set(net.classes)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-6
    assert gradcam.values.shape == (60, 90)


def test_signed_values(net, photo):
    x = torchsaliency.preprocess(photo, net)
    found = torchsaliency.explain(net, x, ["input-x-gradient"])
    (view,) = view_inputs(found, classes=net.classes, signed=True)
    (one,) = view.maps
    signed = found["input-x-gradient"].signed[0]
    scaled = one.values * one.high
    inside = one.values.abs() < 1
    assert one.signed
    assert torch.allclose(scaled[inside], signed[inside], rtol=1e-4)
    mtsm = torchsaliency.explain(net, x, ["mtsm"])
    with pytest.raises(OptionError, match="gives no signed values"):
        view_inputs(mtsm, signed=True)


def test_a_slider_goes_through_volumes_from_their_maximum(explained):
    one = explained["gradcam"]
    volume = torch.zeros(1, 5, 6, 7)
    volume[0, 2, 3, 4] = 1
    changed = {"map": volume, "images": torch.rand(1, 1, 5, 6, 7), "layers": ("a", "b")}
    views = view_inputs({"gradcam": dataclasses.replace(one, **changed)}, names=["scan"])
    assert [view.title for view in views] == ["scan, slices", "scan, rows", "scan, columns"]
    assert [view.stack.words for view in views] == ["slice 3 of 5", "row 4 of 6", "column 5 of 7"]
    assert [view.photo.size for view in views] == [(7, 6), (7, 5), (6, 5)]
    for side, view in enumerate(views):
        assert torch.equal(view.maps[0].values, volume[0].movedim(side, 0))
        assert view.photo is view.stack.pictures[view.stack.first]
    html = viewer_html(views)
    assert "--ts-slices:6;--ts-slice:3" in html
    assert "In row 4 of 6: The map peaks" in html


def test_numbers_are_short():
    assert [format_value(v) for v in (0.0, 1.0, 0.12345, -2.5, 1e-7)] == [
        "0", "1", "0.123", "−2.5", "1e−7",
    ]  # fmt: skip


def test_mistakes(photo):
    with pytest.raises(InputError, match="no photographs"):
        viewer_html([])
    with pytest.raises(InputError, match="opacity lies in"):
        viewer_html([PhotoView("a", photo)], alpha=2.0)
    with pytest.raises(OptionError, match="colormap"):
        viewer_html([PhotoView("a", photo)], colormap="nope")
    with pytest.raises(InputError, match="at least one"):
        view_inputs({})


@pytest.mark.parametrize("signed", [False, True])
def test_a_map_that_is_not_finite_has_no_scale(signed):
    network = torchsaliency.load_model("builtin/shapes_cnn")
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    x = torch.rand(1, 3, 64, 64)
    found = torchsaliency.explain(network, x, "gradcam", 1)
    (one,) = view_photo(Image.new("RGB", (9, 6)), found, model=network, signed=signed).maps
    assert (one.remark, one.signed) == ("not finite", signed)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert not one.values.any()
