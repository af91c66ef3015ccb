"""Scores and embeddings of masked images, against a direct computation."""

import inspect
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets import CLASSES, WRAPPINGS, Counter, Wraps, convnet, images, two_layer_head
from torchsaliency import (
    BlackPixel,
    Blur,
    GivenImage,
    InputError,
    Logit,
    MeanColour,
    Probability,
    TargetError,
)
from torchsaliency.measures import class_scores, crop_scores, masked_embeddings, masked_scores

N, H, W = 3, 12, 10
X = images(N, H, W, seed=1)
MASKS = torch.rand(N, H, W, generator=torch.Generator().manual_seed(0))
SEVERAL = torch.rand(N, 4, H, W, generator=torch.Generator().manual_seed(1))
LABELS = [4, 0, 2]
MASKINGS = {
    "mean": MeanColour(),
    "black": BlackPixel(),
    "blur": Blur(2.0),
    "given": GivenImage(torch.randn(3, H, W, generator=torch.Generator().manual_seed(2))),
}


def logits_of(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The network's logits, one image at a time, in float64."""
    with torch.no_grad():
        return torch.cat([net(one[None].clone()) for one in x]).double()


def hidden(x, masks, baseline):
    return x * masks[:, None] + baseline * (1 - masks[:, None])


def pick(logits, labels):
    return logits.softmax(1)[torch.arange(len(logits)), torch.as_tensor(labels)]


def unchecked(function):
    """The function without pytest's type checks, which would be quicker than its own answer."""
    return inspect.unwrap(function)


class Fixed(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
@pytest.mark.parametrize("chunk", [1, 2, 32])
def test_scores_are_the_softmax_of_the_masked_image(masking, chunk):
    net = convnet(seed=3)
    found = masked_scores(net, X, MASKS, LABELS, masking=masking, chunk=chunk)
    before = logits_of(net, X)
    after = logits_of(net, hidden(X, MASKS, masking.baseline(X)))
    rows = torch.arange(N)
    for name, value in {
        "clean": pick(before, LABELS),
        "clean_rest": 1 - pick(before, LABELS),
        "clean_logit": before[rows, LABELS],
        "masked": pick(after, LABELS),
        "masked_rest": 1 - pick(after, LABELS),
        "masked_logit": after[rows, LABELS],
    }.items():
        assert getattr(found, name).dtype == torch.float64
        torch.testing.assert_close(getattr(found, name), value, atol=1e-6, rtol=1e-5, msg=name)
    assert found.labels.tolist() == LABELS
    assert torch.equal(found.correct, before.argmax(1) == torch.tensor(LABELS))
    assert found.passes == 2 * N


def test_the_default_masking_is_the_mean_colour():
    net = convnet(seed=3)
    one, other = masked_scores(net, X, MASKS), masked_scores(net, X, MASKS, masking=MeanColour())
    black = masked_scores(net, X, MASKS, masking=BlackPixel())
    assert torch.equal(one.masked, other.masked)
    assert not torch.allclose(one.masked, black.masked, atol=1e-4)


def test_a_mask_of_ones_keeps_the_image_and_a_mask_of_zeros_the_baseline():
    net = convnet(seed=3)
    full = masked_scores(net, X, torch.ones(N, H, W), masking=BlackPixel())
    torch.testing.assert_close(full.masked, full.clean)
    torch.testing.assert_close(full.masked_rest, full.clean_rest)
    empty = masked_scores(net, X, torch.zeros(N, H, W), 1)
    torch.testing.assert_close(
        empty.masked, pick(logits_of(net, torch.zeros_like(X)), [1] * N), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("chunk", [1, 3, 5, 64])
def test_several_masks_an_image(chunk):
    net = convnet(seed=3)
    found = masked_scores(net, X, SEVERAL, LABELS, masking=BlackPixel(), chunk=chunk)
    assert found.masked.shape == found.masked_rest.shape == found.masked_logit.shape == (N, 4)
    assert found.clean.shape == found.correct.shape == (N,)
    assert found.passes == N + 4 * N
    for number in range(4):
        one = masked_scores(net, X, SEVERAL[:, number], LABELS, masking=BlackPixel())
        torch.testing.assert_close(found.masked[:, number], one.masked, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(
            found.masked_rest[:, number], one.masked_rest, atol=1e-6, rtol=1e-5
        )
        torch.testing.assert_close(
            found.masked_logit[:, number], one.masked_logit, atol=1e-6, rtol=1e-5
        )
        torch.testing.assert_close(found.clean, one.clean, atol=1e-6, rtol=1e-5)


def test_one_of_several_masks_keeps_its_dimension():
    found = masked_scores(convnet(), X, SEVERAL[:, :1])
    assert found.masked.shape == found.masked_rest.shape == found.masked_logit.shape == (N, 1)


def test_images_do_not_see_each_other():
    net = convnet(seed=3)
    batch = masked_scores(net, X, MASKS)
    for i in range(N):
        alone = masked_scores(net, X[i : i + 1], MASKS[i : i + 1])
        torch.testing.assert_close(alone.masked, batch.masked[i : i + 1], atol=1e-6, rtol=1e-5)
        assert alone.labels.tolist() == batch.labels[i : i + 1].tolist()


@pytest.mark.parametrize(("masks", "expected"), [(MASKS, N), (SEVERAL, 4 * N)])
def test_known_logits_save_the_clean_pass(masks, expected):
    net = convnet(seed=3)
    with torch.no_grad():
        known = net(X)
    counter = Counter(net)
    saved = masked_scores(net, X, masks, clean=known)
    assert counter.images == saved.passes == expected
    full = masked_scores(net, X, masks)
    assert counter.images == 2 * expected + N
    assert full.passes == expected + N
    assert counter.with_gradients == 0
    for name in ("labels", "correct"):
        assert torch.equal(getattr(saved, name), getattr(full, name))
    for name in ("clean", "clean_rest", "clean_logit", "masked", "masked_rest", "masked_logit"):
        torch.testing.assert_close(getattr(saved, name), getattr(full, name), atol=1e-6, rtol=1e-5)


def test_known_logits_decide_the_predicted_class():
    net = convnet(seed=3)
    known = torch.zeros(N, CLASSES)
    known[:, 3] = 1
    found = masked_scores(net, X, MASKS, clean=known)
    assert found.labels.tolist() == [3] * N
    torch.testing.assert_close(found.clean, known.double().softmax(1)[:, 3])


def test_what_is_left_of_one_is_exact_where_the_probability_rounds_to_one():
    net = Fixed([20.0, 0.0, 0.0])
    found = masked_scores(net, X, MASKS, 0)
    exact = 2 * math.exp(-20) / (1 + 2 * math.exp(-20))
    assert float(torch.tensor([20.0, 0.0, 0.0]).softmax(0)[0]) == 1.0  # float32 loses it
    for rest in (found.clean_rest, found.masked_rest):
        torch.testing.assert_close(
            rest, torch.full((N,), exact, dtype=torch.float64), rtol=1e-12, atol=0
        )
    # far beyond float64's own 1 - p, too
    far = class_scores(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
    assert float(far.probability) == 1.0
    assert float(far.rest) == pytest.approx(math.exp(-100), rel=1e-12)
    assert float(class_scores(torch.tensor([[0.0, 100.0]]), torch.tensor([0])).rest) == 1.0


def test_another_network_may_judge():
    explained, judge = convnet(seed=3), two_layer_head(seed=5)
    counter = Counter(explained)
    labels = logits_of(explained, X).argmax(1)
    counter.images = 0
    found = masked_scores(judge, X, MASKS, labels)
    assert counter.images == 0
    after = logits_of(judge, hidden(X, MASKS, 0))
    torch.testing.assert_close(found.masked, pick(after, labels), atol=1e-6, rtol=1e-5)
    assert torch.equal(found.correct, logits_of(judge, X).argmax(1) == labels)
    assert masked_scores(judge, X, MASKS).correct.all()  # its own class then


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (None, None),
        (2, [2, 2, 2]),
        ([4, 0, 2], [4, 0, 2]),
        ((4, 0, 2), [4, 0, 2]),
        (torch.tensor([1, 1, 3]), [1, 1, 3]),
        (torch.tensor(3, dtype=torch.int32), [3, 3, 3]),
        (Logit(torch.tensor([1, 2, 0])), [1, 2, 0]),
        (Probability(torch.tensor([1, 2, 0])), [1, 2, 0]),
    ],
    ids=["none", "int", "list", "tuple", "tensor", "one number", "logit", "probability"],
)
def test_every_way_to_name_classes(target, labels):
    net = two_layer_head(seed=0)
    before, after = logits_of(net, X), logits_of(net, hidden(X, MASKS, 0))
    expected = before.argmax(1).tolist() if labels is None else labels
    found = masked_scores(net, X, MASKS, target)
    assert found.labels.tolist() == expected
    torch.testing.assert_close(found.clean, pick(before, expected), atol=1e-6, rtol=1e-5)
    # whatever score the target stands for, the measure is of the class's probability
    torch.testing.assert_close(found.masked, pick(after, expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_wrapped_outputs(kind):
    net = convnet(seed=3)
    one, other = masked_scores(net, X, MASKS), masked_scores(Wraps(net, kind), X, MASKS)
    assert torch.equal(one.masked, other.masked)


def test_what_metrics_take():
    found = masked_scores(convnet(), X, MASKS)
    given = found.inputs()
    assert set(given) == {"clean", "clean_rest", "masked", "masked_rest", "correct"}
    assert all(given[name] is getattr(found, name) for name in given)


def nan(shape):
    masks = torch.rand(*shape)
    masks.view(-1)[0] = torch.nan
    return masks


@pytest.mark.parametrize(
    "masks",
    [
        torch.rand(N, H, W + 1),
        torch.rand(N - 1, H, W),
        torch.rand(H, W),
        torch.rand(N, 2, H - 1, W),
        torch.rand(N + 1, 2, H, W),
        torch.rand(N, 1, 2, H, W),
        torch.rand(N, H, W) + 0.5,
        -torch.rand(N, H, W),
        torch.rand(N, 2, H, W) * 2,
        nan((N, H, W)),
        nan((N, 2, H, W)),
        torch.full((N, H, W), torch.inf),
        torch.ones(N, H, W, dtype=torch.int64),
    ],
)
def test_masks_that_do_not_fit(masks):
    counter = Counter(net := convnet())
    with pytest.raises(InputError, match=r"[Mm]aps"):
        masked_scores(net, X, masks)
    assert counter.images == 0  # said before the network is run


def test_rounding_of_half_precision_is_forgiven():
    masks = MASKS.clone()
    masks[0, 0, 0], masks[0, 0, 1] = 1 + 5e-5, -5e-5
    found = masked_scores(convnet(), X, masks)
    clamped = masked_scores(convnet(), X, masks.clamp(0, 1))
    assert torch.equal(found.masked, clamped.masked)


def test_images_that_cannot_be_scored():
    broken = X.clone()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        masked_scores(convnet(), broken, MASKS)
    with pytest.raises(InputError, match="chunk"):
        masked_scores(convnet(), X, MASKS, chunk=0)
    with pytest.raises(InputError, match="2 images"):
        unchecked(masked_scores)(convnet(), X, MASKS, clean=torch.zeros(2, CLASSES))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (CLASSES, "classes 0 to 4"),
        (-1, "classes 0 to 4"),
        ([0, 1], "2 target classes"),
        ([0.5, 1.0, 2.0], "integers"),
    ],
    ids=["too large", "negative", "too few", "floats"],
)
def test_targets_that_name_no_class(target, words):
    net = convnet()
    wrong = torch.tensor(target) if words == "integers" else target
    with pytest.raises(TargetError, match=words):
        masked_scores(net, X, MASKS, wrong)
    with pytest.raises(TargetError, match=words):
        crop_scores(net, X, torch.tensor([[0.0, 0, W, H]] * N), wrong)


class Encoder(nn.Module):
    """Embeddings in one of three forms."""

    def __init__(self, form: str = "maps") -> None:
        super().__init__()
        self.net, self.form = convnet(seed=3)[:9], form

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net(x)
        if self.form == "vector":
            return y.mean((2, 3))
        return y if self.form == "maps" else y.flatten(2).mT


class Alone(nn.Module):
    def __init__(self, change, scores=None):
        super().__init__()
        self.net, self.change, self.scores = convnet(), change, scores

    def forward(self, x):
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Encoder("maps"), r"\(3, 8, 6, 5\).*masked_embeddings"),
        (Encoder("tokens"), "masked_embeddings"),
        (Alone(lambda y: y[:, :1], "softmax"), r"\(3, 1\).*two classes"),
        (Alone(lambda y: y * torch.nan), "NaN"),
        (Alone(lambda y: y / 0), "NaN or infinite"),
        (Alone(lambda y: [{"boxes": y}]), "list"),
    ],
    ids=["maps", "tokens", "one class", "nan", "infinite", "detector"],
)
def test_networks_without_classes(net, words):
    with pytest.raises(TargetError, match=words):
        masked_scores(net.eval(), X, MASKS)


# --- crops ---------------------------------------------------------------------------------------

BOXES = torch.tensor([[2.0, 3.0, 8.0, 11.0], [0.0, 0.0, W, H], [4.0, 4.0, 5.0, 5.0]])


@pytest.mark.parametrize("chunk", [1, 2, 32])
def test_crops_are_enlarged_bicubically(chunk):
    net = convnet(seed=3)
    crops = []
    for image, (x0, y0, x1, y1) in zip(X, BOXES.long().tolist(), strict=True):
        part = image[:, y0:y1, x0:x1]
        crops.append(F.interpolate(part[None], (H, W), mode="bicubic", align_corners=False)[0])
    expected = pick(logits_of(net, torch.stack(crops)), LABELS)
    found = crop_scores(net, X, BOXES, LABELS, chunk=chunk)
    torch.testing.assert_close(found.crop, expected, atol=1e-6, rtol=1e-5)
    assert found.passes == N
    assert found.labels.tolist() == LABELS
    assert found.inputs()["crop"] is found.crop


def test_a_box_of_the_whole_image_is_the_image():
    net = convnet(seed=3)
    whole = torch.tensor([[0.0, 0.0, W, H]] * N)
    torch.testing.assert_close(
        crop_scores(net, X, whole, LABELS).crop,
        pick(logits_of(net, X), LABELS),
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize("box", [[3, 3, 3, 9], [3, 5, 9, 5], [9, 9, 3, 3], [0, 0, 0, 0]])
def test_an_empty_box_stands_for_an_image_of_zeros(box):
    net = convnet(seed=3)
    boxes = torch.tensor([box] * N).float()
    expected = pick(logits_of(net, torch.zeros_like(X)), LABELS)
    torch.testing.assert_close(
        crop_scores(net, X, boxes, LABELS).crop, expected, atol=1e-6, rtol=1e-5
    )


def test_classes_of_crops_are_those_of_the_images():
    net = two_layer_head(seed=0)
    predicted = logits_of(net, X).argmax(1)
    black = torch.zeros(N, 4)  # the class of a black image would be another one
    assert (logits_of(net, torch.zeros_like(X)).argmax(1) != predicted).any()
    counter = Counter(net)
    found = crop_scores(net, X, black)
    assert torch.equal(found.labels, predicted)
    assert counter.images == found.passes == 2 * N
    counter.images = 0
    known = torch.zeros(N, CLASSES)
    known[:, 1] = 9
    found = crop_scores(net, X, black, clean=known)
    assert found.labels.tolist() == [1] * N
    assert counter.images == found.passes == N


@pytest.mark.parametrize(
    "box", [[-1, 0, 4, 4], [0, 0, W + 1, 4], [0, 0, 4, H + 1], [0, -2, 4, 4]], ids=str
)
def test_boxes_outside_the_image(box):
    boxes = BOXES.clone()
    boxes[1] = torch.tensor(box)
    with pytest.raises(InputError, match="inside it"):
        crop_scores(convnet(), X, boxes, 0)


# --- embeddings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["vector", "tokens", "maps"])
@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
@pytest.mark.parametrize("chunk", [2, 32])
def test_embeddings_of_masked_images(form, masking, chunk):
    net = Encoder(form).eval()
    found = masked_embeddings(net, X, MASKS, masking=masking, chunk=chunk)
    features = convnet(seed=3)[:9]
    shown = hidden(X, MASKS, masking.baseline(X))
    with torch.no_grad():
        before = features(X.clone()).mean((2, 3))
        after = features(shown).mean((2, 3))
    assert found.embeddings.shape == (N, 8)
    torch.testing.assert_close(found.embeddings, before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.masked_embeddings, after, atol=1e-5, rtol=1e-4)
    assert found.passes == 2 * N
    assert set(found.inputs()) == {"embeddings", "masked_embeddings"}


@pytest.mark.parametrize("form", ["vector", "tokens", "maps"])
def test_known_embeddings_save_the_clean_pass(form):
    net = Encoder(form).eval()
    with torch.no_grad():
        output = net(X)
    full = masked_embeddings(net, X, MASKS)
    counter = Counter(net)
    for known in (output, full.embeddings, output.double()):
        counter.images = 0
        saved = masked_embeddings(net, X, MASKS, clean=known)
        assert counter.images == saved.passes == N
        torch.testing.assert_close(saved.embeddings, full.embeddings)
        torch.testing.assert_close(saved.masked_embeddings, full.masked_embeddings)


def test_embeddings_of_a_full_mask_do_not_move():
    found = masked_embeddings(Encoder(), X, torch.ones(N, H, W), masking=BlackPixel())
    assert torch.equal(found.embeddings, found.masked_embeddings)


def test_embeddings_that_do_not_fit():
    net = Encoder("vector")
    with pytest.raises(InputError, match="Clean embeddings"):
        masked_embeddings(net, X, MASKS, clean=torch.zeros(N, 7))
    with pytest.raises(InputError, match="Clean embeddings"):
        masked_embeddings(net, X, MASKS, clean=torch.zeros(N - 1, 8))
    with pytest.raises(TargetError, match="NaN"):
        masked_embeddings(net, X, MASKS, clean=torch.full((N, 8), torch.nan))
    with pytest.raises(TargetError, match="accepted are"):
        masked_embeddings(Alone(lambda y: y.sum(1)), X, MASKS)
    with pytest.raises(InputError, match="reach from"):
        masked_embeddings(net, X, MASKS * 3)


def test_logits_known_from_another_network_are_refused():
    """Classes that the judge does not have must be an error with words, not an index error."""
    known = torch.zeros(N, CLASSES + 4)
    known[:, -1] = 1
    with pytest.raises((InputError, TargetError)):
        masked_scores(convnet(), X, MASKS, clean=known)
