"""Correlations, HOG and SSIM against numpy, scipy and scikit-image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from skimage.feature import hog
from skimage.metrics import structural_similarity

from torchsaliency.metrics.similarity import hog_features, pearson, spearman, ssim

seeds = st.integers(0, 10_000)
CORRELATIONS = [pearson, spearman]


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def arrays(*batches: torch.Tensor) -> list[tuple[np.ndarray, ...]]:
    return list(zip(*(batch.double().numpy() for batch in batches), strict=True))


@given(seed=seeds, height=st.integers(1, 9), width=st.integers(2, 9))
def test_pearson_is_numpys(seed, height, width):
    a, b = maps(seed, 3, height, width), maps(seed + 1, 3, height, width)
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in arrays(a, b)]
    assert pearson(a, b).tolist() == pytest.approx(expected, abs=1e-12)


@given(seed=seeds, levels=st.integers(2, 50))
def test_spearman_is_scipys_with_and_without_ties(seed, levels):
    a, b = (maps(seed + more, 3, 6, 7) for more in (0, 1))
    a = (a * levels).floor() / levels  # at most `levels` values among 42 pixels
    expected = [stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in arrays(a, b)]
    assert spearman(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_ties_have_average_ranks():
    """Ranks 1.5 1.5 3 4 and 1 2 3 4: covariance 4.5, squares 4.5 and 5."""
    a, b = torch.tensor([[[0.1, 0.1], [0.5, 0.9]]]), torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    assert spearman(a, b).tolist() == pytest.approx([4.5 / np.sqrt(4.5 * 5)])


def test_by_hand():
    """Deviations (3, -1, -1, -1)/4 and (1, 1, -1, -1)/2."""
    a, b = torch.tensor([[[1.0, 0], [0, 0]]]), torch.tensor([[[1.0, 1], [0, 0]]])
    assert pearson(a, b).tolist() == pytest.approx([1 / np.sqrt(3)])


@pytest.mark.parametrize("correlation", CORRELATIONS)
@given(seed=seeds, scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_correlations_forget_scale_and_shift_and_know_the_sign(correlation, seed, scale, shift):
    a, b = maps(seed, 2, 5, 4).double(), maps(seed + 1, 2, 5, 4).double()
    found = correlation(a, b)
    torch.testing.assert_close(correlation(scale * a + shift, b), found, atol=1e-9, rtol=0)
    torch.testing.assert_close(correlation(-a, b), -found)
    torch.testing.assert_close(correlation(b, a), found)
    assert correlation(a, a).tolist() == pytest.approx([1, 1])
    assert correlation(a, 1 - a).tolist() == pytest.approx([-1, -1])


def test_spearman_forgets_any_rising_curve():
    a, b = maps(0, 2, 6, 6), maps(1, 2, 6, 6)
    torch.testing.assert_close(spearman(a.double().exp() ** 3, b), spearman(a, b))
    assert pearson(a, a.double().exp() ** 9).max() < 0.99


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_constant_map_has_no_correlation_and_spoils_no_other(correlation, value):
    a, b = maps(0, 2, 7, 7), maps(1, 2, 7, 7)
    alone = correlation(a, b)[1]
    a[0] = value
    for found in (correlation(a, b), correlation(b, a)):
        assert found[0].isnan()
        assert found[1] == alone
    assert correlation(a[:1], a[:1]).isnan().all()


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_rounding_is_not_correlated(correlation):
    """A constant map that was resized or summed is constant still."""
    noise = torch.randn(1, 7, 7, generator=torch.Generator().manual_seed(0))
    assert correlation(0.1 * (1 + 1e-7 * noise), maps(1, 1, 7, 7)).isnan().all()
    small = 0.1 * (1 + 1e-4 * noise)
    assert correlation(small, small).tolist() == pytest.approx([1])


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_correlations_stay_in_range_and_in_float64(correlation):
    a = maps(0, 50, 3, 3)
    for b in (a, 1 - a, a + 1e-6 * maps(1, 50, 3, 3)):
        found = correlation(a, b)
        assert found.dtype == torch.float64
        assert found.abs().max() <= 1


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_features_without_a_plane_are_correlated_too(correlation):
    a, b = maps(0, 3, 20), maps(1, 3, 20)
    torch.testing.assert_close(
        correlation(a, b), correlation(a.view(3, 4, 5), b.view(3, 4, 5)), atol=1e-12, rtol=0
    )
    assert correlation(a[:0], b[:0]).shape == (0,)


def test_ssim_is_scikit_images():
    a, b = maps(0, 3, 32, 24), maps(1, 3, 32, 24)
    b[1] = 0.8 * a[1] + 0.1
    wanted = [
        structural_similarity(x, y, data_range=1.0, gaussian_weights=True) for x, y in arrays(a, b)
    ]
    assert ssim(a, b).tolist() == pytest.approx(wanted, abs=1e-12)
    wanted = [structural_similarity(x, y, data_range=1.0, win_size=5) for x, y in arrays(a, b)]
    assert ssim(a, b, window=5).tolist() == pytest.approx(wanted, abs=1e-12)
    assert ssim(a, b).dtype == torch.float64


@pytest.mark.parametrize("window", [None, 5])
def test_ssim_of_constants_by_hand(window):
    """No variance: (2·x·y + c) / (x² + y² + c) with c = 0.01², whatever the window."""
    a, b = torch.full((1, 16, 16), 0.2), torch.full((1, 16, 16), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(a, b, window=window).tolist() == pytest.approx([expected], rel=1e-5)
    same = maps(0, 2, 16, 16)
    assert ssim(same, same, window=window).tolist() == pytest.approx([1, 1])
    torch.testing.assert_close(ssim(a, b, window=window), ssim(b, a, window=window))


@pytest.mark.parametrize(
    ("height", "width", "cell", "length"),
    [
        (224, 224, 16, 12 * 12 * 81),  # 14 cells a side, 12 positions of 3×3 blocks, 9 angles
        (48, 48, 16, 81),
        (64, 80, 16, 2 * 3 * 81),
        (32, 32, 8, 2 * 2 * 81),
    ],
)
def test_hog_shapes(height, width, cell, length):
    batch = maps(0, 2, height, width)
    found = hog_features(batch, cell)
    assert found.shape == (2, length)
    assert found.dtype == torch.float64
    expected = hog(batch[1].double().numpy(), pixels_per_cell=(cell, cell))
    assert found[1].tolist() == pytest.approx(expected.tolist())


def test_hog_sees_directions_and_no_brightness():
    ramp = torch.linspace(0, 1, 48).expand(48, 48)[None].contiguous()
    across, down = hog_features(ramp), hog_features(ramp.mT.contiguous())
    torch.testing.assert_close(hog_features(0.5 * ramp + 0.3), across, atol=1e-3, rtol=0)
    assert float((across * down).sum()) < 0.01 * float((across * across).sum())
    assert hog_features(0 * ramp).count_nonzero() == 0


def test_no_maps():
    none = torch.empty(0, 64, 64)
    assert ssim(none, none).shape == (0,)
    assert len(hog_features(none)) == 0
