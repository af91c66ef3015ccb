"""Names and options, as strings or not, and what is said when they do not fit."""

from dataclasses import dataclass

import pytest

from nets import NAMES
from torchsaliency import MTSM, TSM, Needs, OptiCAM, OptionError, create, register
from torchsaliency.core import registry
from torchsaliency.core.explain import resolve_methods
from torchsaliency.core.method import ChannelCAM, Method
from torchsaliency.core.registry import entry, methods

FOURTEEN = {
    "cam", "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "scorecam", "ablationcam",
    "eigencam", "multivec-eigencam", "tsm", "mtsm", "opticam", "fakecam",
}  # fmt: skip


def test_both_papers_methods_are_there():
    assert set(NAMES) >= FOURTEEN


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_complete(name):
    made = create(name)
    assert made.name == name
    assert made.entry is methods()[name]
    assert made == create(name)
    assert made.options == dict(methods()[name].options)
    assert entry(name).summary.endswith(".")
    assert "Source:" in (entry(name).factory.__doc__ or "")
    assert entry(name).cite
    assert entry(name).family


def test_the_table_is_read_only():
    with pytest.raises(TypeError):
        methods()["mine"] = methods()["gradcam"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"iterations": "50"}, OptiCAM(iterations=50)),
        ({"iterations": 50, "learning_rate": "0.05"}, OptiCAM(iterations=50, learning_rate=0.05)),
        ({"rectified": "false", "keep": "best"}, OptiCAM(rectified=False, keep="best")),
        ({"tolerance": "1e-6"}, OptiCAM(tolerance=1e-6)),
    ],
)
def test_options_may_be_strings(options, expected):
    assert create("opticam", options) == expected


@pytest.mark.parametrize("rank", ["2,3,3", "[2, 3, 3]", (2, 3, 3), [2, 3, 3]])
def test_tuples(rank):
    assert create("tsm", {"multilinear_rank": rank}) == TSM((2, 3, 3))
    assert create("mtsm", {"multilinear_rank": rank}) == MTSM((2, 3, 3))


@pytest.mark.parametrize("none", [None, "null"])
def test_none(none):
    assert create("tsm", {"multilinear_rank": none}) == TSM()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("opticam", {"iteration": 3}, "iterations"),
        ("fakecam", {"x": 3}, "it has none"),
        ("opticam", {"iterations": "many"}, r"opticam\.iterations='many'"),
        ("opticam", {"iterations": 0}, "above 0"),
        ("opticam", {"learning_rate": "-1"}, "above 0"),
        ("opticam", {"solver": "sgd"}, "adam"),
        ("opticam", {"start": "tsm"}, "channel weights"),
        ("opticam", {"start": "nothing"}, "no method"),
        ("gradcam++", {"eps": 0}, "above 0"),
        ("tsm", {"multilinear_rank": "2,3"}, "multilinear_rank"),
        ("tsm", {"multilinear_rank": "2,0,3"}, "at least 1"),
        ("gradcam+", None, r"known are gradcam\+\+"),
        ("zzz", None, "known are"),
    ],
)
def test_what_does_not_fit(name, options, message):
    with pytest.raises(OptionError, match=message):
        create(name, options)


@pytest.fixture
def room(monkeypatch):
    monkeypatch.setattr(registry, "_table", dict(registry._table))


@pytest.mark.usefixtures("room")
def test_a_new_method_in_ten_lines():
    @register("brightest", family="cam", cite="me2025", needs=Needs.ACTIVATIONS)
    @dataclass(frozen=True)
    class Brightest(Method):
        """The largest feature at every position."""

        power: float = 1.0

        def saliency(self, view):
            return view.activations.amax(1) ** self.power

    assert create("brightest", {"power": "2"}) == Brightest(2.0)
    with pytest.raises(OptionError, match="registered already"):
        register("brightest", family="cam", cite="", needs=Needs.NOTHING)(Brightest)


@pytest.mark.usefixtures("room")
def test_an_option_without_default_fails_at_once():
    with pytest.raises(OptionError, match="has no default"):

        @register("broken", family="cam", cite="", needs=Needs.NOTHING)
        @dataclass(frozen=True)
        class Broken(ChannelCAM):
            """Has no default."""

            power: float

            def weights(self, view):
                return view.activations.sum((2, 3))

    assert "broken" not in methods()


def test_labels_of_ones_own():
    twice = resolve_methods({"short": OptiCAM(iterations=5), "long": "opticam"})
    assert list(twice) == ["short", "long"]
    assert twice["long"] == OptiCAM()
    assert list(resolve_methods(["tsm", OptiCAM()])) == ["tsm", "opticam"]
    with pytest.raises(OptionError, match="different names"):
        resolve_methods(["tsm", TSM((1, 1, 1))])
