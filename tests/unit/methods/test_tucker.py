"""Tucker and Eigen maps against tensorly's and numpy's decompositions."""

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorly.decomposition import tucker
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nets import convnet, images
from torchsaliency import (
    MTSM,
    TSM,
    EigenCAM,
    MultivecEigenCAM,
    OptionError,
    View,
    dominant_variance,
    tracing,
)
from torchsaliency.core.maps import minmax
from torchsaliency.methods.tucker.spectrum import spectrum

# tensorly completes a factor beyond the unfolding's rank by vectors of its own, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Trying to compute SVD:UserWarning:tensorly")


def viewing(features):
    """A view of features that were given; decompositions read nothing else."""
    view = object.__new__(View)
    view.__dict__["activations"] = features  # where the cached property keeps them
    return view


def blobs(channels, height, width, seed=0, count=1):
    """Non-negative features with a bright blob that many channels share."""
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    blob = torch.exp(-4 * ((y - 0.3) ** 2 + (x + 0.2) ** 2))
    gains = torch.rand(count, channels, 1, 1, generator=draw)
    return gains * blob + 0.3 * torch.rand(count, channels, height, width, generator=draw)


def tensorly_maps(features, rank):
    """TSM and MTSM by the papers' formulas on tensorly's higher-order orthogonal iteration."""
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        core, factors = tucker(features, rank=rank, random_state=0)
    sigma = core.flatten(1).norm(dim=1)
    projections = torch.einsum("ki,k...->i...", factors[0], features)
    first = projections[0].abs()
    return first, torch.einsum("i,i...->...", sigma / sigma[0], projections.abs())


SHAPES = {
    "64x7x7": ((64, 7, 7), None),
    "48x6x5": ((48, 6, 5), None),
    "wide": ((6, 9, 11), None),
    "tall": ((30, 3, 2), None),
    "one channel": ((1, 4, 4), None),
    "2048x7x7": ((2048, 7, 7), (49, 7, 7)),
    "512x14x14": ((512, 14, 14), (196, 14, 14)),
    "64x56x56": ((64, 56, 56), (64, 56, 56)),
}
"""Exactly full rank where that is affordable; (2048, 7, 7) takes tensorly half a minute so, and 49
channels span the unfolding's whole rank already. The large ones are shown in float32 alone."""


@pytest.mark.parametrize("shape", [(12, 3, 4, 5), (6, 2, 9, 7), (40, 2, 3, 3), (5, 30)])
@pytest.mark.parametrize("truncated", [False, True])
def test_volumes_and_signals_are_decomposed_as_tensorly_does(shape, truncated):
    draw = torch.Generator().manual_seed(0)
    features = torch.rand(1, *shape, generator=draw, dtype=torch.float64)
    rank = tuple(max(1, side // 2) for side in shape) if truncated else None
    expected = tensorly_maps(features[0], rank or shape)
    for kind, plain in zip((TSM, MTSM), expected, strict=True):
        made = kind(multilinear_rank=rank).saliency(viewing(features))
        difference = minmax(made) - minmax(plain[None])
        assert difference.abs().max() < 1e-8
    if rank:
        with pytest.raises(OptionError, match="give one number a mode"):
            TSM(multilinear_rank=(*rank, 2)[:4] if len(shape) == 2 else rank[:2]).saliency(
                viewing(features)
            )


@pytest.mark.parametrize(
    ("shape", "rank", "dtype"),
    [
        pytest.param(shape, rank, dtype, id=f"{name}-{dtype}".replace("torch.", ""))
        for name, (shape, rank) in SHAPES.items()
        for dtype in (torch.float32, torch.float64)
        if dtype == torch.float32 or np.prod(shape) <= 20_000
    ],
)
def test_the_closed_form_equals_tensorly_at_full_rank(shape, rank, dtype):
    features = blobs(*shape).to(dtype)
    first, several = tensorly_maps(features[0].double(), rank or shape)
    view = viewing(features)
    loose = 1e-4 if dtype == torch.float32 else 1e-9
    for method, expected in ((TSM(), first), (MTSM(), several)):
        made = method.saliency(view)
        assert made.dtype == dtype
        difference = minmax(made.double()) - minmax(expected[None])
        assert difference.abs().max() < loose
        torch.testing.assert_close(made[0].double(), expected, rtol=loose, atol=loose * 10)


@pytest.mark.parametrize("rank", [(3, 4, 4), (64, 3, 3), (5, 7, 2), (1, 1, 1), (999, 999, 3)])
def test_truncated_ranks_are_tensorlys(rank):
    features = blobs(64, 7, 7, count=2, seed=3)
    cut = [min(a, b) for a, b in zip(rank, (64, 7, 7), strict=True)]
    for index in range(2):
        first, several = tensorly_maps(features[index].double(), cut)
        for method, expected in ((TSM(rank), first), (MTSM(rank), several)):
            made = method.saliency(viewing(features))[index].double()
            torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rank", [(64, 3, 3), (64, 7, 7)])
def test_completing_a_factor_is_repeatable_and_leaves_numpy_alone(rank):
    """tensorly completes it by random vectors, by default from numpy's global generator."""
    view = viewing(blobs(64, 7, 7))
    np.random.seed(3)  # noqa: NPY002 (the user's legacy generator)
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    first, second = MTSM(rank).saliency(view), MTSM(rank).saliency(view)
    assert torch.equal(first, second)
    assert np.random.rand() == expected  # noqa: NPY002


def test_full_rank_by_iteration_equals_the_closed_form():
    view = viewing(blobs(20, 5, 6, count=2))
    for method in (TSM, MTSM):
        slow, quick = method((20, 5, 6)).saliency(view), method().saliency(view)
        torch.testing.assert_close(slow, quick, atol=1e-4, rtol=1e-4)


def test_only_a_reduced_spatial_rank_changes_the_map():
    view = viewing(blobs(40, 6, 6))
    full = minmax(TSM().saliency(view))
    assert (minmax(TSM((10, 6, 6)).saliency(view)) - full).abs().max() < 1e-4
    assert (minmax(TSM((40, 2, 2)).saliency(view)) - full).abs().max() > 1e-4


shapes = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))


@given(shape=shapes, seed=st.integers(0, 99), centred=st.booleans())
def test_singular_values_and_projections_are_numpys(shape, seed, centred):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(2, *shape, generator=draw).double()
    found = spectrum(features, centred=centred)
    for index in range(2):
        matrix = features[index].flatten(1).numpy()
        matrix = matrix - matrix.mean(1, keepdims=True) if centred else matrix
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
        np.testing.assert_allclose(found.values[index], values, atol=1e-6)
        projections = np.abs(left.T @ matrix)
        made = found.projections[index].flatten(1).abs().numpy()
        scale = max(1, values[0])
        # A vector between two nearly equal values is not determined.
        clear = [
            i
            for i in range(len(values))
            if all(abs(values[i] - v) > 1e-2 * scale for j, v in enumerate(values) if j != i)
        ]
        np.testing.assert_allclose(made[clear], projections[clear], atol=1e-5)


def test_mtsm_weights_by_squared_singular_values():
    """Σ σ_i² |v_i| / σ_1, from numpy's right singular vectors."""
    features = blobs(20, 4, 5, seed=2).double()
    matrix = features[0].flatten(1).numpy()
    _, values, right = np.linalg.svd(matrix, full_matrices=False)
    expected = (values[:, None] ** 2 * np.abs(right)).sum(0) / values[0]
    np.testing.assert_allclose(MTSM().saliency(viewing(features))[0].flatten(), expected, rtol=1e-8)
    expected = values[0] * np.abs(right[0])
    np.testing.assert_allclose(TSM().saliency(viewing(features))[0].flatten(), expected, rtol=1e-8)
    centred = matrix - matrix.mean(1, keepdims=True)
    _, values, right = np.linalg.svd(centred, full_matrices=False)
    expected = (values[:, None] ** 2 * np.abs(right)).sum(0) / values[0]
    made = MultivecEigenCAM().saliency(viewing(features))[0].flatten()
    np.testing.assert_allclose(made, expected, rtol=1e-8)


def test_uncentred_multivec_eigencam_is_mtsm():
    view = viewing(blobs(20, 4, 5))
    torch.testing.assert_close(
        MultivecEigenCAM(centred=False).saliency(view), MTSM().saliency(view)
    )


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", [(30, 4, 5), (6, 9, 11)])
def test_eigencam_and_its_signs(centred, shape):
    features = blobs(*shape, seed=1).double()
    matrix = features[0].flatten(1).numpy()
    matrix = matrix - matrix.mean(1, keepdims=True) if centred else matrix
    left = np.linalg.svd(matrix, full_matrices=False)[0][:, 0]
    component = (left @ matrix).reshape(shape[1:])
    turned = component if component.max() >= -component.min() else -component
    view = viewing(features)
    made = EigenCAM(centred=centred).saliency(view)[0]
    np.testing.assert_allclose(made, turned.clip(0), atol=1e-8)
    absolute = EigenCAM(centred=centred, sign="abs").saliency(view)[0]
    np.testing.assert_allclose(absolute, np.abs(component), atol=1e-8)
    raw = EigenCAM(centred=centred, sign="raw").saliency(view)[0].numpy()
    assert min(np.abs(raw - side.clip(0)).max() for side in (component, -component)) < 1e-8


@pytest.mark.parametrize("centred", [True, False])
def test_the_raw_sign_of_an_image_is_that_of_it_alone(centred):
    features = blobs(6, 3, 4, count=3, seed=2)
    method = EigenCAM(centred=centred, sign="raw")
    alone = [method.saliency(viewing(one[None])) for one in features]
    torch.testing.assert_close(method.saliency(viewing(features)), torch.cat(alone))


def test_the_sign_does_not_depend_on_how_it_is_computed():
    """Channels shuffled, positions mirrored, padded by dead channels: the same map."""
    features = blobs(30, 5, 5, seed=4)
    expected = EigenCAM().saliency(viewing(features))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for other, back in (
        (features[:, order], lambda s: s),
        (features.flip(3), lambda s: s.flip(2)),
        (torch.cat([features, torch.zeros(1, 40, 5, 5)], 1), lambda s: s),
        (torch.cat([features, features]), lambda s: s[1:]),
    ):
        made = back(EigenCAM().saliency(viewing(other)))
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


def test_uncentred_eigencam_of_non_negative_features_is_tsm():
    """All one sign (Perron), so the published sign may erase the whole map and ours cannot."""
    view = viewing(blobs(40, 5, 5))
    torch.testing.assert_close(EigenCAM(centred=False).saliency(view), TSM().saliency(view))


@pytest.mark.parametrize(("kind", "centred"), [("tucker", False), ("svd", True)])
def test_dominant_variance(kind, centred):
    features = blobs(12, 4, 4, count=3)
    found = dominant_variance(features, kind, 5)
    for index, one in enumerate(features):
        matrix = one.flatten(1).double().numpy()
        matrix = matrix - matrix.mean(1, keepdims=True) if centred else matrix
        values = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(found[index], values[:5] / values.sum(), rtol=1e-4)
    shares = dominant_variance(features, kind, 20)
    assert shares.shape == (3, 20)
    assert shares[:, 12:].count_nonzero() == 0
    torch.testing.assert_close(shares.sum(1), torch.ones(3))


def test_dominant_variance_of_nothing_is_nothing():
    assert dominant_variance(torch.zeros(1, 3, 2, 2), "svd", 2).tolist() == [[0, 0]]


def test_the_core_of_the_iteration_has_the_same_values():
    features = blobs(24, 4, 4).double()
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        core, _ = tucker(features[0], rank=[24, 4, 4])
    sigma = core.flatten(1).norm(dim=1)[:16]
    torch.testing.assert_close(spectrum(features).values[0], sigma, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("method", [TSM(), MTSM(), EigenCAM(), MultivecEigenCAM()])
def test_one_image_without_finite_features_leaves_the_others_alone(method):
    features = blobs(10, 4, 4, count=3)
    expected = method.saliency(viewing(features))
    for value in (torch.nan, torch.inf):
        features[1, 2, 3, 3] = value
        made = method.saliency(viewing(features))
        assert made[1].isnan().all()
        torch.testing.assert_close(made[::2], expected[::2])


@pytest.mark.parametrize("method", [TSM(), MTSM(), EigenCAM(), MultivecEigenCAM()])
def test_constant_features_have_no_direction(method):
    for value in (0.0, 1.0, 0.1, -3.3):
        made = method.saliency(viewing(torch.full((2, 5, 3, 3), value)))
        assert minmax(made).count_nonzero() == 0


class Counted(TorchDispatchMode):
    """Decompositions by name, and the most numbers that any result holds."""

    def __init__(self):
        super().__init__()
        self.decompositions, self.largest = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if "linalg_eig" in func.name() or "linalg_svd" in func.name():
            self.decompositions.append(func.name().split("::")[1].split(".")[0])
        tensors = [one for one in tree_leaves(found) if isinstance(one, torch.Tensor)]
        self.largest = max(self.largest, *(one.numel() for one in tensors), 0, 0)
        return found


@pytest.mark.parametrize("method", [TSM(), MTSM(), EigenCAM(), MultivecEigenCAM()])
def test_one_small_decomposition_whatever_the_number_of_channels(method):
    features = torch.rand(2, 2048, 7, 7)
    with Counted() as counted:
        method.saliency(viewing(features))
    # of the 49 x 49 Gram matrices of both images: the 2048 x 2048 ones take a second each
    assert len(counted.decompositions) == 1, counted.decompositions
    assert counted.largest <= features.numel()


def test_neither_ranks_nor_half_precision_upset_the_shared_pass():
    net, x = convnet().half(), images(2)
    with tracing(net, x, 1, ["relu3"], gradients=False) as trace:
        for method in (TSM(), MTSM(), TSM((2, 3, 3)), MTSM((2, 3, 3))):
            made = method.saliency(trace["relu3"])
            assert made.shape == (2, 8, 8)
            assert made.dtype == torch.float32
            assert made.isfinite().all()
