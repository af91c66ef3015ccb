"""Names and options, as strings or not, and what is said when they do not fit."""

import importlib
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from nets import NAMES
from torchsaliency import MTSM, TSM, Needs, OptiCAM, OptionError, create, register, registry
from torchsaliency.core.explain import resolve_methods
from torchsaliency.core.method import METHODS, ChannelCAM, Method, methods

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
    assert made.entry == methods()[name]
    assert made == create(name)
    assert made.options == dict(methods()[name].options)
    assert METHODS.get(name).summary.endswith(".")
    assert "Source:" in (METHODS.get(name).factory.__doc__ or "")
    assert METHODS.get(name).cite
    assert METHODS.get(name).family


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
        ("tsm", {"multilinear_rank": "2,3,3,3,3"}, "multilinear rank"),
        ("tsm", {"multilinear_rank": "2,0,3"}, "at least 1"),
        ("gradcam+", None, r"close names are gradcam\+\+"),
        ("zzz", None, "known are"),
    ],
)
def test_what_does_not_fit(name, options, message):
    with pytest.raises(OptionError, match=message):
        create(name, options)


@pytest.mark.usefixtures("registries")
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


@pytest.mark.usefixtures("registries")
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


METHOD = """
from dataclasses import dataclass
from torchsaliency import Needs, register
from torchsaliency.core.method import Method

@register({name!r}, family="cam", cite="", needs=Needs.ACTIVATIONS)
@dataclass(frozen=True)
class Plugged(Method):
    \"\"\"The largest feature.\"\"\"

    def saliency(self, view):
        return view.activations.amax(1)
"""

BROKEN = {
    "raises on import": "raise RuntimeError('no licence')",
    "raises after it registered": METHOD.format(name="half") + "\nraise RuntimeError('late')",
    "exits": "raise SystemExit(3)",
    "raises beyond errors": "class Stop(BaseException): pass\nraise Stop",
    "no text": "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "many lines": "raise RuntimeError('one\\ntwo\\nthree')",
    "misses a package": "import a_package_that_is_not_there",
    "syntax": "def (",
    "a taken name": METHOD.format(name="gradcam"),
    "a taken name after another": METHOD.format(name="half") + METHOD.format(name="opticam"),
    "registers no method": (
        "from dataclasses import dataclass\n"
        "from torchsaliency import Needs, register\n"
        "@register('half', family='cam', cite='', needs=Needs.NOTHING)\n"
        "@dataclass(frozen=True)\n"
        "class Thing:\n    'Is no method.'\n"
    ),
    "registers a function": (
        "from torchsaliency import Needs, register\n"
        "register('half', family='cam', cite='', needs=Needs.NOTHING)(print)"
    ),
}
OBJECTS = [
    "plugin_x:VALUE",
    "plugin_x:missing",
    "plugin_x:function",
    "no_such_module",
    "not valid",
    "",
]


OWN = set(methods())


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    """Return a function that loads the methods anew with plug-ins, and what it warned of."""
    monkeypatch.setattr(METHODS, "_loaded", False)
    monkeypatch.setattr(METHODS, "_table", dict(METHODS._table))
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def load(*points, **files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        found = [EntryPoint(name, value, METHODS.group) for name, value in points]
        monkeypatch.setattr(
            registry.metadata, "entry_points", lambda group: found if group == METHODS.group else []
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            names = set(methods())
        assert all(issubclass(warning.category, UserWarning) for warning in caught)
        return names, [str(warning.message) for warning in caught]

    yield load
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_named_and_left_out(kind, plugins):
    names, warned = plugins(
        ("first", "plugin_a"),
        ("mine", "plugin_broken"),
        ("last", "plugin_z"),
        plugin_a=METHOD.format(name="plugged-a"),
        plugin_broken=BROKEN[kind],
        plugin_z=METHOD.format(name="plugged-z"),
    )
    assert len(warned) == 1
    assert warned[0].startswith("The plug-in mine = plugin_broken was left out (")
    assert warned[0].endswith("; update it, or uninstall it.")
    assert "\n" not in warned[0]
    assert names == OWN | {"plugged-a", "plugged-z"}
    assert create("gradcam").entry.factory.__module__.startswith("torchsaliency.")
    assert create("plugged-z") == create("plugged-z")


@pytest.mark.parametrize("value", OBJECTS)
def test_an_entry_point_of_another_kind_is_named(value, plugins):
    text = METHOD.format(name="half") + "\nVALUE = 3\ndef function(): pass"
    names, warned = plugins(("mine", value), plugin_x=text)
    assert len(warned) == 1
    assert f"mine = {value} was left out" in warned[0]
    assert names == OWN


@pytest.mark.parametrize("value", ["plugin_a", "plugin_a:Plugged", "plugin_package.inner"])
def test_a_working_plugin(value, plugins, tmp_path):
    (tmp_path / "plugin_package").mkdir()
    (tmp_path / "plugin_package" / "inner.py").write_text(METHOD.format(name="plugged-a"))
    names, warned = plugins(("mine", value), plugin_a=METHOD.format(name="plugged-a"))
    assert (names, warned) == (OWN | {"plugged-a"}, [])


def test_a_plugin_that_a_broken_one_imports_works(plugins):
    names, warned = plugins(
        ("broken", "plugin_b"),
        ("works", "plugin_a"),
        plugin_b="import plugin_a\n" + METHOD.format(name="half") + "\nraise RuntimeError",
        plugin_a=METHOD.format(name="plugged-a"),
    )
    assert names == OWN | {"plugged-a"}
    assert len(warned) == 1


def test_an_interrupt_passes_and_the_next_call_loads_all(plugins, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        plugins(
            ("slow", "plugin_a"),
            ("last", "plugin_z"),
            plugin_a=METHOD.format(name="plugged-a") + "\nraise KeyboardInterrupt",
            plugin_z=METHOD.format(name="plugged-z"),
        )
    (tmp_path / "plugin_a.py").write_text(METHOD.format(name="plugged-longer"))
    assert set(methods()) == OWN | {"plugged-longer", "plugged-z"}


@pytest.mark.usefixtures("plugins")
def test_a_warning_that_is_an_error_comes_after_all_are_loaded(tmp_path, monkeypatch):
    points = [
        EntryPoint("broken", "no_such_module", METHODS.group),
        EntryPoint("works", "plugin_a", METHODS.group),
    ]
    (tmp_path / "plugin_a.py").write_text(METHOD.format(name="plugged-a"))
    monkeypatch.setattr(
        registry.metadata, "entry_points", lambda group: points if group == METHODS.group else []
    )
    with pytest.raises(UserWarning, match="broken = no_such_module"):
        methods()
    assert set(methods()) == OWN | {"plugged-a"}


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("torchsaliency.evaluation", "table"),
        ("torchsaliency.evaluation", "render"),
        ("torchsaliency.methods.attention", "TIBAV"),
        ("torchsaliency.methods.attribution", "DeepLIFT"),
    ],
)
def test_a_moved_name_is_found_with_a_warning(package, name):
    module = importlib.import_module(package)
    with pytest.warns(DeprecationWarning, match=rf"^{package}\.{name} is torchsaliency\..* now"):
        found = getattr(module, name)
    assert found.__name__ == name
    assert name not in module.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
