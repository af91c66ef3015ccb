"""Labels and scores mean what the user means: outputs in objects, classes, layouts."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import torchsaliency
from nets import NAMES, convnet, images, insist_it_is_undefined_here, quick, settle
from torchsaliency import LayerError, Logit, Margin, Probability, TargetError, explain
from torchsaliency.core import freeze
from torchsaliency.core.layer import ChannelsLast, Grid
from torchsaliency.evaluation import score
from torchsaliency.measures import masked_scores

CLASSES = 4


# --- which tensor is the scores -------------------------------------------------------------------


class Named(NamedTuple):
    embedding: Any
    logits: Any


@dataclass
class Attributes:
    features: Any
    prediction: Any


@dataclass
class Loss:
    loss: Any
    scores: Any


class Packs(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.conv, self.fc, self.pack = nn.Conv2d(3, 9, 3), nn.Linear(9, CLASSES), pack

    def forward(self, x):
        maps = self.conv(x).relu()
        features = maps.mean((2, 3))
        return self.pack(maps, features, self.fc(features))


KNOWN = {
    "a tensor": lambda maps, f, y: y,
    "(None, logits)": lambda maps, f, y: (None, y),
    "(loss, logits)": lambda maps, f, y: (y.sum(), y),
    "(maps, logits)": lambda maps, f, y: (maps, y),
    "(logits, [maps])": lambda maps, f, y: (y, [maps]),
    "{features, scores}": lambda maps, f, y: {"features": f, "scores": y},
    "{hidden, anything}": lambda maps, f, y: {"hidden_state": f, "anything": y},
    "{feat, cls_logits}": lambda maps, f, y: OrderedDict(feat=f, cls_logits=y),
    "{loss, prediction}": lambda maps, f, y: {"loss": y.sum(), "prediction": y},
    "{aux, out}": lambda maps, f, y: {"aux": y * 0, "out": y},
    "named tuple": lambda maps, f, y: Named(f, y),
    "dataclass": lambda maps, f, y: Attributes(f, y),
    "dataclass with a loss": lambda maps, f, y: Loss(y.sum(), y),
}

UNKNOWN = {
    "(features, logits)": lambda maps, f, y: (f, y),
    "[logits, logits]": lambda maps, f, y: [y, -y],
    "{a, b}": lambda maps, f, y: {"a": f, "b": y},
}


def test_the_scores_inside_an_output_are_found(tally):
    plain, x = settle(Packs(KNOWN["a tensor"])), images(2)
    expected = explain(plain, x, "gradcam", layer="conv")["gradcam"]
    for name, pack in KNOWN.items():
        made = explain(settle(Packs(pack)), x, "gradcam", layer="conv")["gradcam"]
        assert made.target.describe() == expected.target.describe(), name
        torch.testing.assert_close(made.map, expected.map, msg=name)
        found = score(settle(Packs(pack)), made, ["ad"])["ad"].summary().value
        assert found == score(plain, expected, ["ad"])["ad"].summary().value
    tally(
        "labels",
        "outputs in tuples, dicts and objects",
        len(KNOWN),
        len(KNOWN),
        "the scores are found",
    )


@pytest.mark.parametrize("name", UNKNOWN)
def test_or_the_question_names_the_choices(name, tally):
    net = settle(Packs(UNKNOWN[name]))
    with pytest.raises(
        TargetError, match=r"several tensors .*\(1, |several tensors .*\(2, "
    ) as told:
        explain(net, images(2), "gradcam", layer="conv")
    assert "say output=" in str(told.value)
    tally("labels", "outputs of which any may be the scores", 1, 1, "a question that names them")


# --- classes --------------------------------------------------------------------------------------


def net_of(classes):
    return settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, classes),
        )
    )


ACCEPTED = {
    "int64 array": np.array([3, 200]),
    "uint8 array": np.array([3, 200], np.uint8),
    "NumPy integers": [np.int64(3), np.int32(200)],
    "0-d tensors": [torch.tensor(3), torch.tensor(200)],
    "tuple": (3, 200),
    "range": range(3, 201, 197),
    "int16 tensor": torch.tensor([3, 200], dtype=torch.int16),
    "uint8 tensor": torch.tensor([3, 200], dtype=torch.uint8),
    "Series with an index": pd.Series([3, 200], index=[7, 9]),
    "Index": pd.Index([3, 200]),
    "Logit of a list": Logit([3, 200]),
    "Logit of an array": Logit(np.array([3, 200], np.int32)),
    "Logit of a Series": Logit(pd.Series([3, 200], index=[5, 6])),
    "Logit of int32": Logit(torch.tensor([3, 200], dtype=torch.int32)),
}

REFUSED = {
    "negative": [-1, 3],
    "too large": [3, 300],
    "huge": 2**70,
    "fractions": [3.0, 200.0],
    "one-hot": torch.eye(300)[[3, 200]].long(),
    "a column": torch.tensor([[3], [200]]),
    "a word": "3",
    "words": ["3", "200"],
    "truth values": [True, False],
    "a truth value": True,
    "one for two": [3],
    "three for two": [1, 2, 3],
    "none at all": [],
    "NaN": float("nan"),
    "a set": {3, 200},
    "a dict": {0: 3},
    "bytes": b"3",
    "None in a list": [None, 3],
    "ragged": [[1], [2, 3]],
    "complex": torch.tensor([1j, 2j]),
}


def test_whatever_stands_for_classes_is_taken(tally):
    net, x = net_of(300), images(2)
    expected = explain(net, x, "gradcam", [3, 200], "1")["gradcam"]
    for name, target in ACCEPTED.items():
        made = explain(net, x, "gradcam", target, "1")["gradcam"]
        assert torch.equal(made.raw, expected.raw), name
        assert made.target.describe()["labels"] == [3, 200]
    tally("labels", "spellings of classes", len(ACCEPTED), len(ACCEPTED), "taken")


@pytest.mark.parametrize("kind", [Logit, Probability, Margin])
def test_one_class_stands_for_all_images(kind):
    net, x = net_of(7), images(3)
    one = explain(net, x, "gradcam", kind(3), "1")["gradcam"]
    each = explain(net, x, "gradcam", kind([3, 3, 3]), "1")["gradcam"]
    assert torch.equal(one.raw, each.raw)
    assert one.target.describe() == each.target.describe()
    assert masked_scores(net, x, one.map, kind(3)).labels.tolist() == [3, 3, 3]
    assert one[1].target.labels.tolist() == [3]


def test_everything_else_is_refused_in_a_sentence(tally):
    net, x = net_of(300), images(2)
    for name, target in REFUSED.items():
        for make in (lambda t=target: t, lambda t=target: Logit(t)):
            with pytest.raises(TargetError) as told:
                explain(net, x, "gradcam", make(), "1")
            assert "\n" not in str(told.value), name
    tally("labels", "what is no class", len(REFUSED), len(REFUSED), "one sentence")


# --- networks that give probabilities -------------------------------------------------------------


class Ends(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.body, self.last = net_of(5), last

    def forward(self, x):
        return self.last(3 * self.body(x))


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (nn.Softmax(1), "probabilities"),
        (nn.Sigmoid(), "probabilities"),
        (nn.Identity(), "softmax"),
        (nn.LogSoftmax(1), "softmax"),
        (nn.Tanh(), "softmax"),
    ],
)
def test_probabilities_are_read_as_they_are(last, kind):
    net, x = settle(Ends(last)), images(2)
    made = explain(net, x, "gradcam", 1, layer="body.1")["gradcam"]
    assert made.scores.name == kind
    with torch.no_grad():
        given = net(x)
    expected = given if kind == "probabilities" else given.softmax(1)
    for of in (net, settle(Ends(last))):  # seen before, and seen first by the judge
        found = masked_scores(of, x, torch.rand(2, 16, 16), 1).clean
        torch.testing.assert_close(found, expected[:, 1].double(), atol=1e-6, rtol=1e-5)


def test_one_logit_is_guessed_aloud_and_scored_by_its_sigmoid():
    net, x = net_of(1), images(2)
    with pytest.warns(UserWarning, match="one number an image"):
        made = explain(net, x, "gradcam", 1, layer="1")["gradcam"]
    with torch.no_grad():
        p, o = net(x).sigmoid(), net(x * made.map[:, None]).sigmoid()
    found = score(net, made, ["ad"])["ad"].summary().value
    assert found == pytest.approx(float(((p - o).clamp_min(0) / p).mean() * 100), abs=1e-3)


# --- squares that can be read in two ways ---------------------------------------------------------


class Last(nn.Module):
    """(N, h, w, C), in a block or made by a permutation."""

    def __init__(self, channels, *, fixed=False, plain=False):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, 4)
        self.block = nn.Identity() if plain else nn.Linear(channels, channels)
        self.fc, self.fixed = nn.Linear(channels, CLASSES), fixed

    def forward(self, x):
        if self.fixed and x.shape[3] != self.fixed:
            raise ValueError("another size")
        return self.fc(self.block(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))


class First(nn.Module):
    """(N, C, h, w)."""

    def __init__(self, channels, *, fixed=False, plain=False):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, 4)
        self.block = nn.Identity() if plain else nn.Conv2d(channels, channels, 1)
        self.fc, self.fixed = nn.Linear(channels, CLASSES), fixed

    def forward(self, x):
        if self.fixed and x.shape[3] != self.fixed:
            raise ValueError("another size")
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("fixed", [False, 32], ids=["any size", "one size"])
@pytest.mark.parametrize("channels", [8, 5])
@pytest.mark.parametrize(("kind", "layout"), [(Last, ChannelsLast()), (First, Grid())])
def test_layouts_are_decided(kind, layout, channels, fixed, tally):
    net, x = kind(channels, fixed=fixed).eval(), images(2, 32, 32)
    with torch.no_grad():
        features = net.block(net.stem(x) if kind is First else net.stem(x).permute(0, 2, 3, 1))
        features = features if kind is Last else features.permute(0, 2, 3, 1)
        expected = (features @ net.fc.weight[1]).relu()
    for name in ("gradcam", "layercam", "ablationcam", "mtsm", "scorecam"):
        made = explain(net, x, name, 1, "block")[name]
        assert made.reshapes == (layout,), name
        if name == "gradcam":
            torch.testing.assert_close(64 * made.raw, expected, atol=1e-5, rtol=1e-4)
    tally("labels", "squares of features that can be read in two ways", 1, 1, "read right")


def test_a_permuted_view_tells_by_its_strides():
    net, x = Last(8, fixed=32, plain=True).eval(), images(1, 32, 32)
    assert explain(net, x, "gradcam", 1, "block")["gradcam"].reshapes == (ChannelsLast(),)
    net = First(8, fixed=32, plain=True).eval().to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    assert explain(net, x, "gradcam", 1, "block")["gradcam"].reshapes == (Grid(),)


def test_what_stays_open_is_said():
    net, x = First(8, fixed=32, plain=True).eval(), images(1, 32, 32)
    with pytest.warns(UserWarning, match=r"can be read as \(N, C, h, w\) or as \(N, h, w, C\)"):
        made = explain(net, x, "gradcam", 1, "block")["gradcam"]
    assert made.reshapes == (Grid(),)
    said = torchsaliency.Layer("block", ChannelsLast())
    assert explain(net, x, "gradcam", 1, said)["gradcam"].reshapes == (ChannelsLast(),)


def test_every_method_reads_a_decided_layout():
    last, x = Last(8).eval(), images(2, 32, 32)
    for name in NAMES:
        try:
            made = quick(name)(last, x, 1, "block")
        except LayerError as error:
            insist_it_is_undefined_here(name, error)
            continue
        assert made.reshapes in ((ChannelsLast(),), (None,)), name
    assert freeze.get_hold(last) is None


def test_sparse_scores_are_scores():
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = convnet()

        def forward(self, x):
            return self.net(x).to_sparse()

    x = images(2)
    found = explain(Sparse().eval(), x, "gradcam", [1, 2], "net.relu3")["gradcam"]
    plain = explain(convnet(), x, "gradcam", [1, 2], "relu3")["gradcam"]
    torch.testing.assert_close(found.map, plain.map)
