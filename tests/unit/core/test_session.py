"""One place in the library calls a network; sessions count, chunk and freeze."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import torchsaliency
from nets import convnet, images
from torchsaliency.core.session import call_network, open_session
from torchsaliency.errors import InputError, TargetError

SOURCE = Path(torchsaliency.__file__).parent

NETWORKS = {
    *("net", "network", "model", "module", "backbone", "encoder", "copy", "copied"),
    *("classifier", "original", "wrapped", "student", "teacher"),
}
"""What a network is called in the library."""

ALLOWED = {
    "core/session.py": "the one place",
    "zoo/sources/huggingface.py": "a text encoder, which sees no images and is not explained",
    "training/loop.py": "a network that learns runs in training mode, with gradients of its "
    "weights and statistics that move: a session exists to prevent just that",
    **dict.fromkeys(
        ("compat/torchcam/explain.py", "compat/torchcam/metrics.py"),
        "torchcam's extractors read a pass that their caller runs",
    ),
}
"""Files that call a network, each with its reason."""


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr.lstrip("_")
    return function.id if isinstance(function, ast.Name) else ""


class Calls(ast.NodeVisitor):
    """Finds calls of networks, but for those in the `forward` of a module, which is a network."""

    def __init__(self):
        self.lines = []

    def visit_ClassDef(self, node):
        modules = {"Module", "NetworkWrapper"}
        self.generic_visit(node) if not modules & {*map(name_of, node.bases)} else [
            self.visit(part)
            for part in node.body
            if not (isinstance(part, ast.FunctionDef) and part.name == "forward")
        ]

    def visit_Call(self, node):
        if name_of(node.func) in NETWORKS and (node.args or node.keywords):  # not dict.copy()
            self.lines.append(node.lineno)
        self.generic_visit(node)


def calls_of(text):
    visitor = Calls()
    visitor.visit(ast.parse(text))
    return visitor.lines


def test_one_file_calls_networks():
    found = {}
    for path in SOURCE.rglob("*.py"):
        lines = calls_of(path.read_text(encoding="utf-8"))
        if lines:
            found[path.relative_to(SOURCE).as_posix()] = lines
    assert {*found} <= {*ALLOWED}, found
    assert len(found["core/session.py"]) == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("def f(net, x): return net(x)", 1),
        ("class A:\n def f(self, x): return self._net(x)", 1),
        ("class A(nn.Module):\n def forward(self, x): return self.net(x)", 0),
        ("class A(nn.Module):\n def f(self, x): return self.net(x)", 1),
        ("call_network(net, x)", 0),
    ],
)
def test_the_search_finds_calls(text, count):
    assert len(calls_of(text)) == count


def test_passes_are_counted_and_the_network_is_frozen():
    net, x = convnet().train(), images(3)
    with open_session(net, x, chunk=2) as session:
        assert not net.training
        assert session.run(x).shape == session.run_accelerated(x).shape == (3, 5)
        found = session.run_variants(5, lambda index: x[index % 3])
        torch.testing.assert_close(found, session.run(x)[[0, 1, 2, 0, 1]])
        assert session.passes == 3 + 3 + 5 + 3
        assert session.chunk == 2
    assert net.training


def test_variants_need_one_tensor():
    class Detector(nn.Module):
        def forward(self, x):
            return [{"scores": row.sum()} for row in x]

    with open_session(Detector(), images(2)) as session, pytest.raises(TargetError, match="tensor"):
        session.run_variants(2, lambda index: images(2)[index])


def test_a_network_that_ends_the_program_is_an_error():
    def ends(_):
        raise SystemExit(3)

    with pytest.raises(InputError, match="exit code 3"):
        call_network(ends, images(1))


def test_what_a_pass_leaves_in_lists_is_taken_out_even_of_one_that_holds_itself():
    net = convnet()
    net.notes = [[]]
    net.notes.append(net.notes)
    net.register_forward_pre_hook(lambda module, _: module.notes[0].append("a pass"))
    with open_session(net, images(1)) as session:
        session.run(images(1))
    assert net.notes[0] == []
    assert net.notes[1] is net.notes


@pytest.mark.parametrize("chunk", [None, 2])
def test_images_that_mix_in_a_batch_run_one_by_one(chunk):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with open_session(net, images(3), chunk=chunk) as session:
        assert session.chunk == 1
