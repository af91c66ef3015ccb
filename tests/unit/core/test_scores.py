"""What a network's numbers mean: every probability in the library, against closed forms."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchsaliency as ts
from nets import convnet, images
from torchsaliency.core.network import NetworkWrapper, unwrap_output
from torchsaliency.core.scores import (
    BINARY,
    PROBABILITIES,
    SCORE_KINDS,
    SIGMOID,
    SOFTMAX,
    find_scores,
    find_stated_scores,
    parse_scores,
)
from torchsaliency.core.session import open_session
from torchsaliency.errors import OptionError, TargetError
from torchsaliency.evaluation import score
from torchsaliency.measures import class_scores, masked_scores, perturbation_curve, region_curve

X = images(3)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


class Reads(nn.Module):
    """A convolutional network of K outputs that are changed into something else."""

    def __init__(self, change=lambda y: y, count=5, scores: Any = None):
        super().__init__()
        self.net = convnet()
        self.net.fc.weight.data.mul_(3)
        self.change, self.count, self.scores = change, count, scores

    def forward(self, x):
        return self.change(self.net(x)[:, : self.count])


def curve_of(x: Tensor, saliency: Tensor, steps: int) -> list[Tensor]:
    """Return the images as rows of pixels are inserted into the mean colour."""
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)
    found = []
    for step in range(steps + 1):
        shown = torch.zeros_like(saliency).flatten(1)
        shown.scatter_(1, order[:, : step * x.shape[3]], 1.0)
        found.append(x * shown.view_as(saliency)[:, None])
    return found


@pytest.mark.parametrize("c", [0, 3])
def test_independent_labels_are_scored_by_their_sigmoid(c):
    net = Reads(scores="sigmoid").eval()
    made = ts.explain(net, X, "eigencam", c, "net.relu2")["eigencam"]
    assert made.scores is SIGMOID
    assert made.manifest()["scores"] == "sigmoid"
    logits = net(X).double()
    p, o = logits[:, c].sigmoid(), net(X * made.map[:, None]).double()[:, c].sigmoid()
    found = score(net, made, ["ad", "ai", "ag", "road", "adcc"])
    value = {name: metric.summary().value for name, metric in found.items()}
    assert value["ad"] == pytest.approx(float(((p - o).clamp_min(0) / p).mean() * 100), abs=1e-4)
    gain = (o - p).clamp_min(0) / (-logits[:, c]).sigmoid()
    assert value["ag"] == pytest.approx(float(gain.mean() * 100), abs=1e-4)
    assert value["ai"] == pytest.approx(float((o > p).double().mean() * 100))


def test_insertion_of_a_label_is_that_of_its_sigmoid():
    net, c = Reads(scores="sigmoid").eval(), 2
    saliency = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = perturbation_curve(net, X, saliency, c, masking=ts.MeanColour())
    expected = [net(shown)[:, c].sigmoid() for shown in curve_of(X, saliency, 16)]
    torch.testing.assert_close(
        found.probabilities, torch.stack(expected, 1).double(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("shape", ["(N,)", "(N, 1)"])
def test_one_logit_has_two_classes(shape):
    flat = shape == "(N,)"
    net = Reads(lambda y: y[:, 0] if flat else y, count=1, scores="binary").eval()
    z = net(X).reshape(-1)
    saliency = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    hidden = net(X * saliency[:, None]).reshape(-1)
    for c, sign in ((0, -1), (1, 1)):
        made = ts.explain(net, X, "gradcam", c, "net.relu2")["gradcam"]
        torch.testing.assert_close(made.score, sign * z)
        torch.testing.assert_close(made.output, torch.stack([-z, z], 1))
        found = masked_scores(net, X, saliency, c)
        torch.testing.assert_close(found.clean, (sign * z).double().sigmoid())
        torch.testing.assert_close(found.masked, (sign * hidden).double().sigmoid())
        torch.testing.assert_close(found.clean_rest, (-sign * z).double().sigmoid())
        # logits that are known, as the explanation has them and as the network gives them
        for clean in (made.output, net(X).reshape(-1, 1)):
            known = masked_scores(net, X, saliency, c, clean=clean)
            torch.testing.assert_close(known.clean, found.clean)
    predicted = ts.explain(net, X, "gradcam", None, "net.relu2")["gradcam"]
    assert predicted.target.labels.tolist() == (z > 0).long().tolist()


@pytest.mark.parametrize(
    ("target", "of_c"),
    [
        (ts.Probability, lambda y: y.sigmoid()),
        (ts.LogProbability, lambda y: y.sigmoid().log()),
        (ts.Margin, lambda y: y),
        (ts.Logit, lambda y: y),
    ],
)
def test_targets_of_independent_labels(target, of_c):
    net = Reads(scores="sigmoid").eval()
    made = ts.explain(net, X, "gradcam", target(3), "net.relu2")["gradcam"]
    torch.testing.assert_close(made.score, of_c(net(X)[:, 3]))
    assert target(3).of_scores(SIGMOID).take(torch.tensor([0])).scores is SIGMOID


def test_a_network_that_ends_in_softmax_is_the_network_without_it():
    plain, inside = Reads().eval(), Reads(lambda y: y.softmax(1)).eval()
    saliency = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    for of in (
        lambda net: masked_scores(net, X, saliency, 1).masked,
        lambda net: region_curve(net, X, saliency, 1, patch=4, regions=2).probabilities,
        lambda net: ts.explain(net, X, "gradcam", ts.Probability(1), "net.relu2")["gradcam"].map,
    ):
        torch.testing.assert_close(of(inside), of(plain), atol=1e-5, rtol=1e-4, check_dtype=False)
    logs = Reads(lambda y: y.log_softmax(1)).eval()
    torch.testing.assert_close(
        masked_scores(logs, X, saliency, 1).masked, masked_scores(plain, X, saliency, 1).masked
    )


def test_a_function_may_give_the_probabilities():
    net, twice = Reads().eval(), lambda y: (2 * y).softmax(1)
    made = ts.explain(net, X, "gradcam", 1, "net.relu2", scores=twice)["gradcam"]
    torch.testing.assert_close(made.output, twice(net(X)))
    found = score(net, made, ["ad"])["ad"].summary().value
    p, o = twice(net(X))[:, 1], twice(net(X * made.map[:, None]))[:, 1]
    assert found == pytest.approx(float(((p - o).clamp_min(0) / p).mean() * 100), abs=1e-3)
    with pytest.raises(TargetError, match=r"probabilities \(N, K\), and it returned \(3,\)"):
        ts.explain(net, X, "gradcam", scores=lambda y: y[:, 0])


def test_minus_infinity_is_a_class_that_cannot_be():
    logits = torch.tensor([[1.0, -torch.inf, 2.0], [0.0, -torch.inf, 5.0]])
    for c, expected in ((1, [0.0, 0.0]), (2, [1 / (1 + torch.e**-1), 1 / (1 + torch.e**-5)])):
        found = class_scores(logits, torch.tensor([c, c]))
        torch.testing.assert_close(found.probability, torch.tensor(expected).double())
        torch.testing.assert_close(found.rest, 1 - torch.tensor(expected).double())
    impossible = class_scores(logits, torch.tensor([1, 1]), SIGMOID)
    assert impossible.probability.tolist() == [0, 0]
    assert impossible.rest.tolist() == [1, 1]
    hides = Reads(lambda y: torch.cat([y, torch.full_like(y[:, :1], -torch.inf)], 1)).eval()
    saliency = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        masked_scores(hides, X, saliency, 2).masked,
        masked_scores(Reads().eval(), X, saliency, 2).masked,
    )
    nothing = Reads(lambda y: y - torch.inf).eval()
    with pytest.raises(TargetError, match="infinite"):
        masked_scores(nothing, X, saliency, 2)


def test_probabilities_near_one_keep_their_rest():
    logits = torch.tensor([[60.0]], dtype=torch.float64)
    found = class_scores(logits, torch.tensor([0]), SIGMOID)
    assert float(found.probability) == 1
    assert float(found.rest) == pytest.approx(float(torch.tensor(-60.0).double().exp()), rel=1e-9)


@pytest.mark.parametrize("kind", ["regression", "embedding"])
def test_numbers_without_probabilities(kind):
    net = Reads(scores=kind).eval()
    made = ts.explain(net, X, "gradcam", layer="net.relu2")["gradcam"]
    expected = net(X)[:, 0] if kind == "regression" else net(X).square().sum(1)
    torch.testing.assert_close(made.score, expected)
    for target in (ts.Probability(1), ts.LogProbability(1), ts.Margin(1)):
        with pytest.raises(TargetError, match=f"scores='{kind}'.*no class probability"):
            ts.explain(net, X, "gradcam", target, "net.relu2")
    with pytest.raises(TargetError, match="no class probability"):
        score(net, made, ["ad"])


# --- where it is found ----------------------------------------------------------------------------


class Hub(nn.Module):
    def __init__(self, problem_type):
        super().__init__()
        self.net, self.config = convnet(), SimpleNamespace(problem_type=problem_type)

    def forward(self, x):
        return SimpleNamespace(logits=self.net(x))


def test_what_is_said_comes_before_what_is_seen():
    net = Reads(lambda y: y.softmax(1), scores="softmax").eval()
    assert find_stated_scores(net) is SOFTMAX
    assert find_stated_scores(NetworkWrapper(net, scores="sigmoid")) is SIGMOID
    assert find_stated_scores(Hub("multi_label_classification")) is SIGMOID
    assert find_stated_scores(Hub("regression")).name == "regression"
    assert find_stated_scores(Hub(None)) is None
    made = ts.explain(Hub("multi_label_classification").eval(), X, "gradcam", ts.Probability(2))
    torch.testing.assert_close(made["gradcam"].score, convnet()(X)[:, 2].sigmoid())


@pytest.mark.parametrize(
    ("net", "kind"),
    [
        (Reads(lambda y: y.softmax(1)), PROBABILITIES),
        (Reads(lambda y: y.log_softmax(1)), SOFTMAX),
        (nn.Sequential(convnet(), nn.Sigmoid()), PROBABILITIES),
        (nn.Sequential(Reads(count=1), nn.Sigmoid()), PROBABILITIES),
        (Reads(lambda y: y.sigmoid()), PROBABILITIES),
        (Reads(lambda y: (y / 9).sigmoid()[:, :1].squeeze(1)), PROBABILITIES),
        (Reads(lambda y: y.sigmoid() ** 2), SOFTMAX),
        (Reads(), SOFTMAX),
    ],
)
def test_what_is_seen(net, kind):
    with open_session(net.eval(), X) as session:
        assert session.scores is kind
        assert session.passes == 0


def test_one_probability_has_two_classes():
    net = nn.Sequential(Reads(count=1), nn.Sigmoid()).eval()
    made = ts.explain(net, X, "gradcam", 0, "0.net.relu2")["gradcam"]
    torch.testing.assert_close(made.score, 1 - net(X)[:, 0])


def test_a_single_number_is_guessed_aloud_once():
    net = Reads(count=1).eval()
    measured = ts.explain(net, X, "gradcam", ts.Regression(), "net.relu2")["gradcam"]
    torch.testing.assert_close(measured.score, net(X)[:, 0])
    assert measured.scores.name == "regression"
    first = ts.explain(net, X, "gradcam", lambda y: y[:, 0], "net.relu2")["gradcam"]
    torch.testing.assert_close(first.score, net(X)[:, 0])
    with pytest.warns(UserWarning, match='taken for the logit z.*scores="regression".*--scores'):
        guessed = ts.explain(net, X, "gradcam", 0, "net.relu2")["gradcam"]
    assert guessed.scores is BINARY
    torch.testing.assert_close(guessed.score, -net(X)[:, 0])
    ts.explain(net, X, "gradcam", 0, "net.relu2")  # warnings are errors here
    with pytest.raises(TargetError, match="no class probability"):
        score(net, measured, ["ad"])


def test_a_changed_network_is_looked_at_again():
    net = nn.Sequential(convnet())
    assert find_scores(net, net(X)) is SOFTMAX
    net.append(nn.Softmax(1))
    with open_session(net.eval(), X) as session:
        assert session.scores is PROBABILITIES


def test_unknown_kinds():
    assert {parse_scores(name).name for name in SCORE_KINDS} == {*SCORE_KINDS}
    with pytest.raises(OptionError, match="no kind of scores 'sigmod'; close names are sigmoid"):
        parse_scores("sigmod")
    with pytest.raises(TargetError, match="one number an image"):
        ts.explain(Reads().eval(), X, "gradcam", scores="binary")


# --- where in the output it lies ------------------------------------------------------------------


@dataclass
class Answer:
    heads: dict[str, Any]
    embedding: Tensor


Y, Z = torch.ones(2, 5), torch.zeros(2, 5)
OUTPUTS = [
    ((Z, Y), 1, Y),
    ((Z, Y), "1", Y),
    ([Z, Y], -1, Y),
    ({"a": Z, "b": Y}, "b", Y),
    ({"a.b": Y, "a": {"b": Z}}, "a.b", Y),
    (Answer({"main": Y, "aux": [Z]}, Z), "heads.main", Y),
    (Answer({"main": Z, "aux": [Z, Y]}, Z), "heads.aux.1", Y),
    (SimpleNamespace(heads=(Z, Y)), "heads.1", Y),
    ([{"scores": Y}, {"scores": Z}], "0.scores", Y),
]


@pytest.mark.parametrize(("output", "where", "expected"), OUTPUTS)
def test_an_output_may_be_named(output, where, expected):
    assert unwrap_output(output, where) is expected


@pytest.mark.parametrize(
    "output",
    [
        (None, {"logits": Y}),
        {"out": {"logits": Y, "aux": Z}, "aux": Z},
        SimpleNamespace(result=(Y,)),
        Answer({"logits": Y, "hidden": Z}, Z),
        [[[Y]]],
        {"model": {"head": {"logits": Y, "features": Z}}},
    ],
)
def test_nested_outputs_are_looked_into(output):
    assert unwrap_output(output) is Y


def test_what_cannot_be_found_is_listed():
    with pytest.raises(TargetError, match=r"output='c' .*'a' \(2, 5\), 'b.0' \(2, 5\)"):
        unwrap_output({"a": Y, "b": [Z]}, "c")
    with pytest.raises(TargetError, match=r"several tensors \('a' .*'b' .*say output="):
        unwrap_output({"a": Y, "b": Z})
    with pytest.raises(TargetError, match="holds no tensor"):
        unwrap_output({"a": [], "b": None})


def test_a_named_output_is_explained_and_judged():
    plain, net = Reads().eval(), Reads(lambda y: {"heads": {"main": y, "second": -y}}).eval()
    expected = ts.explain(plain, X, "scorecam", 1, "net.relu2")["scorecam"]
    found = ts.explain(net, X, "scorecam", 1, "net.relu2", output="heads.main")["scorecam"]
    torch.testing.assert_close(found.map, expected.map)
    wrapped = NetworkWrapper(net, output="heads.main")
    names = ["ad", "insertion", "max-sensitivity"]
    values = [score(one, made, names) for one, made in ((plain, expected), (wrapped, found))]
    for name in names:
        assert values[1][name].summary().value == pytest.approx(values[0][name].summary().value)
    with pytest.raises(TargetError, match="say output="):
        ts.explain(net, X, "scorecam", 1, "net.relu2")


def test_a_kind_is_seen_after_the_pass_that_methods_read():
    net = Reads(lambda y: 0.5 + y / 99).eval()  # numbers in [0, 1] that no sigmoid made
    assert bool(((net(X) >= 0) & (net(X) <= 1)).all())
    for method in ("gradcam", "eigencam"):
        fresh = Reads(net.change).eval()
        made = ts.explain(fresh, X, method, 1, "net.relu2")[method]
        assert made.scores is SOFTMAX
        assert made.passes == 3


def test_a_gate_that_is_the_last_module_makes_no_probabilities():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 1, bias=False)
            self.fc.weight.data.fill_(0.1)
            self.gate = nn.Sigmoid()

        def forward(self, x):
            means = x.mean((2, 3))
            return self.fc(means * self.gate(means))

    noticed = pytest.warns(UserWarning, match="one number an image")
    with open_session(Gated().eval(), torch.ones(2, 4, 8, 8)) as session, noticed:
        assert session.scores.name == "binary"
