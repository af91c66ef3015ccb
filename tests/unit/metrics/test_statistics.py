"""Intervals, paired comparisons and rankings, against scipy and by hand."""

import json

import jaxtyping
import numpy as np
import pytest
import torch
from scipy import stats

from torchsaliency import InputError
from torchsaliency.metrics import statistics
from torchsaliency.metrics.statistics import bootstrap, compare, rank_agreement

NAN = float("nan")


def mean(of_rows: torch.Tensor) -> torch.Tensor:
    return of_rows[..., 0]


def ratio(of_rows: torch.Tensor) -> torch.Tensor:
    return of_rows[..., 0] / of_rows[..., 1]


def rows(count: int, width: int = 1, seed: int = 0) -> torch.Tensor:
    made = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return made.double().exp()


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.fixture
def as_users_run_it():
    """Without the tests' type checker, which would answer a wrong shape before the library does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class TestBootstrap:
    @pytest.mark.parametrize("confidence", [0.95, 0.8])
    @pytest.mark.parametrize(
        ("statistic", "width", "numpys"),
        [
            (mean, 1, lambda x, axis: x.mean(axis)),
            (ratio, 2, lambda x, y, axis: x.mean(axis) / y.mean(axis)),
        ],
        ids=["mean", "ratio-of-means"],
    )
    def test_scipys_interval(self, confidence, statistic, width, numpys):
        """Of 20 000 draws an end is known to about 0.02 standard errors."""
        sample = rows(30, width)
        t = stats.t.ppf((1 - confidence) / 2, 29)
        expanded = 1 - 2 * stats.norm.cdf((30 / 29) ** 0.5 * t)
        found = bootstrap(sample, statistic, confidence=confidence, resamples=20_000)
        expected = stats.bootstrap(
            tuple(sample.T.numpy()),
            numpys,
            n_resamples=20_000,
            confidence_level=expanded,
            method="percentile",
            paired=True,
            rng=np.random.default_rng(0),
        )
        interval = expected.confidence_interval
        near = 0.1 * expected.standard_error
        assert found == pytest.approx((interval.low, interval.high), abs=near)

    def test_two_images_by_hand(self):
        """The means are 0, 1/2 and 1 by 1/4, 1/2 and 1/4; t_1 is Cauchy's, 0.325 at 60 %."""
        sample = values(0, 1)[:, None]
        assert bootstrap(sample, mean, confidence=0.95) == (0, 1)
        assert stats.norm.cdf(-(2**0.5) * np.tan(0.1 * np.pi)) > 0.25
        assert bootstrap(sample, mean, confidence=0.2) == (0.5, 0.5)

    @pytest.mark.parametrize(
        ("draw", "truth", "least"),
        [
            (torch.special.ndtri, 0.0, 0.93),
            (lambda u: (u - 0.4).clamp_min(0) / 0.6, 0.3, 0.92),  # drops, many of them 0
            (lambda u: (u < 0.3).double(), 0.3, 0.90),  # an increase or none
            (lambda u: torch.special.ndtri(u).exp(), np.exp(0.5), 0.80),
        ],
        ids=["normal", "drops", "increases", "lognormal"],
    )
    def test_coverage_of_eight_images(self, draw, truth, least):
        """Plain percentiles reach 0.90, 0.90, 0.93 and 0.81 here; of 400 samples, ± 0.02."""
        generator = torch.Generator().manual_seed(0)
        samples = draw(torch.rand(400, 8, 1, generator=generator, dtype=torch.float64))
        held = 0
        for place, one in enumerate(samples):
            low, high = bootstrap(one, mean, resamples=1000, seed=place)
            held += low <= truth + 1e-9 and high >= truth - 1e-9
        assert least * 400 <= held <= 0.985 * 400

    def test_no_end_beyond_what_can_be(self):
        """Student's interval of these would begin below 0."""
        low, high = bootstrap(values(0, 0, 0, 0, 0, 100)[:, None], mean)
        assert low == 0
        assert high < 100

    def test_coverage(self):
        """Of 95 % intervals about 95 % hold the truth."""
        samples = torch.randn(200, 40, 1, generator=torch.Generator().manual_seed(0)).double()
        ends = [
            bootstrap(one, mean, resamples=500, seed=place) for place, one in enumerate(samples)
        ]
        held = sum(low <= 0 <= high for low, high in ends)
        assert 0.90 * 200 <= held <= 0.98 * 200

    def test_coverage_follows_the_confidence(self):
        samples = torch.randn(200, 40, 1, generator=torch.Generator().manual_seed(1)).double()
        held = 0
        for place, one in enumerate(samples):
            low, high = bootstrap(one, mean, confidence=0.5, resamples=500, seed=place)
            held += low <= 0 <= high
        assert 0.40 * 200 <= held <= 0.60 * 200

    def test_the_seed_decides(self):
        sample = rows(20)
        torch.manual_seed(5)
        first = bootstrap(sample, mean, seed=3)
        torch.manual_seed(6)
        assert bootstrap(sample, mean, seed=3) == first
        assert bootstrap(sample, mean, seed=4) != first

    def test_the_global_random_state_is_left_alone(self):
        before = torch.get_rng_state()
        bootstrap(rows(20), mean)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("numbers", [1, 100, 1234])
    def test_batches_change_nothing(self, monkeypatch, numbers):
        sample = rows(17, 2)
        at_once = bootstrap(sample, ratio, resamples=301)
        monkeypatch.setattr(statistics, "_NUMBERS", numbers)
        batches = []

        def seen(drawn):
            batches.append(len(drawn))
            return ratio(drawn)

        assert bootstrap(sample, seen, resamples=301) == pytest.approx(at_once, rel=1e-12)
        assert sum(batches) == 301
        assert max(batches) == max(1, numbers // 17)

    def test_a_single_draw_is_an_interval_of_one_number(self):
        low, high = bootstrap(rows(5), mean, resamples=1)
        assert low == high

    def test_float32_is_resampled_in_float64(self):
        sample = rows(20)
        low, high = bootstrap(sample.float(), mean)
        assert (low, high) == pytest.approx(bootstrap(sample, mean), rel=1e-6)

    @pytest.mark.parametrize(
        ("count", "settings", "message"),
        [
            (0, {}, "at least two images, and 0"),
            (1, {}, "at least two images, and 1"),
            (5, {"confidence": 0.0}, "Confidence 0.0"),
            (5, {"confidence": 1.0}, "Confidence 1.0"),
            (5, {"confidence": 95.0}, "between 0 and 1"),
            (5, {"resamples": 0}, "0 resamples"),
        ],
    )
    def test_what_cannot_be_resampled(self, count, settings, message):
        with pytest.raises(InputError, match=message):
            bootstrap(rows(count), mean, **settings)


class TestCompare:
    def test_by_hand(self):
        """Differences 1, 2, -3, 4 have ranks 1 to 4; 3 or less weigh 5 of the 16 sign patterns."""
        b = values(0.5, 0.25, 5, 1, 7, 3)
        found = compare(b + values(1, 2, -3, 4, 0, NAN), b)
        assert found.difference == pytest.approx(4 / 5)
        assert found.effect == pytest.approx((1 + 2 + 4 - 3) / 10)
        assert found.p_value == pytest.approx(2 * 5 / 16)
        assert (found.count, found.undefined, found.ties) == (5, 1, 1)
        assert found.low < found.difference < found.high

    def test_equal_differences_share_their_ranks(self):
        """1, 1, -1, 2 have ranks 2, 2, 2 and 4."""
        found = compare(values(1, 1, -1, 2), values(0, 0, 0, 0))
        assert found.effect == pytest.approx((2 + 2 - 2 + 4) / 10)

    @pytest.mark.parametrize("count", [10, 40, 80])
    @pytest.mark.parametrize("levels", [None, 5], ids=["continuous", "rounded"])
    def test_scipys_test(self, count, levels):
        a, b = rows(count)[:, 0], rows(count, seed=1)[:, 0]
        if levels:
            a, b = (a * levels).round() / levels, (b * levels).round() / levels
        found = compare(a, b)
        apart = (a - b)[a != b].numpy()
        assert found.p_value == pytest.approx(stats.wilcoxon(apart).pvalue)
        larger = stats.wilcoxon(apart, alternative="greater").statistic  # W+
        total = len(apart) * (len(apart) + 1) / 2
        assert found.effect == pytest.approx(2 * larger / total - 1)
        assert found.ties == count - len(apart)

    def test_the_interval_is_that_of_the_mean_difference(self):
        a, b = rows(25)[:, 0], rows(25, seed=1)[:, 0]
        settings = {"confidence": 0.8, "resamples": 300, "seed": 7}
        found = compare(a, b, **settings)
        assert (found.low, found.high) == bootstrap((a - b)[:, None], mean, **settings)

    def test_turned_round(self):
        a, b = rows(20)[:, 0], rows(20, seed=1)[:, 0]
        one, other = compare(a, b), compare(b, a)
        assert (other.difference, other.effect) == pytest.approx((-one.difference, -one.effect))
        assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
        assert other.p_value == pytest.approx(one.p_value)

    def test_always_better_and_always_worse(self):
        b = rows(20)[:, 0]
        assert compare(b + 1, b).effect == pytest.approx(1)
        assert compare(b - 1, b).effect == pytest.approx(-1)
        assert compare(b + rows(20, seed=1)[:, 0], b).p_value == pytest.approx(2 / 2**20)

    def test_a_method_ties_with_itself(self):
        a = values(1, 2, NAN, 3)
        found = compare(a, a)
        assert (found.difference, found.low, found.high) == (0, 0, 0)
        assert (found.p_value, found.effect) == (1, 0)
        assert (found.count, found.undefined, found.ties) == (3, 1, 3)

    @pytest.mark.parametrize("difference", [2.0, -2.0])
    def test_a_single_image_apart(self, difference):
        found = compare(values(1, 1, 1 + difference), values(1, 1, 1))
        assert found.p_value == 1
        assert found.effect == (1 if difference > 0 else -1)
        assert found.ties == 2

    def test_an_image_undefined_for_either_is_left_out_for_both(self):
        a, b = rows(20)[:, 0], rows(20, seed=1)[:, 0]
        with_gaps_a, with_gaps_b = a.clone(), b.clone()
        with_gaps_a[[2, 5]] = NAN
        with_gaps_b[[5, 9]] = NAN
        kept = torch.ones(20, dtype=torch.bool)
        kept[[2, 5, 9]] = False
        found, expected = compare(with_gaps_a, with_gaps_b), compare(a[kept], b[kept])
        assert (found.count, found.undefined) == (17, 3)
        told, wanted = found.to_dict(), expected.to_dict()
        assert told.pop("undefined") == 3
        assert wanted.pop("undefined") == 0
        assert told == wanted

    def test_to_dict_is_json(self):
        told = compare(values(1, 2, 3), values(1, 3, NAN)).to_dict()
        assert json.loads(json.dumps(told, allow_nan=False)) == told

    @pytest.mark.usefixtures("as_users_run_it")
    @pytest.mark.parametrize(
        ("a", "b", "message"),
        [
            (values(1, 2, 3), values(1, 2), "3 and 2 values"),
            (values(1), values(2), "at least two"),
            (values(1, NAN), values(2, 3), "at least two images, and 1"),
            (values(NAN, 1), values(1, NAN), "at least two images, and 0"),
        ],
    )
    def test_what_cannot_be_compared(self, a, b, message):
        with pytest.raises(InputError, match=message):
            compare(a, b)


class TestRankAgreement:
    def test_by_hand(self):
        """Of six pairs of methods, ins and ad order five alike (ad turned round)."""
        scores = {"ins": [1.0, 2.0, 3.0, 4.0], "ad": [40.0, 30.0, 10.0, 20.0]}
        found = rank_agreement(scores, {"ins": True, "ad": False})
        assert set(found) == {("ins", "ad")}
        agreement = found["ins", "ad"]
        assert agreement.tau == pytest.approx((5 - 1) / 6)
        assert agreement.count == 4
        assert agreement.p_value == pytest.approx(stats.kendalltau([1, 2, 3, 4], [1, 2, 4, 3])[1])
        assert agreement.p_value == pytest.approx(1 / 3)  # 8 of the 24 orders have |τ| ≥ 2/3

    @pytest.mark.parametrize(
        ("first", "second", "tau"),
        [(True, True, 1), (True, False, -1), (False, True, -1), (False, False, 1)],
    )
    def test_what_is_better_decides_the_sign(self, first, second, tau):
        scores = {"a": [0.1, 0.2, 0.7], "b": [3.0, 4.0, 5.0]}
        found = rank_agreement(scores, {"a": first, "b": second})
        assert found["a", "b"].tau == pytest.approx(tau)

    def test_scipys_tau_with_ties(self):
        a, b = [1.0, 2.0, 2.0, 5.0, 7.0, 7.0], [3.0, 1.0, 2.0, 2.0, 9.0, 4.0]
        found = rank_agreement({"a": a, "b": b}, {"a": True, "b": True})["a", "b"]
        expected = stats.kendalltau(a, b)
        assert (found.tau, found.p_value) == pytest.approx((expected[0], expected[1]))

    def test_every_pair_once_in_the_order_given(self):
        scores = {name: [1.0, 2.0, 3.0] for name in "cab"}
        found = rank_agreement(scores, dict.fromkeys("abc", True))
        assert list(found) == [("c", "a"), ("c", "b"), ("a", "b")]

    def test_methods_that_one_metric_lacks_are_left_out_of_its_pairs_only(self):
        scores = {
            "a": [1.0, 2.0, 3.0, 4.0],
            "b": [1.0, 2.0, 4.0, 3.0],
            "c": [1.0, NAN, 3.0, 2.0],
        }
        found = rank_agreement(scores, dict.fromkeys("abc", True))
        assert (found["a", "b"].count, found["a", "c"].count, found["b", "c"].count) == (4, 3, 3)
        assert found["a", "b"].tau == pytest.approx(4 / 6)
        assert found["a", "c"].tau == pytest.approx(1 / 3)
        assert found["b", "c"].tau == pytest.approx(1)

    @pytest.mark.parametrize(
        ("scores", "count"),
        [([2.0, 2.0, 2.0], 3), ([NAN, NAN, 1.0], 1), ([NAN, NAN, NAN], 0), ([2.0, 2.0, NAN], 2)],
    )
    def test_no_ranking_no_tau(self, scores, count):
        found = rank_agreement({"a": [1.0, 2.0, 3.0], "b": scores}, {"a": True, "b": True})
        agreement = found["a", "b"]
        assert (agreement.tau, agreement.p_value, agreement.count) == (None, None, count)
        assert json.loads(json.dumps(agreement.to_dict())) == agreement.to_dict()

    @pytest.mark.parametrize(
        ("scores", "message"),
        [
            ({}, "0 metrics"),
            ({"a": [1.0, 2.0]}, "1 metrics"),
            ({"a": [1.0, 2.0], "b": [1.0]}, r"2 metrics with \[1, 2\] scores"),
        ],
    )
    def test_what_cannot_be_ranked(self, scores, message):
        with pytest.raises(InputError, match=message):
            rank_agreement(scores, {"a": True, "b": True})
