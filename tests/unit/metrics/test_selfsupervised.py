"""Embedding MSE and cosine: by hand, perfect and worst by construction, vectors of zeros."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from torchsaliency.errors import InputError
from torchsaliency.metrics.base import create_metric, metric_entry, metrics
from torchsaliency.metrics.selfsupervised import (
    EmbeddingCosine,
    EmbeddingMSE,
    embedding_cosine,
    embedding_mse,
)

EACH = pytest.mark.parametrize("name", ["mse", "cosine"])

Z = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
MASKED = torch.tensor([[3.0, 2.0], [0.0, 5.0], [0.0, -1.0]])

vectors = arrays.arrays(np.float64, (4, 6), elements=st.floats(-50, 50)).map(torch.from_numpy)


@pytest.fixture
def as_users_run_it():
    """Without the tests' type checker, which would answer a wrong shape before the library does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class TestMSE:
    def test_by_hand(self):
        assert embedding_mse(Z, MASKED).tolist() == [4, 26, 9]
        assert embedding_mse(Z, MASKED, "mean").tolist() == [2, 13, 4.5]

    def test_the_mean_over_images(self):
        for reduction, expected in (("sum", 13), ("mean", 6.5)):
            made = create_metric("mse", {"reduction": reduction})
            made.update(Z, MASKED)
            assert made.compute() == expected
            assert made.settings == {"reduction": reduction}

    @given(vectors, vectors)
    def test_a_distance(self, first, second):
        found = embedding_mse(first, second)
        assert torch.equal(found, embedding_mse(second, first))
        assert (found >= 0).all()
        assert torch.allclose(found, 6 * embedding_mse(first, second, "mean"))
        assert torch.allclose(embedding_mse(3 * first, 3 * second), 9 * found)

    def test_best_by_construction(self):
        made = EmbeddingMSE()
        made.update(Z, Z.clone())
        assert made.compute() == 0 == made.entry.best
        assert made.entry.worst is None
        assert made.entry.direction == "lower"


class TestCosine:
    def test_by_hand(self):
        found = embedding_cosine(Z, MASKED)
        assert found.tolist() == pytest.approx([100 * 17 / (5 * math.sqrt(13)), 0, -100])

    @pytest.mark.parametrize(("factor", "expected"), [(1.0, 100), (7.5, 100), (-0.2, -100)])
    def test_best_and_worst_by_construction(self, factor, expected):
        draw = torch.Generator().manual_seed(0)
        z = torch.randn(5, 64, generator=draw, dtype=torch.float64)
        made = EmbeddingCosine()
        made.update(z, factor * z)
        assert made.compute().item() == pytest.approx(expected, abs=1e-12)
        entry = made.entry
        assert expected in (entry.best, entry.worst)
        assert entry.best == 100
        assert (made.per_image.abs() <= 100).all()  # rounding may not leave the range

    @given(vectors, vectors)
    def test_bounds_and_symmetry(self, first, second):
        found = embedding_cosine(first, second)
        some = ~found.isnan()
        assert (found[some].abs() <= 100).all()
        assert torch.allclose(found, embedding_cosine(second, first), equal_nan=True)
        assert torch.allclose(found[some], -embedding_cosine(-first, second)[some])

    def test_a_zero_embedding_is_undefined_and_not_averaged(self):
        nothing = torch.zeros(1, 2)
        made = EmbeddingCosine()
        made.update(torch.cat([Z, nothing, Z[:1]]), torch.cat([Z, Z[:1], nothing]))
        assert made.per_image.isnan().tolist() == [False, False, False, True, True]
        assert made.compute().item() == pytest.approx(100)
        assert made.summary().undefined == 2
        made.reset()
        made.update(nothing, nothing)
        with pytest.warns(UserWarning, match="none defines it"):
            assert made.compute().isnan()


class TestBoth:
    def test_the_list_is_whole(self):
        group = [one for one, entry in metrics().items() if entry.group == "self-supervised"]
        assert group == ["mse", "cosine"]

    @EACH
    def test_batches_add_up(self, name):
        draw = torch.Generator().manual_seed(0)
        z, masked = torch.randn(2, 5, 8, generator=draw).unbind(0)
        whole, parts = create_metric(name), create_metric(name)
        whole.update(z, masked)
        for part in (slice(0, 1), slice(1, 5)):
            parts.update(z[part], masked[part])
        assert torch.equal(whole.per_image, parts.per_image)
        assert whole.compute().item() == pytest.approx(whole.per_image.mean().item())

    @EACH
    def test_half_precision_is_compared_in_double(self, name):
        z = torch.full((1, 4096), 60.0, dtype=torch.float16)  # whose square is beyond float16
        made = create_metric(name)
        made.update(z, z / 2)
        expected = 4096 * 900 if name == "mse" else 100
        assert made.compute().item() == pytest.approx(expected)

    @EACH
    def test_no_images_are_no_error(self, name):
        made = create_metric(name)
        made.update(torch.zeros(0, 3), torch.zeros(0, 3))
        assert made.per_image.shape == (0,)

    @EACH
    @pytest.mark.usefixtures("as_users_run_it")
    def test_errors(self, name):
        made = create_metric(name)
        for first, second in (
            (torch.ones(2, 3), torch.ones(2, 4)),
            (torch.ones(2, 3), torch.ones(1, 3)),
            (torch.ones(3), torch.ones(3)),
            (torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)),
            (torch.ones(2, 0), torch.ones(2, 0)),
        ):
            with pytest.raises(InputError, match=r"\(N, D\)"):
                made.update(first, second)
        for value in (math.nan, math.inf):
            for pair in ((Z, Z * value), (Z * value, Z)):
                with pytest.raises(InputError, match="NaN or infinite"):
                    made.update(*pair)
        assert len(made.per_image) == 0

    @EACH
    def test_the_registry_knows(self, name):
        entry = metric_entry(name)
        assert entry.requires == ("masked_embeddings",)
        sections = ("Formula", "Rewards", "Misleads", "Undefined", "Source")
        assert all(entry.section(key) for key in sections)
        assert create_metric(name, entry.options).settings == dict(entry.options)
