"""The whole registry of methods and metrics on networks of every kind of input and output.

Each has a plain network that says the same: the maps and the values must be the same, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import torchsaliency as ts
from nets import ATTENTION_NAMES, NAMES, NEEDS_A_LINEAR_HEAD, convnet, images, quick, tiny_vit
from torchsaliency.core.acceleration import accelerated
from torchsaliency.core.network import NetworkWrapper
from torchsaliency.errors import InputError, OptionError, TorchSaliencyError
from torchsaliency.evaluation import score
from torchsaliency.metrics import create_metric, metrics

X, META = images(3), torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
LAYER = "net.relu2"


class Holds(nn.Module):
    """A network around another one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class TwoInputs(Holds):
    """Adds to the logits what a second input says: a row of numbers for each image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        draw = torch.Generator().manual_seed(4)
        self.register_buffer("weight", torch.randn(4, 5, generator=draw))

    def forward(self, image: Tensor, meta: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.net(image) + meta @ self.weight


class Fixed(TwoInputs):
    """The same for one image, whose second input it keeps."""

    def __init__(self, net: nn.Module, meta: Tensor, scale: float = 1.0) -> None:
        super().__init__(net)
        self.register_buffer("meta", meta)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, self.meta, self.scale)


@dataclass
class Result:
    logits: Tensor
    hidden: tuple[Tensor, ...]


class Nests(Holds):
    """Gives its logits inside other things."""

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return {"loss": None, "result": (Result(y, (x, y[:, :2])), y[:, :, None])}


class Named(Holds):
    """Gives a dict."""

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return {"features": x, "logits": y}


def make_head(weights: Callable[[Tensor], Tensor]) -> nn.Module:
    """A convolutional network whose last layer has other weights and no bias."""
    net = convnet()
    fc = nn.Linear(8, len(weights(net.fc.weight)), bias=False)
    fc.weight.data.copy_(weights(net.fc.weight.data))
    net.fc = fc
    return Holds(net)


class Case(NamedTuple):
    net: nn.Module
    target: int | None
    plain: nn.Module
    plain_target: int | None
    options: dict[str, Any] = MappingProxyType({})


CASES = {
    "multi-label": Case(
        make_head(lambda w: w), 3, make_head(lambda w: w[[3]] * torch.tensor([[0.0], [1]])), 1,
        {"scores": "sigmoid"},
    ),
    "one logit, class 1": Case(
        make_head(lambda w: w[:1]), 1, make_head(lambda w: w[[0]] * torch.tensor([[0.0], [1]])), 1,
        {"scores": "binary"},
    ),
    "one logit, class 0": Case(
        make_head(lambda w: w[:1]), 0, make_head(lambda w: w[[0]] * torch.tensor([[0.0], [-1]])), 1,
        {"scores": "binary"},
    ),
    "dict": Case(Named(convnet()), None, Holds(convnet()), None),
    "nested": Case(Nests(convnet()), None, Holds(convnet()), None),
    "named place": Case(
        Nests(convnet()), 2, Holds(convnet()), 2, {"output": "result.0.logits"}
    ),
}  # fmt: skip


def explain(net: nn.Module, x: Any, name: str, target: Any, **options: Any) -> ts.Explanation:
    return ts.explain(net.eval(), x, quick(name), target, LAYER, chunk=4, **options)[name]


def assert_same_map(found: ts.Explanation, expected: ts.Explanation) -> None:
    # a stretched map of nearly equal values magnifies rounding
    torch.testing.assert_close(found.map, expected.map, atol=2e-3, rtol=1e-3)
    assert found.status == expected.status


COMPARES_CLASSES = {
    ("finercam", "multi-label"),
    ("relevance-cam", "multi-label"),
    ("relevance-cam", "one logit, class 0"),
}
"""Their maps depend on the other classes, which the plain network does not have."""


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_that_of_the_plain_network(name, kind):
    case = CASES[kind]
    try:
        expected = explain(case.plain, X, name, case.plain_target)
    except TorchSaliencyError as error:
        with pytest.raises(type(error)):
            explain(case.net, X, name, case.target, **case.options)
        return
    try:
        found = explain(case.net, X, name, case.target, **case.options)
    except TorchSaliencyError:
        assert name in NEEDS_A_LINEAR_HEAD
        assert kind.startswith("one logit")
        return
    if (name, kind) in COMPARES_CLASSES:
        assert set(found.status) == {"ok"}
    else:
        assert_same_map(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_two_inputs_are_explained_image_by_image(name):
    net = TwoInputs(convnet())
    given = {"image": X, "meta": META}
    try:
        expected = [
            explain(Fixed(convnet(), META[i : i + 1]), X[i : i + 1], name, None) for i in range(3)
        ]
    except TorchSaliencyError as error:
        with pytest.raises(type(error)):
            explain(net, given, name, None)
        return
    found = explain(net, given, name, None)
    for one, alone in zip(found, expected, strict=True):
        assert_same_map(one, alone)
        torch.testing.assert_close(one.output, alone.output)
    assert found.manifest()["inputs"]["given"] == {"image": [3, 3, 16, 16], "meta": [3, 4]}


class TwoInputTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit = tiny_vit()

    def forward(self, pixels: Tensor, bias: Tensor) -> dict[str, Any]:
        return {"result": {"logits": self.vit(pixels) + bias}}


@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_methods_of_attention(name):
    x, bias = images(2, 32, 32), torch.randn(2, 5)
    plain = tiny_vit()
    found = ts.explain(TwoInputTransformer().eval(), (x, bias), name, 1, "vit.blocks.1")[name]
    expected = ts.explain(plain, x, name, 1, "blocks.1")[name]
    assert_same_map(found, expected)
    with torch.no_grad():
        assert ts.explain(plain, x, name, 1, "blocks.1", scores="sigmoid")[name].score.tolist() == (
            pytest.approx(plain(x)[:, 1].tolist(), rel=1e-4)
        )


# --- metrics --------------------------------------------------------------------------------------

BOXES = tuple(torch.tensor([[2.0, 3.0, 12.0, 11.0]]) for _ in range(3))
MASKS = torch.zeros(3, 16, 16, dtype=torch.uint8)
MASKS[:, 3:11, 2:12] = 1

SMALL = {"patch": 3, "regions": 3, "samples": 6, "budget": 5, "stages": 2}
"""Options that make a metric fit small images, wherever it has them."""


def values(net: nn.Module, made: ts.Explanation, rows: slice = slice(None)) -> dict[str, Any]:
    """Return every metric's rows, or the sentence with which it refuses."""
    found: dict[str, Any] = {}
    for name in metrics():
        options = {key: SMALL[key] for key in SMALL if key in metrics()[name].options}
        metric = create_metric(name, options)
        annotations = {"boxes": BOXES[rows], "masks": MASKS[rows]}
        try:
            found[name] = score(net, made, [metric], **annotations)[metric.name].per_image
        except TorchSaliencyError as error:
            found[name] = str(error)
    return found


def assert_same_values(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, str):
            assert isinstance(found[name], str), (name, value)
            continue
        assert isinstance(found[name], Tensor), (name, found[name])
        torch.testing.assert_close(
            found[name],
            value,
            atol=2e-3,
            rtol=2e-3,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("kind", CASES)
def test_every_metric_is_that_of_the_plain_network(kind):
    case = CASES[kind]
    found = explain(case.net, X, "gradcam", case.target, **case.options)
    expected = explain(case.plain, X, "gradcam", case.plain_target)
    of_net, of_plain = values(case.net, found), values(case.plain, expected)
    if case.options.get("scores"):  # heads of other sizes are other embeddings, randomised or not
        of_head = {"masked_embeddings", "other_class_maps", "random_network_maps"}
        of_head |= {"randomised_maps", "smooth_randomised_maps"}
        for name in [name for name in of_net if of_head & {*metrics()[name].requires}]:
            of_net.pop(name), of_plain.pop(name)
        for name in ("consistency", "ros"):  # of labels, and of all numbers
            of_net.pop(name), of_plain.pop(name)
    assert_same_values(of_net, of_plain)
    assert sum(isinstance(value, Tensor) for value in of_net.values()) > len(of_net) / 2


def test_every_metric_of_two_inputs():
    net = TwoInputs(convnet())
    made = explain(net, {"image": X, "meta": META}, "gradcam", None)
    found = values(net, made)
    for i in range(3):
        rows = slice(i, i + 1)
        plain = Fixed(convnet(), META[rows])
        expected = values(plain, explain(plain, X[rows], "gradcam", None), rows)
        mine = {n: v if isinstance(v, str) else v[rows] for n, v in found.items()}
        assert_same_values(mine, expected)


# --- how inputs are given -------------------------------------------------------------------------


class OneDict(Holds):
    """Takes all its inputs in one dict."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["image"]) + batch["meta"].sum(1, keepdim=True)


class Shared(Holds):
    """Takes something that is the same for all images, and a keyword."""

    def forward(self, image: Tensor, table: Tensor, *, power: int) -> Tensor:
        return self.net(image) * table.sum() ** power


def test_inputs_by_place_by_name_or_in_one_dict():
    expected = explain(TwoInputs(convnet()), {"image": X, "meta": META}, "rise", 1)
    assert_same_map(explain(TwoInputs(convnet()), (X, META), "rise", 1, of=0), expected)
    inputs = ts.Inputs({"meta": META, "image": X})
    assert inputs.of == "image"
    assert_same_map(explain(TwoInputs(convnet()), inputs, "rise", 1), expected)
    one = explain(OneDict(convnet()), {"image": X, "meta": META}, "gradcam", 1)
    assert_same_map(one, explain(Holds(convnet()), X, "gradcam", 1))


@pytest.mark.parametrize("name", ["rise", "gradcam", "scorecam"])
def test_what_has_no_rows_passes_unchanged(name):
    table = torch.full((7, 2), 1 / 14)
    found = explain(
        Shared(convnet()), {"image": X, "table": table}, name, 1, forward_kwargs={"power": 2}
    )
    assert_same_map(found, explain(Holds(convnet()), X, name, 1))
    net = NetworkWrapper(Shared(convnet()).eval(), forward_kwargs={"power": 2})
    value = score(net, found, ["ad"])["ad"].summary().value
    plain = explain(Holds(convnet()), X, name, 1)
    assert value == pytest.approx(
        score(Holds(convnet()).eval(), plain, ["ad"])["ad"].summary().value, abs=1e-3
    )


class Prompts(Holds):
    """Compares images with texts: as many numbers an image as there are texts."""

    def forward(self, image: Tensor, texts: Tensor) -> Tensor:
        return self.net(image) @ texts.T


def test_rows_that_are_none_of_the_images_are_noticed():
    texts = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    given = {"image": X, "texts": texts}
    with pytest.raises(
        InputError, match=r"gives \(1,\) for one image and \(2,\) for two.*follows="
    ):
        ts.explain(Prompts(convnet()).eval(), given, "rise", 1, LAYER, chunk=2)
    inputs = ts.Inputs(given, follows=frozenset())
    found = explain(Prompts(convnet()), inputs, "rise", 1)
    plain = make_head(lambda w: texts @ w)
    plain.net.fc.bias = nn.Parameter(convnet().fc.bias.data @ texts.T)
    assert_same_map(found, explain(plain, X, "rise", 1))


class Packed(Holds):
    """Takes the other input packed in a dict or a list, or as a keyword."""

    def forward(self, image: Tensor, meta: Any) -> Tensor:
        rows = meta["rows"] if isinstance(meta, dict) else meta
        rows = torch.stack(rows) if isinstance(rows, list) else rows
        return self.net(image) * rows.sum(1, keepdim=True)


@pytest.mark.parametrize("pack", [lambda rows: {"rows": rows}, list], ids=["dict", "list"])
def test_rows_follow_in_dicts_and_lists(pack):
    net, rows = Packed(convnet()).eval(), META.exp()
    explain(net, {"image": X[:1], "meta": pack(rows[:1])}, "rise", 1)  # another batch, earlier
    found = ts.explain(net, {"image": X, "meta": pack(rows)}, quick("rise"), 1, LAYER, chunk=3)
    expected = ts.explain(net, {"image": X, "meta": rows}, quick("rise"), 1, LAYER, chunk=3)
    assert_same_map(found["rise"], expected["rise"])
    options = {"meta": pack(rows)}
    with pytest.raises(InputError, match=r"'meta' was given with a row for each of 3 images"):
        ts.explain(net, X, quick("rise"), 1, LAYER, chunk=3, forward_kwargs=options)


def test_rows_that_are_none_of_the_images_are_noticed_after_another_batch():
    net, texts = Prompts(convnet()).eval(), torch.ones(3, 5)
    ts.explain(net, {"image": X[:2], "texts": texts}, quick("rise"), 1, LAYER, chunk=2)
    with pytest.raises(InputError, match="for one image and"):
        ts.explain(net, {"image": X, "texts": texts}, quick("rise"), 1, LAYER, chunk=2)
    kept = ts.explain(net, X, quick("rise"), 1, LAYER, chunk=2, forward_kwargs={"texts": texts})
    assert len(kept["rise"]) == 3


def test_keyword_arguments_alone():
    class Scaled(Holds):
        def forward(self, x, *, scale):
            return scale * self.net(x)

    made = ts.explain(
        Scaled(convnet()).eval(), X, "scorecam", 1, LAYER, forward_kwargs={"scale": 1.0}
    )["scorecam"]
    assert_same_map(made, explain(Holds(convnet()), X, "scorecam", 1))
    wrapped = NetworkWrapper(Scaled(convnet()).eval(), forward_kwargs={"scale": 1.0})
    assert ts.default_layer(wrapped, X).name == ts.default_layer(Holds(convnet()).eval(), X).name


def test_what_cannot_be_known_is_asked_for():
    net = TwoInputs(convnet()).eval()
    with pytest.raises(InputError, match=r"'a' \[3, 3, 16, 16\], 'b' .*say of="):
        ts.explain(net, {"a": X, "b": X}, "gradcam")
    with pytest.raises(InputError, match="of='picture' was given, and the inputs are 'image'"):
        ts.explain(net, {"image": X, "meta": META}, "gradcam", of="picture")
    with pytest.raises(InputError, match="forward takes image, meta, scale, and image, mete were"):
        ts.explain(net, {"image": X, "mete": META}, "gradcam", layer=LAYER)


def test_copies_step_aside_once():
    net, given = TwoInputs(convnet()).eval(), {"image": X, "meta": META}
    plain = explain(net, given, "scorecam", 1)
    with accelerated("channels-last"):
        with pytest.warns(UserWarning, match="makes no use of its copy.*more than images"):
            found = explain(net, given, "scorecam", 1)
        explain(net, given, "rise", 1)
    assert_same_map(found, plain)


def test_a_slice_of_an_explanation_keeps_its_inputs():
    net = TwoInputs(convnet()).eval()
    made = explain(net, {"image": X, "meta": META}, "gradcam", None)
    names = ["ad", "insertion", "max-sensitivity"]
    whole, last = score(net, made, names), score(net, made[2], names)
    for name in names:
        assert float(last[name].per_image[0]) == pytest.approx(
            float(whole[name].per_image[2]), rel=1e-4
        )
    with pytest.raises(OptionError, match="no kind of scores"):
        ts.explain(net, {"image": X, "meta": META}, "gradcam", scores="soft-max")
