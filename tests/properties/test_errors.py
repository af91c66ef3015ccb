"""Every mistake gets one sentence, of the right kind, and leaves the network alone.

The calls are made in a process of their own, because the type checks that pytest switches on would
catch most of these mistakes before the library can answer as it does for a user.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sharing import compute_once

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import random, torch, nets, torchsaliency
from torchsaliency import Layer, Tokens

net, x = nets.convnet(), nets.images(2)
twice = nets.settle(nets.Twice())
nan = x.clone(); nan[0, 0, 0, 0] = float("nan")
inf = x.clone(); inf[1, 0, 0, 0] = float("inf")
with torch.inference_mode():
    inferring = nets.convnet()

CASES = {
    "3-D": (net, x[0], {}),
    "2-D": (net, x[0, 0], {}),
    "no images": (net, x[:0], {}),
    "no pixels": (net, x[:, :, :0], {}),
    "uint8": (net, (x * 255).to(torch.uint8), {}),
    "int64": (net, x.long(), {}),
    "nan": (net, nan, {}),
    "inf": (net, inf, {}),
    "chunk": (net, x, {"chunk": 0}),
    "class too large": (net, x, {"target": 5}),
    "class negative": (net, x, {"target": -1}),
    "too few classes": (net, x, {"target": [1]}),
    "too many classes": (net, x, {"target": [1, 2, 3]}),
    "float classes": (net, x, {"target": [1.0, 2.0]}),
    "float class": (net, x, {"target": 1.5}),
    "bool classes": (net, x, {"target": [True, False]}),
    "bool tensor": (net, x, {"target": torch.tensor([True, False])}),
    "float tensor": (net, x, {"target": torch.tensor([1.0, 2.0])}),
    "names": (net, x, {"target": ["cat", "dog"]}),
    "matrix of classes": (net, x, {"target": torch.zeros(2, 2, dtype=torch.long)}),
    "callable: matrix": (net, x, {"target": lambda y: y}),
    "callable: one number": (net, x, {"target": lambda y: y.sum()}),
    "callable: no tensor": (net, x, {"target": lambda y: 3.0}),
    "callable: too many": (net, x, {"target": lambda y: torch.cat([y[:, 0], y[:, 0]])}),
    "dense output": (torch.nn.Sequential(net.conv1), x, {"layer": "0"}),
    "unknown layer": (net, x, {"layer": "relu33"}),
    "empty layer": (net, x, {"layer": ""}),
    "flat layer": (net, x, {"layer": "fc"}),
    "foreign module": (net, x, {"layer": torch.nn.ReLU()}),
    "root module": (net, x, {"layer": net}),
    "no layers": (net, x, {"layer": []}),
    "a layer twice": (net, x, {"layer": ["relu3", net.relu3]}),
    "ran twice": (twice, x, {"layer": "conv"}),
    "did not run": (twice, x, {"layer": "idle"}),
    "wrong layout": (nets.tiny_vit(), nets.images(1, 32, 32),
                     {"layer": Layer("blocks.1", Tokens(3))}),
    "inference network": (inferring, x, {}),
    "no method": (net, x, {"methods": []}),
    "unknown method": (net, x, {"methods": "gradcamm"}),
    "a method twice": (net, x, {"methods": ["gradcam", "gradcam"]}),
}

def answer(model, images, call):
    before, pixels, python = nets.state_of(model), images.clone(), random.getstate()
    try:
        torchsaliency.explain(model, images, **{"methods": "gradcam", **call})
    except Exception as error:
        nets.assert_same_state(before, nets.state_of(model))
        assert random.getstate() == python
        assert torch.equal(images, pixels) or not images.isfinite().all()
        return type(error).__name__, str(error), isinstance(error, torchsaliency.TorchSaliencyError)
    return "nothing", "", False

print(json.dumps({name: answer(*case) for name, case in CASES.items()}))
"""

EXPECTED = {
    "3-D": ("InputError", "x[None]"),
    "2-D": ("InputError", "(N, C, H, W)"),
    "no images": ("InputError", "empty"),
    "no pixels": ("InputError", "empty"),
    "uint8": ("InputError", "uint8"),
    "int64": ("InputError", "int64"),
    "nan": ("InputError", "NaN"),
    "inf": ("InputError", "infinite"),
    "chunk": ("InputError", "chunk"),
    "class too large": ("TargetError", "classes 0 to 4"),
    "class negative": ("TargetError", "-1"),
    "too few classes": ("TargetError", "1 target classes were given for 2 images"),
    "too many classes": ("TargetError", "3 target classes were given for 2 images"),
    "float classes": ("TargetError", "integers"),
    "float class": ("TargetError", "integers"),
    "bool classes": ("TargetError", "integers"),
    "bool tensor": ("TargetError", "integers"),
    "float tensor": ("TargetError", "integers"),
    "names": ("TargetError", "integers"),
    "matrix of classes": ("TargetError", ""),
    "callable: matrix": ("TargetError", "one score for each of 2"),
    "callable: one number": ("TargetError", "one score for each of 2"),
    "callable: no tensor": ("TargetError", "float"),
    "callable: too many": ("TargetError", "(4,)"),
    "dense output": ("TargetError", "MaskScore"),
    "unknown layer": ("LayerError", "relu3"),
    "empty layer": ("LayerError", "known are"),
    "flat layer": ("LayerError", "no spatial map"),
    "foreign module": ("LayerError", "not a submodule"),
    "root module": ("LayerError", "known are"),
    "no layers": ("OptionError", "at least one"),
    "a layer twice": ("OptionError", "each once"),
    "ran twice": ("LayerError", "2 times"),
    "did not run": ("LayerError", "did not run"),
    "wrong layout": ("LayerError", "grid"),
    "inference network": ("TorchSaliencyError", "inference_mode"),
    "no method": ("OptionError", "at least one"),
    "unknown method": ("OptionError", "gradcam"),
    "a method twice": ("OptionError", "mapping"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    return compute_once(tmp_path_factory.getbasetemp(), "answers", answers_of_a_program)


def answers_of_a_program() -> dict[str, list[object]]:
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tests)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == EXPECTED.keys()
    return found


@pytest.mark.parametrize("case", EXPECTED)
def test_mistakes(answers, case):
    kind, message, on_purpose = answers[case]
    assert (kind, on_purpose) == (EXPECTED[case][0], True), message
    assert EXPECTED[case][1] in message
    assert "\n" not in message
    assert len(message) < 300
