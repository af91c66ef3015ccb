"""Accelerated passes: the same numbers, the user's network untouched, hooks respected."""

from __future__ import annotations

import copy
import shutil
import time
import warnings
from collections import deque
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import torchsaliency
from nets import convnet, images, run_accelerated
from torchsaliency import create, explain
from torchsaliency.core.acceleration import ENGINES, auto, cache, engine, onnx, stand_in
from torchsaliency.core.acceleration.engine import Engine, lay_out, register_engine
from torchsaliency.core.acceleration.onnx import missing_packages
from torchsaliency.core.freeze import frozen_eval
from torchsaliency.core.layer import Layer
from torchsaliency.core.method import Needs, methods
from torchsaliency.core.session import call_network
from torchsaliency.errors import OptionError
from torchsaliency.measures import masked_maps, masked_scores, noisy_maps, perturbation_curve

MANY = ("scorecam", "rise", "occlusion", "ablationcam", "opticam")
FEW = {"rise": {"samples": 40}, "opticam": {"iterations": 5}}
needs_onnx = pytest.mark.skipif(
    bool(missing_packages()), reason="needs the extra torchsaliency[onnx]"
)

EXACT = ("channels-last", "auto")


@pytest.fixture
def net():
    return convnet()


@pytest.fixture(scope="module")
def x():
    return images(3, 16, 16)


@pytest.mark.parametrize("mode", [*EXACT, pytest.param("onnx", marks=needs_onnx)])
@pytest.mark.parametrize("name", MANY)
def test_methods_give_the_same_maps(net, x, name, mode):
    method = create(name, FEW.get(name))
    plain = explain(net, x, method)[name]
    quick = explain(net, x, method, accelerate=mode)[name]
    assert torch.allclose(plain.map, quick.map, atol=1e-4)
    assert plain.passes == quick.passes


@pytest.mark.parametrize("mode", [*EXACT, pytest.param("onnx", marks=needs_onnx)])
def test_measures_give_the_same_numbers(net, x, mode):
    maps = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    curve, scores = perturbation_curve(net, x, maps), masked_scores(net, x, maps)
    with torchsaliency.accelerated(mode):
        quick, masked = perturbation_curve(net, x, maps), masked_scores(net, x, maps)
    assert torch.allclose(curve.probabilities, quick.probabilities, atol=1e-4)
    assert torch.allclose(scores.masked, masked.masked, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_passes_are_the_same(x):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    method = create("rise", {"samples": 100})
    plain = explain(net, x, method, layer="1")["rise"]
    quick = explain(net, x, method, layer="1", accelerate="compile")["rise"]
    assert torch.allclose(plain.map, quick.map, atol=1e-4)
    (made,) = engines(net)
    assert made.faithful


def test_bf16_is_near_and_only_when_asked_for(net, x):
    method = create("rise", {"samples": 100})
    plain = explain(net, x, method)["rise"].map
    rounded = explain(net, x, method, accelerate="bf16")["rise"].map
    assert not torch.equal(plain, rounded)
    assert torch.allclose(plain, rounded, atol=0.05)


def test_the_network_is_untouched(net, x):
    before = copy.deepcopy(net.state_dict())
    strides = [one.stride() for one in net.parameters()]
    explain(net, x, "scorecam", accelerate="channels-last")
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    assert [one.stride() for one in net.parameters()] == strides
    assert all(one.requires_grad for one in net.parameters())


def test_new_weights_make_a_new_copy(net, x):
    explain(net, x, "scorecam", accelerate="channels-last")
    with torch.no_grad():
        net.fc.weight.mul_(-1)
    plain = explain(net, x, "scorecam")["scorecam"].map
    assert torch.allclose(
        explain(net, x, "scorecam", accelerate="channels-last")["scorecam"].map, plain, atol=1e-4
    )


@pytest.mark.parametrize("name", ["off", "channels-last", "bf16"])
def test_an_engines_copy_gives_the_networks_output(net, x, name):
    made = ENGINES.get(name).factory(call_network, net)
    found, off = made.run_copy(x), made.tolerance
    torch.testing.assert_close(found.float(), made.copy(x), atol=off, rtol=off)
    torch.testing.assert_close(made.copy(x), net.eval()(x))


class Scaled(nn.Module):
    """Has a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = convnet(), torch.ones(1)

    def forward(self, x):
        return self.inner(x) * self.scale


def test_a_tensor_that_changes_makes_a_new_copy_though_it_is_no_buffer(x):
    net, found = Scaled().eval(), []
    with torchsaliency.accelerated("channels-last"), torch.no_grad():
        for _ in range(2):
            with frozen_eval(net, x.device):
                run_accelerated(net, x)
                found.append(run_accelerated(net, x))
            net.scale.mul_(-2)
    torch.testing.assert_close(found[1], -2 * found[0])


class Tallying(nn.Module):
    """Counts its passes in a buffer and keeps the last of its outputs."""

    def __init__(self):
        super().__init__()
        self.inner = convnet()
        self.register_buffer("passes", torch.zeros(()))
        self.last = None

    def forward(self, x):
        self.passes += 1
        self.last = self.inner(x)
        return self.last


def test_what_passes_write_makes_no_new_copy(x, monkeypatch):
    copies = []

    def make(network):
        copies.append(network)
        return lay_out(network)

    monkeypatch.setattr(engine, "lay_out", make)
    net = Tallying()
    with (
        torchsaliency.accelerated("channels-last"),
        frozen_eval(net, x.device),
        torch.no_grad(),
    ):
        found = [run_accelerated(net, x) for _ in range(3)]
    torch.testing.assert_close(found[2], found[0])
    assert copies == [net]


def test_a_network_that_carries_hooks_runs_itself(net, x):
    seen = []
    handle = net.relu2.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    rise = create("rise", {"samples": 16})
    made = explain(net, x, rise, layer="relu3", accelerate="channels-last")["rise"]
    handle.remove()
    assert sum(seen) == made.passes  # every pass was the network's own


class Layouts(nn.Module):
    """Says something else when its input is laid out otherwise."""

    def __init__(self):
        super().__init__()
        self.inner = convnet()

    def forward(self, x):
        odd = not x.is_contiguous()
        return self.inner(x) + (1.0 if odd else 0.0) * torch.arange(5)


def test_a_copy_that_says_something_else_is_not_used(x):
    net = Layouts()
    plain = explain(net, x, "scorecam", layer="inner.relu2")["scorecam"].map
    with pytest.warns(UserWarning, match="Layouts.*not the network's own"):
        quick = explain(net, x, "scorecam", layer="inner.relu2", accelerate="channels-last")
    assert torch.allclose(plain, quick["scorecam"].map, atol=1e-5)
    (made,) = engines(net)
    assert made.faithful is False


def test_a_compiler_that_fails_is_told_once(net, x, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("no C++ compiler\nand so on")

    monkeypatch.setattr(torch, "compile", broken)
    plain = explain(net, x, "scorecam")["scorecam"].map
    with pytest.warns(UserWarning, match="'compile'.*no C\\+\\+ compiler.") as told:
        quick = explain(net, x, "scorecam", accelerate="compile")["scorecam"].map
    explain(net, x, "scorecam", accelerate="compile")  # a second warning would be an error
    assert torch.equal(plain, quick)
    assert len(told) == 1


def test_a_copy_without_memory_is_no_failure(net, x, monkeypatch):
    def tight(module, **_options):
        def run(images):
            if len(images) > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return module(images)

        return run

    monkeypatch.setattr(torch, "compile", tight)
    plain = explain(net, x, "scorecam")["scorecam"].map
    quick = explain(net, x, "scorecam", chunk=8, accelerate="compile")["scorecam"].map
    torch.testing.assert_close(plain, quick, atol=1e-4, rtol=1e-4)
    (made,) = engines(net)
    assert made.faithful


class Wrapped(nn.Module):
    """Gives its scores as a model of Hugging Face does."""

    def __init__(self):
        super().__init__()
        self.inner = convnet()

    def forward(self, x):
        return {"logits": self.inner(x)}


def test_scores_inside_an_output_object_are_accelerated(x):
    net = Wrapped()
    plain = explain(net, x, "scorecam", layer="inner.relu2")["scorecam"].map
    quick = explain(net, x, "scorecam", layer="inner.relu2", accelerate="channels-last")
    assert torch.allclose(plain, quick["scorecam"].map, atol=1e-4)
    (made,) = engines(net)
    assert made.faithful


@pytest.mark.parametrize("mode", [*EXACT, "compile"])
@pytest.mark.parametrize("name", ["gradcam", "scorecam"])
def test_maps_made_again_run_the_copy(net, x, name, mode, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    method = create(name)
    made = explain(net, x, method)[name]
    plain = noisy_maps(net, made, samples=3)
    masked = masked_maps(net, made)
    with torchsaliency.accelerated(mode):
        quick = noisy_maps(net, made, samples=3, layer=net.relu3)
        again = masked_maps(net, made)
        copies = [one for one in engines(net) if one.faithful]
    assert torch.allclose(plain.noisy_maps, quick.noisy_maps, atol=1e-3)
    assert torch.allclose(masked.masked_maps, again.masked_maps, atol=1e-3)
    assert torch.allclose(masked.output, again.output, atol=1e-4)
    if mode != "auto":  # which decides by the clock
        assert any(one.name == "channels-last" for one in copies)
        assert not any(one.copy in cache._kept for one in copies)  # no copies of copies


def test_compiled_batches_have_one_size_and_little_padding(net, monkeypatch):
    ran = []

    def compiled(module, **_options):
        return lambda images: ran.append(len(images)) or module(images)

    monkeypatch.setattr(torch, "compile", compiled)
    x = images(41, 16, 16)
    with torchsaliency.accelerated("compile"), torch.no_grad():
        found = [run_accelerated(net.eval(), x[:count]) for count in (29, 41, 3)]
    assert ran == [16, 16, 16, 16, 16, 16]  # 29, 41 and 3 images
    for part in found:
        torch.testing.assert_close(part, net(x[: len(part)]), atol=1e-4, rtol=1e-4)


# --- ONNX Runtime ---------------------------------------------------------------------------------


class Beside(nn.Module):
    """What follows the first layer reads the image again: it knows more than the layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc((self.first(x).relu() + self.second(x)).mean((2, 3)))


def readers(net):
    return [one for one in cache._kept.get(net, {}).values() if isinstance(one, onnx.LayerReader)]


def engines(net):
    return [one for one in cache._kept.get(net, {}).values() if isinstance(one, Engine)]


@needs_onnx
def test_maps_made_again_take_the_layer_from_onnx(net, x):
    more = Needs.PASSES | Needs.ATTENTION
    names = [name for name, entry in methods().items() if not entry.needs & more]
    assert {"gradcam", "layercam", "tsm", "normgrad"} <= set(names)
    for name, made in explain(net, x, names).items():
        plain, masked = noisy_maps(net, made, samples=3), masked_maps(net, made)
        with torchsaliency.accelerated("onnx"):
            quick, again = noisy_maps(net, made, samples=3), masked_maps(net, made)
        assert torch.allclose(plain.noisy_maps, quick.noisy_maps, atol=1e-3), name
        assert torch.allclose(masked.masked_maps, again.masked_maps, atol=1e-3), name
        assert torch.allclose(masked.output, again.output, atol=1e-4), name
    (reader,) = readers(net)
    assert reader.faithful
    assert not engines(net)  # nothing else was needed


@needs_onnx
def test_a_tail_that_reads_more_than_the_layer_runs_channels_last(x):
    net = Beside()
    made = explain(net, x, "gradcam", layer="first")["gradcam"]
    plain = noisy_maps(net, made, samples=2)
    with torchsaliency.accelerated("onnx"):
        quick = noisy_maps(net, made, samples=2)
    assert torch.allclose(plain.noisy_maps, quick.noisy_maps, atol=1e-3)
    (reader,) = readers(net)
    assert not reader.faithful
    (made,) = engines(net)
    assert made.name == "channels-last"


@needs_onnx
def test_gradients_of_the_image_pass_a_reader(net, x):
    with torchsaliency.accelerated("onnx"), torch.no_grad():
        copied = stand_in(call_network, net.eval(), x, [Layer("relu2")])
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(copied(leaf).sum(), leaf)
    (own,) = torch.autograd.grad(net(leaf).sum(), leaf)
    torch.testing.assert_close(found, own, atol=1e-4, rtol=1e-4)


@needs_onnx
def test_passes_with_a_graph_run_channels_last(net, x):
    method = create("opticam", {"iterations": 5})
    plain = explain(net, x, method)["opticam"].map
    quick = explain(net, x, method, accelerate="onnx")["opticam"].map
    assert torch.allclose(plain, quick, atol=1e-4)
    (made,) = engines(net)
    assert made.name == "channels-last"


@needs_onnx
def test_one_session_serves_batches_of_all_sizes(net, monkeypatch):
    sessions = []
    real = onnx.ExportedNetwork

    def counted(*arguments):
        sessions.append(real(*arguments))
        return sessions[-1]

    monkeypatch.setattr(onnx, "ExportedNetwork", counted)
    x = images(41, 16, 16)
    with torchsaliency.accelerated("onnx"), torch.no_grad():
        found = [run_accelerated(net.eval(), x[:count]) for count in (1, 41, 3)]
    for part in found:
        torch.testing.assert_close(part, net(x[: len(part)]), atol=1e-4, rtol=1e-4)
    assert len(sessions) == 1


class Counting(nn.Module):
    """Looks at its numbers to decide what to do, which no graph can say."""

    def __init__(self):
        super().__init__()
        self.inner = convnet()

    def forward(self, x):
        out = self.inner(x)
        return out * 2 if float(out.sum()) > 0 else out * 3


@needs_onnx
def test_a_network_that_cannot_be_exported_runs_itself(x):
    net = Counting()
    plain = explain(net, x, "scorecam", layer="inner.relu2")["scorecam"].map
    with pytest.warns(UserWarning, match="'onnx' makes no use of its copy of Counting") as told:
        quick = explain(net, x, "scorecam", layer="inner.relu2", accelerate="onnx")["scorecam"]
    explain(net, x, "scorecam", layer="inner.relu2", accelerate="onnx")  # warned once
    assert torch.equal(plain, quick.map)
    assert len(told) == 1


@needs_onnx
def test_double_networks_run_somewhere(net, x):
    """Not every build of ONNX Runtime convolves doubles: its copy or the network, both right."""
    double = net.double()
    plain = explain(double, x.double(), "scorecam")["scorecam"].map
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quick = explain(double, x.double(), "scorecam", accelerate="onnx")["scorecam"].map
    torch.testing.assert_close(plain, quick, atol=1e-4, rtol=1e-4)


@needs_onnx
def test_memory_that_ends_in_a_session_halves_the_chunk(net, x, monkeypatch):
    real = onnx.ExportedNetwork

    class Tight:
        def __init__(self, *arguments):
            self.inner = real(*arguments)

        def __call__(self, given):
            if len(given) > 2:
                raise MemoryError("Failed to allocate memory for requested buffer of size 9")
            return self.inner(given)

    monkeypatch.setattr(onnx, "ExportedNetwork", Tight)
    plain = explain(net, x, "scorecam")["scorecam"].map
    quick = explain(net, x, "scorecam", chunk=8, accelerate="onnx")["scorecam"].map
    torch.testing.assert_close(plain, quick, atol=1e-4, rtol=1e-4)


def test_without_its_packages_the_mode_says_what_to_install(net, x, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"torchsaliency\[onnx\]"):
        explain(net, x, "scorecam", accelerate="onnx")


@needs_onnx
def test_a_session_is_for_processors(net):
    elsewhere = torch.zeros(1, 3, 16, 16, device="meta")
    with torchsaliency.accelerated("onnx"):
        with pytest.raises(OptionError, match="meta"):
            run_accelerated(net, elsewhere)
        with pytest.raises(OptionError, match="meta"):
            stand_in(call_network, net, elsewhere, [Layer("relu2")])


class Attending(nn.Module):
    """Patches that attend to each other by torch's own layer."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


class Products(TorchDispatchMode):
    """Counts batched matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.bmm.default
        return function(*args, **(kwargs or {}))


def test_attention_of_a_copy_projects_all_positions_at_once(x):
    net = Attending().eval().requires_grad_(False)
    leaf, counts, slopes = x.clone().requires_grad_(), [], []
    with torchsaliency.accelerated("channels-last"):
        copied = stand_in(call_network, net, x)
    assert copied is not net
    for one in (net, copied):
        with Products() as products:
            (slope,) = torch.autograd.grad(one(leaf).sum(), leaf)
        with torch.no_grad():
            torch.testing.assert_close(one(x), net(x))
        counts.append(products.count)
        slopes.append(slope)
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-4)
    assert counts[1] < counts[0]
    assert type(net.attention) is nn.MultiheadAttention  # the user's own is as it was


class Slow(nn.Module):
    """Counts its own passes, and takes its time where no exporter looks on."""

    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 4, 3), deque()  # lists are given back

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.seen.append(len(x))
            time.sleep(0.05)
        return self.conv(x).relu().mean((2, 3))


def passes(net, x, count=4):
    with torchsaliency.accelerated("auto"), frozen_eval(net, x.device):
        return [run_accelerated(net, x) for _ in range(count)]


@needs_onnx
def test_auto_goes_over_to_onnx_when_passes_took_long(x, monkeypatch):
    monkeypatch.setattr(auto, "_PATIENCE", 0.12)
    net = Slow().eval()
    found = passes(net, x, 6)
    (made,) = engines(net)
    assert isinstance(made.compiled, onnx.ExportedNetwork)
    seen = len(net.seen) + (len(made.copy.seen) if made.faithful else 0)
    found += passes(net, x)
    # one pass for the four, in which the export is compared with the network
    assert len(net.seen) + (len(made.copy.seen) if made.faithful else 0) == seen + 1
    for one in found:
        torch.testing.assert_close(one, net(x), atol=1e-4, rtol=1e-4)
    assert passes(net, x[:1])[0].shape == (1, 4)  # any batch
    net.conv.weight.data.mul_(3)  # counted by nobody
    torch.testing.assert_close(passes(net, x)[0], net(x), atol=1e-4, rtol=1e-4)
    with torchsaliency.accelerated("auto"):
        assert run_accelerated(
            net, x.clone().requires_grad_()
        ).requires_grad  # and graphs where wanted


def test_auto_tries_no_export_on_a_short_errand(net, x, monkeypatch):
    monkeypatch.setattr(onnx, "ExportedNetwork", lambda *_: pytest.fail("exported"))
    passes(net.eval(), x, 10)


@needs_onnx
@pytest.mark.parametrize("lack", ["packages", "export", "speed", "numbers"])
def test_auto_stays_where_onnx_is_no_help(x, monkeypatch, lack):
    monkeypatch.setattr(auto, "_PATIENCE", 1e-6)
    net, tried = Slow().eval(), []

    def session(*_):
        tried.append(lack)
        if lack == "export":
            raise RuntimeError("no such operator")
        if lack == "speed":
            return lambda images: (time.sleep(0.5), net(images))[1]
        return lambda images: torch.zeros(len(images), 4)

    monkeypatch.setattr(onnx, "ExportedNetwork", session)
    if lack == "packages":
        monkeypatch.setattr(onnx, "missing_packages", lambda: ["onnx"])
    with torch.no_grad():
        own = net(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in passes(net, x):
            torch.testing.assert_close(one, own, atol=1e-4, rtol=1e-4)
    (made,) = engines(net)
    assert made.compiled is None
    assert tried == ([] if lack == "packages" else [lack])  # once


class Several(nn.Sequential):
    """Gives a list, as detectors do."""

    def forward(self, x):
        return [{"scores": super().forward(x).mean((2, 3))}]


def test_auto_leaves_a_network_alone_that_gives_no_tensor(x, monkeypatch):
    monkeypatch.setattr(auto, "_PATIENCE", 1e-6)
    monkeypatch.setattr(onnx, "ExportedNetwork", lambda *_: pytest.fail("exported"))
    net = Several(nn.Conv2d(3, 4, 3)).eval()
    with pytest.warns(UserWarning, match="not one tensor"):
        found = passes(net, x)
    with torch.no_grad():
        own = net(x)
    for (one,) in found:
        torch.testing.assert_close(one["scores"], own[0]["scores"])


@pytest.mark.parametrize(("chunk", "batch"), [(4, 4), (40, 16)])
def test_a_compiled_batch_is_as_large_as_later_passes(net, monkeypatch, chunk, batch):
    """The clean image comes first and alone: a batch of one would make all later passes slow."""
    ran = []

    def compiled(module, **_options):
        return lambda images: ran.append(len(images)) or module(images)

    monkeypatch.setattr(torch, "compile", compiled)
    x = images(1, 16, 16)
    maps = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = perturbation_curve(net, x, maps, step=8, chunk=chunk)
    with torchsaliency.accelerated("compile"):
        quick = perturbation_curve(net, x, maps, step=8, chunk=chunk)
    assert torch.allclose(plain.probabilities, quick.probabilities, atol=1e-4)
    assert set(ran) == {batch}


def test_an_unknown_mode(net, x):
    with pytest.raises(OptionError, match="channels-last"):
        explain(net, x, "gradcam", accelerate="warp")


def test_the_page_on_speed_tells_of_every_engine():
    page = (Path(__file__).parents[3] / "docs" / "speed.md").read_text(encoding="utf-8")
    assert [name for name in ENGINES if f"| `{name}` |" not in page] == []


@pytest.mark.usefixtures("registries")
def test_an_engine_from_outside_runs(net, x):
    class Doubtful(Engine):
        """Halves the images and puts the halves together again."""

        runs = 0

        def run_copy(self, given):
            Doubtful.runs += 1
            return torch.cat([self.call(self.copy, part) for part in given.split(1)])

    register_engine("doubtful")(Doubtful)
    plain = explain(net, x, "scorecam")["scorecam"].map
    quick = explain(net, x, "scorecam", accelerate="doubtful")["scorecam"].map
    torch.testing.assert_close(plain, quick, atol=1e-4, rtol=1e-4)
    assert Doubtful.runs
