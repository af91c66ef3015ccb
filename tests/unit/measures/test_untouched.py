"""Measures leave the network, its mode and the random state alone, and take any network."""

import pytest
import torch
from torch import nn

from nets import (
    CLASSES,
    OTHER_DTYPES,
    WRAPPINGS,
    Fails,
    InPlaceInput,
    Wraps,
    assert_same_state,
    convnet,
    images,
    quick,
    state_of,
)
from torchsaliency import MeanColour, TorchSaliencyError, explain
from torchsaliency.core.masking import RISEBlur
from torchsaliency.measures import (
    crop_scores,
    masked_embeddings,
    masked_maps,
    masked_scores,
    noisy_maps,
    perturbation_curve,
    randomised_maps,
    region_curve,
    removal_curves,
    square_removals,
)

N = 2
X = images(N, seed=1)
MAPS = torch.rand(N, 16, 16, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[1.0, 2.0, 9.0, 12.0], [3.0, 3.0, 3.0, 9.0]])


def at(net):
    """The layer explained, in this network or in what wraps it."""
    return next(name for name, _ in net.named_modules() if name.split(".")[-1] == "relu3")


def gradcam(net, x, target=None):
    return explain(net, x, quick("gradcam"), target, at(net))["gradcam"]


JUDGES = {
    "masked": lambda net, x, **kw: masked_scores(net, x, MAPS, **kw).masked,
    "several": lambda net, x, **kw: masked_scores(net, x, MAPS[:, None], **kw).masked_rest,
    "crops": lambda net, x, **kw: crop_scores(net, x, BOXES, **kw).crop,
    "insertion": lambda net, x, **kw: perturbation_curve(net, x, MAPS, **kw).probabilities,
    "deletion": lambda net, x, **kw: (
        perturbation_curve(net, x, MAPS, order="deletion", **kw).probabilities
    ),
    "regions": lambda net, x, **kw: (
        region_curve(net, x, MAPS, patch=4, regions=3, **kw).probabilities
    ),
    "removal": lambda net, x, **kw: removal_curves(net, x, MAPS, percentages=(20, 70), **kw).most,
    "squares": lambda net, x, **kw: square_removals(net, x, samples=4, **kw).drops,
}
"""Measures of class scores."""

EXPLAINERS = {
    "noisy": lambda net, x, **kw: noisy_maps(net, gradcam(net, x, **kw), samples=2).noisy_maps,
    "masked maps": lambda net, x, **kw: masked_maps(net, gradcam(net, x, **kw)).masked_maps,
    "cascading": lambda net, x, **kw: randomised_maps(net, gradcam(net, x, **kw)).random_maps,
    "independent": lambda net, x, **kw: (
        randomised_maps(net, gradcam(net, x, **kw), mode="independent").random_maps
    ),
}
"""Measures that explain again."""

ALL = {
    **JUDGES,
    **EXPLAINERS,
    "embeddings": lambda net, x, **kw: masked_embeddings(net, x, MAPS).masked_embeddings,
}


def lived_in(net: nn.Module) -> nn.Module:
    """A network in the middle of somebody's work: mixed flags, frozen parts, gradients, hooks."""
    for index, module in enumerate(net.modules()):
        module.training = index % 3 != 0
    for index, parameter in enumerate(net.parameters()):
        parameter.requires_grad = index % 2 == 0
        if index % 4 == 0:
            parameter.grad = torch.full_like(parameter, index)
    next(net.children()).register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize("measure", ALL.values(), ids=ALL)
def test_on_success(measure):
    net, x = lived_in(convnet(seed=3)), X.clone().requires_grad_()
    torch.manual_seed(1234)
    before = state_of(net)
    found = measure(net, x)
    assert_same_state(before, state_of(net))
    assert torch.equal(x.detach(), X)
    assert x.requires_grad
    assert x.grad is None
    assert not found.requires_grad
    assert found.isfinite().all()
    torch.testing.assert_close(found, measure(convnet(seed=3), X))  # as if in evaluation mode


@pytest.mark.parametrize("measure", ALL.values(), ids=ALL)
@pytest.mark.parametrize("call", [1, 2, 3])
def test_when_the_network_breaks_in_mid_forward(measure, call):
    net = convnet(seed=3)
    net.pool = nn.Sequential(Fails(call), net.pool)
    lived_in(net)
    torch.manual_seed(1234)
    before = state_of(net)
    try:
        measure(net, X)
    except RuntimeError as error:
        assert "the network broke" in str(error)
    else:
        assert call == 3  # two calls are enough for small batches
    assert_same_state(before, state_of(net))


@pytest.mark.parametrize("measure", JUDGES.values(), ids=JUDGES)
def test_on_the_users_mistake(measure):
    net = lived_in(convnet(seed=3))
    torch.manual_seed(1234)
    before = state_of(net)
    for wrong in ({"target": CLASSES}, {"target": [0]}, {"chunk": 0}):
        with pytest.raises(TorchSaliencyError):
            measure(net, X, **wrong)
        assert_same_state(before, state_of(net))
    with pytest.raises(TorchSaliencyError):
        measure(net, X * torch.nan)
    assert_same_state(before, state_of(net))


@pytest.mark.parametrize("measure", ALL.values(), ids=ALL)
def test_no_result_depends_on_the_modes_of_torch(measure):
    expected = measure(convnet(seed=3), X)
    frozen = convnet(seed=3).requires_grad_(False)
    torch.testing.assert_close(measure(frozen, X), expected)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    with torch.no_grad():
        torch.testing.assert_close(measure(convnet(seed=3), X), expected)
        assert not torch.is_grad_enabled()
    with torch.enable_grad():
        torch.testing.assert_close(measure(convnet(seed=3), X), expected)
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "name",
    ALL,
)
def test_no_result_depends_on_inference_mode(name):
    net = convnet(seed=3)
    expected = ALL[name](net, X)
    with torch.inference_mode():
        torch.testing.assert_close(ALL[name](net, X.clone()), expected)
        assert torch.is_inference_mode_enabled()


@pytest.mark.parametrize("measure", ALL.values(), ids=ALL)
def test_images_and_maps_made_in_inference_mode(measure):
    with torch.inference_mode():
        x = X.clone()
    torch.testing.assert_close(measure(convnet(seed=3), x), measure(convnet(seed=3), X))


def test_logits_known_from_inference_mode():
    net = convnet(seed=3)
    with torch.inference_mode():
        known, maps = net(X), MAPS.clone()
    one = masked_scores(net, X, maps, clean=known)
    torch.testing.assert_close(one.masked, masked_scores(net, X, MAPS).masked)
    curve = perturbation_curve(net, X, maps, clean=known)
    torch.testing.assert_close(curve.probabilities, JUDGES["insertion"](net, X))
    encoder = masked_embeddings(net, X, maps, clean=known)
    torch.testing.assert_close(encoder.embeddings, known.clone())


@pytest.mark.parametrize("measure", ALL.values(), ids=ALL)
def test_networks_that_work_in_place(measure):
    # ReLUs in place change what the convolution gave; the other changes the image it is given
    plain = measure(convnet(seed=3, inplace=False), X)
    torch.testing.assert_close(measure(convnet(seed=3, inplace=True), X), plain)
    x = X.clone()
    measure(InPlaceInput(convnet(seed=3)), x)
    assert torch.equal(x, X)


def test_a_network_that_works_in_place_on_its_input_sees_the_same_images():
    """Its own arithmetic out of place is the same network; a spoilt image would show."""

    class OutOfPlace(InPlaceInput):
        def forward(self, x):
            return self.net(x.sub(0.25).mul(2))

    for name, measure in ALL.items():
        one, other = (
            measure(InPlaceInput(convnet(seed=3)), X),
            measure(OutOfPlace(convnet(seed=3)), X),
        )
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("kind", WRAPPINGS)
@pytest.mark.parametrize("measure", ALL.values(), ids=ALL)
def test_wrapped_outputs(measure, kind):
    torch.testing.assert_close(
        measure(Wraps(convnet(seed=3), kind), X), measure(convnet(seed=3), X), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("measure", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
def test_precisions(measure, dtype):
    net = convnet(seed=3).to(dtype)
    found, expected = measure(net, X, target=1), measure(convnet(seed=3), X, target=1)
    assert found.isfinite().all()
    assert found.dtype in (torch.float32, torch.float64)
    far = {torch.bfloat16: 0.05, torch.float16: 0.02, torch.float64: 1e-4}[dtype]
    assert (found - expected).abs().mean() < far
    assert all(parameter.dtype == dtype for parameter in net.parameters())


@pytest.mark.parametrize("masking", [MeanColour(), RISEBlur()], ids=["mean", "blur"])
def test_curves_of_a_bfloat16_network_end_at_the_clean_image(masking):
    net = convnet(seed=3).bfloat16()
    with torch.no_grad():
        clean = net(X.bfloat16()).double().softmax(1)[:, 1]
    found = perturbation_curve(net, X, MAPS, 1, masking=masking).probabilities
    torch.testing.assert_close(found[:, -1], clean)
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("measure", JUDGES.values(), ids=JUDGES)
def test_wrappers_are_looked_through(measure):
    expected = measure(convnet(seed=3), X)
    torch.testing.assert_close(measure(nn.DataParallel(convnet(seed=3)), X), expected)
