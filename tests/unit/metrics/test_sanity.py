"""Sanity checks: identical maps, inverted maps, constant maps; against scipy and scikit-image."""

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats
from skimage.feature import hog
from skimage.metrics import structural_similarity

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics import functional
from torchsaliency.metrics.base import create_metric, metric_entry, metrics
from torchsaliency.metrics.sanity import (
    HOGSimilarity,
    SpearmanSimilarity,
    hog_similarity,
    rank_similarity,
    ssim_similarity,
)

NAMES = ["spearman", "spearman-abs", "hog", "ssim"]
EACH = pytest.mark.parametrize("name", NAMES)
SIDE = 48


@pytest.fixture
def as_users_run_it():
    """Without the tests' type checker, which would answer a wrong shape before the library does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def smooth(*shape, seed=0):
    """Maps (…, 48, 48) in [0, 1] that touch both ends."""
    draw = np.random.default_rng(seed)
    rough = draw.standard_normal((*shape, SIDE, SIDE))
    made = ndimage.gaussian_filter(rough, (0,) * len(shape) + (3, 3))
    low, high = made.min((-2, -1), keepdims=True), made.max((-2, -1), keepdims=True)
    return torch.from_numpy((made - low) / (high - low))


def scored(name, maps, others, **options):
    made = create_metric(name, {"stages": others.shape[1], **options})
    made.update(maps, others)
    return made


class TestRanks:
    @pytest.mark.parametrize("absolute", [False, True])
    def test_against_scipy(self, absolute):
        first, second = smooth(4), smooth(4, seed=1)
        second = (second * 8).round() / 8  # with ties
        found = rank_similarity(first, second, absolute=absolute)
        for place, (one, other) in enumerate(zip(first.numpy(), second.numpy(), strict=True)):
            if absolute:
                one, other = np.abs(0.5 - one), np.abs(0.5 - other)
            expected = stats.spearmanr(one.ravel(), other.ravel()).statistic
            assert found[place].item() == pytest.approx(expected, abs=1e-12)

    def test_by_hand(self):
        first = torch.tensor([[[0.0, 0.25], [0.625, 1.0]]])
        second = torch.tensor([[[0.25, 0.125], [0.5, 0.875]]])
        # ranks 1 2 3 4 and 2 1 3 4: 1 - 6 · 2 / (4 · 15)
        assert rank_similarity(first, second).item() == pytest.approx(0.8)
        # folded, ranks 3.5 2 1 3.5 and 2 3.5 1 3.5: covariance 2.25, squares 4.5 and 4.5
        found = rank_similarity(first, second, absolute=True).item()
        assert found == pytest.approx(0.5)

    @given(st.floats(0.2, 5), st.integers(0, 99))
    def test_only_the_order_matters(self, power, seed):
        first, second = smooth(2, seed=seed), smooth(2, seed=seed + 1)
        found = rank_similarity(first, second)
        assert torch.allclose(found, rank_similarity(first**power, second))
        assert torch.allclose(found, rank_similarity(second, first))
        assert torch.allclose(found, -rank_similarity(1 - first, second))
        assert (found.abs() <= 1).all()

    def test_absolute_folds_strong_and_weak_together(self):
        maps = smooth(3)
        assert rank_similarity(maps, 1 - maps, absolute=True).tolist() == pytest.approx([1] * 3)

    def test_absolute_is_undefined_for_a_map_of_two_values(self):
        """|0.5 - S| is 0.5 everywhere."""
        assert rank_similarity(smooth(1).round(), smooth(1), absolute=True).isnan().all()
        assert rank_similarity(smooth(1), smooth(1).round(), absolute=True).isnan().all()
        assert rank_similarity(smooth(1).round(), smooth(1)).isfinite().all()

    def test_a_single_precision_fold_is_constant_up_to_rounding(self):
        maps = torch.where(smooth(1).float() < 0.5, 0.3, 0.7)  # |0.5 - S| is 0.2, rounded twice
        assert rank_similarity(maps, smooth(1).float(), absolute=True).isnan().all()


class TestHOG:
    def test_against_scikit_image(self):
        first, second = smooth(3), smooth(3, seed=1)
        ranked = hog_similarity(first, second)
        plain = hog_similarity(first, second, "pearson")
        for place in range(3):
            features = [
                hog(
                    one[place].numpy(),
                    orientations=9,
                    pixels_per_cell=(16, 16),
                    cells_per_block=(3, 3),
                    block_norm="L2-Hys",
                )
                for one in (first, second)
            ]
            assert features[0].shape == (81,)
            expected = stats.spearmanr(*features).statistic
            assert ranked[place].item() == pytest.approx(expected, abs=1e-12)
            assert plain[place].item() == pytest.approx(np.corrcoef(*features)[0, 1], abs=1e-12)
            assert abs(expected - plain[place]) > 1e-3

    @pytest.mark.parametrize("correlation", ["spearman", "pearson"])
    def test_an_edge_has_no_sign(self, correlation):
        maps = smooth(2)
        assert hog_similarity(maps, 1 - maps, correlation).tolist() == pytest.approx([1, 1])

    def test_edges_across_are_unlike(self):
        """Of 81 numbers 9 are above zero in either map, at different places: -9/72."""
        wave = (torch.arange(SIDE) % 8 < 4).double()
        lying, standing = wave[:, None].expand(1, SIDE, SIDE), wave.expand(1, SIDE, SIDE)
        for one, other in ((lying, standing), (standing, lying)):
            assert hog_similarity(one, other, "pearson").item() == pytest.approx(-1 / 8)
        assert hog_similarity(lying, lying).item() == pytest.approx(1)

    def test_a_turn_moves_cells(self):
        maps = smooth(1)
        assert hog_similarity(maps, maps.rot90(1, (1, 2))).item() < 0.9

    def test_a_map_without_edges_is_undefined(self):
        flat = torch.full((1, SIDE, SIDE), 0.5, dtype=torch.float64)
        for correlation in ("spearman", "pearson"):
            assert hog_similarity(smooth(1), flat, correlation).isnan().all()
            assert hog_similarity(flat, smooth(1), correlation).isnan().all()

    def test_settings(self):
        made = create_metric("hog", {"correlation": "pearson", "stages": "2"})
        assert made.settings == {
            "mode": "cascading",
            "stages": 2,
            "seed": 0,
            "correlation": "pearson",
        }
        first, second = smooth(2), smooth(2, seed=1)
        made.update(first, torch.stack([first, second], 1))
        expected = hog_similarity(first, second, "pearson")
        assert torch.equal(made.per_image, expected)
        with pytest.raises(OptionError, match="correlation"):
            create_metric("hog", {"correlation": "kendall"})


class TestSSIM:
    @pytest.mark.parametrize("window", [None, 5, 7])
    def test_against_scikit_image(self, window):
        first, second = smooth(3), smooth(3, seed=1)
        how = {"gaussian_weights": True} if window is None else {"win_size": window}
        expected = [
            structural_similarity(one, other, data_range=1, **how)
            for one, other in zip(first.numpy(), second.numpy(), strict=True)
        ]
        assert ssim_similarity(first, second, window).tolist() == pytest.approx(expected)
        made = scored("ssim", first, second[:, None], window=window)
        assert made.per_image.tolist() == pytest.approx(expected)
        assert made.settings["window"] == window

    def test_constant_maps_by_formula(self):
        """Nothing but the luminance is left: (2ab + c) / (a² + b² + c), c = 0.01²."""
        found = ssim_similarity(torch.full((1, 16, 16), 0.2), torch.full((1, 16, 16), 0.8))
        assert found.item() == pytest.approx((0.32 + 1e-4) / (0.04 + 0.64 + 1e-4), rel=1e-5)
        black, white = torch.zeros(1, 16, 16), torch.ones(1, 16, 16)
        assert ssim_similarity(black, white).item() == pytest.approx(1e-4 / (1 + 1e-4))

    def test_never_undefined(self):
        flat = torch.zeros(1, SIDE, SIDE)
        assert ssim_similarity(flat, smooth(1).float()).isfinite().all()
        assert ssim_similarity(flat, flat).item() == pytest.approx(1)

    def test_the_inverse_of_a_pattern_is_nearly_the_worst(self):
        """Means 1/2, variances 1/4 and covariance -1/4: close to -1 with c = 0.03²."""
        pattern = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)).remainder(2)[None].double()
        found = ssim_similarity(pattern, 1 - pattern).item()
        assert found == pytest.approx((-0.5 + 9e-4) / (0.5 + 9e-4), abs=2e-3)
        assert found == pytest.approx(metric_entry("ssim").best, abs=5e-3)


@EACH
def test_identical_maps_are_the_worst(name):
    maps = smooth(3)
    made = scored(name, maps, maps[:, None].repeat(1, 2, 1, 1))
    assert made.per_image.tolist() == pytest.approx([1] * 3)
    assert made.curve.tolist() == pytest.approx([1, 1])
    assert made.compute().item() == pytest.approx(made.entry.worst)
    assert made.entry.direction == "lower"


def test_inverted_ranks_are_the_best():
    maps = smooth(3)
    made = scored("spearman", maps, (1 - maps)[:, None])
    assert made.compute().item() == pytest.approx(-1)
    assert made.entry.best == -1


def test_an_inverted_fold_is_the_best():
    maps = 0.5 + smooth(3) / 2  # |0.5 - S| rises with S
    made = scored("spearman-abs", maps, (1.5 - maps)[:, None])
    assert made.compute().item() == pytest.approx(-1)
    assert made.entry.best == -1


@EACH
def test_unrelated_maps_are_between(name):
    found = scored(name, smooth(6), smooth(6, 1, seed=7)).per_image
    assert (found < 0.95).all()
    assert (found > -0.95).all()


@EACH
def test_the_number_is_that_of_the_last_stage_and_the_curve_has_all(name):
    maps, others = smooth(2), smooth(2, 3, seed=2)
    others[:, 0] = maps
    made = scored(name, maps, others)
    single = [scored(name, maps, others[:, [stage]]) for stage in range(3)]
    assert torch.equal(made.per_image, single[-1].per_image)
    assert made.compute().item() == pytest.approx(single[-1].compute().item())
    expected = [one.compute().item() for one in single]
    assert made.curve.tolist() == pytest.approx(expected)
    assert expected[0] == pytest.approx(1)
    assert len(set(expected)) == 3


@pytest.mark.parametrize("name", NAMES[:-1])
def test_constant_maps_are_undefined_and_not_averaged(name):
    maps, others = smooth(4), smooth(4, 2, seed=2)
    alone = scored(name, maps[:1], others[:1])
    maps[1] = 0
    others[2, 0] = 0.25  # undefined at a stage before the last
    others[3, 1] = 1
    made = scored(name, maps, others)
    assert made.per_image.isnan().tolist() == [False, True, True, True]
    assert made.compute().item() == alone.compute().item()
    assert torch.equal(made.curve, alone.curve)
    summary = made.summary()
    assert (summary.count, summary.undefined) == (1, 3)
    made.reset()
    made.update(maps[1:2], others[1:2])
    with pytest.warns(UserWarning, match="none defines it"):
        assert made.compute().isnan()


def test_ssim_of_constant_maps_counts():
    maps, others = smooth(2), smooth(2, 1, seed=2)
    maps[0] = 0
    made = scored("ssim", maps, others)
    assert made.summary().undefined == 0
    assert made.summary().count == 2


@EACH
def test_the_number_of_stages_is_checked(name):
    made = create_metric(name)
    assert made.settings["stages"] == 5 == made.width
    with pytest.raises(InputError, match=r"stages=…"):
        made.update(smooth(1), smooth(1, 4))
    with pytest.raises(InputError, match=r"stages=…"):
        made.update(smooth(1), smooth(1))
    made.update(smooth(1), smooth(1, 5))


@EACH
@pytest.mark.parametrize("stages", [0, -1])
def test_at_least_one_stage(name, stages):
    with pytest.raises(OptionError):
        create_metric(name, {"stages": stages})


@EACH
def test_the_measure_is_told_mode_stages_and_seed(name):
    made = create_metric(name, {"mode": "independent", "stages": "3", "seed": 7})
    told = {key: made.settings[key] for key in ("mode", "stages", "seed")}
    assert told == {"mode": "independent", "stages": 3, "seed": 7}
    assert made.entry.requires == ("randomised_maps",)
    with pytest.raises(OptionError, match="mode"):
        create_metric(name, {"mode": "both"})


@EACH
def test_of_permuted_labels_there_is_one_network(name):
    made = create_metric(name, {"mode": "labels"})
    assert (made.stages, made.settings["stages"]) == (1, 1)
    maps = smooth(3)
    made.update(maps, maps[:, None])
    assert made.compute().item() == pytest.approx(1)


class TestSmallMaps:
    def test_hog_needs_a_block(self):
        small = torch.rand(1, 47, 60)
        for made in (HOGSimilarity(stages=1),):
            with pytest.raises(InputError, match="48x48"):
                made.update(small, small[:, None])
            with pytest.raises(InputError, match="48x48"):
                made.update(small.mT, small.mT[:, None])

    @pytest.mark.parametrize(("window", "side"), [(None, 11), (5, 5), (7, 7)])
    def test_ssim_needs_a_window(self, window, side):
        made = create_metric("ssim", {"stages": 1, "window": window})
        fits, small = torch.rand(1, side, side), torch.rand(1, side + 3, side - 1)
        made.update(fits, fits[:, None])
        assert made.compute().item() == pytest.approx(1)
        with pytest.raises(InputError, match=f"{side}x{side}"):
            made.update(small, small[:, None])

    @pytest.mark.parametrize("window", [4, 1, 0, -3])
    def test_a_window_is_odd_and_at_least_three(self, window):
        with pytest.raises((OptionError, InputError)):
            scored("ssim", smooth(1), smooth(1, 1), window=window)

    def test_ranks_need_none(self):
        pair = torch.tensor([[[0.0, 1.0]]])
        made = SpearmanSimilarity(stages=1)
        made.update(pair, pair[:, None])
        assert made.compute().item() == pytest.approx(1)


@EACH
@pytest.mark.usefixtures("as_users_run_it")
def test_wrong_maps_are_told(name):
    maps = smooth(2)
    made = create_metric(name, {"stages": 1})
    for others in (smooth(1, 1), smooth(2, 1)[..., :-1], smooth(3, 1)):
        with pytest.raises(InputError, match="cannot be compared"):
            made.update(maps, others)
    for wrong in (2 * maps, maps - 1, maps * float("nan")):
        for pair in ((wrong, maps), (maps, wrong)):
            with pytest.raises(InputError, match=r"[Mm]aps"):
                made.update(pair[0], pair[1][:, None])
    assert len(made.per_image) == 0


@EACH
def test_batches_add_up(name):
    maps, others = smooth(5), smooth(5, 2, seed=3)
    whole, parts = scored(name, maps, others), scored(name, maps[:2], others[:2])
    parts.update(maps[2:], others[2:])
    assert torch.equal(whole.per_image, parts.per_image)
    assert whole.compute().item() == pytest.approx(whole.per_image.mean().item())


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_all_float_types_are_accepted(name, dtype):
    maps, others = (smooth(1) * 8).round() / 8, (smooth(1, 1, seed=1) * 8).round() / 8
    made = scored(name, maps.to(dtype), others.to(dtype))
    exact = scored(name, maps, others)
    assert made.per_image.item() == pytest.approx(exact.per_image.item(), abs=1e-6)


@pytest.mark.parametrize(
    "name",
    NAMES,
)
def test_no_images_are_no_error(name):
    made = create_metric(name)
    made.update(smooth(1)[:0], smooth(1, 5)[:0])
    assert made.per_image.shape == (0,)


def test_the_registry_knows():
    found = [one for one, entry in metrics().items() if entry.group == "sanity"]
    assert found == [*NAMES, "mprt", "smprt", "emprt", "random-logit"]
    for name in NAMES:
        entry = metric_entry(name)
        sections = ("Formula", "Rewards", "Misleads", "Undefined", "Source")
        assert all(entry.section(key) for key in sections)
        assert create_metric(name, entry.options).settings == dict(entry.options)


# --- the average of the stages, complexity, other classes ----------------------------------------


def test_mprt_is_the_mean_of_the_curve():
    maps, random_maps = torch.rand(4, 9, 8), torch.rand(4, 5, 9, 8)
    made = create_metric("mprt")
    made.update(maps, random_maps)
    assert made.compute().item() == pytest.approx(made.curve.mean().item())
    same = create_metric("smprt")
    same.update(maps, maps[:, None].expand(-1, 5, -1, -1))
    assert same.compute().item() == pytest.approx(1) == same.entry.worst


def test_the_rise_of_complexity_by_hand():
    """Two values in equal shares have entropy ln 2, four have ln 4: a rise of 1."""
    two = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    four = torch.tensor([[[0.0, 0.3], [0.6, 1.0]]])
    found = functional.complexity_rise(two, four)
    assert found.item() == pytest.approx(1)
    assert functional.complexity_rise(four, two).item() == pytest.approx(-0.5)
    # the worst: a random network's map says nothing
    flat = functional.complexity_rise(four, torch.full_like(four, 0.5))
    assert flat.item() == create_metric("emprt").entry.worst
    assert functional.complexity_rise(torch.zeros_like(two), four).isnan().all()


@pytest.mark.parametrize("similarity", ["ssim", "spearman"])
def test_random_logits(similarity):
    maps = torch.rand(2, 12, 12)
    made = create_metric("random-logit", {"similarity": similarity})
    made.update(maps, maps)
    assert made.compute().item() == pytest.approx(1) == made.entry.worst
    made.reset()
    made.update(maps, 1 - maps)
    assert made.compute().item() < -0.5
