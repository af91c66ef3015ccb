"""The models of the searches: what they learn, their units, their memory."""

import pytest
import torch

from nets import convnet, images
from torchsaliency import OptiCAM
from torchsaliency.core.maps import minmax, normalise, upsample
from torchsaliency.methods.cam.solvers import Adam, AdamState, Stretch, TrustRegion, combine
from torchsaliency.methods.cam.surrogate import LocalProcess, Surrogate


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def solver(count=2, channels=12, side=3, seed=0, normalisation="range", kind=TrustRegion):
    features = draw(count, channels, side, side, seed=seed).abs()
    return kind(features, features.new_zeros(count, channels), 0.1, normalisation)


def climbed(found, slope_of, rounds):
    """Let the solver climb an objective whose value and slope are functions of the map."""
    live = torch.arange(len(found.logits))
    for _ in range(rounds):
        leaf, _ = found.propose(live, (6, 6))
        with torch.enable_grad():
            values = slope_of(leaf)
            (slope,) = torch.autograd.grad(values.sum(), leaf)
        found.update(live, slope, values.detach())
    return found


def shape(found, logits, live):
    """The low-resolution maps of u, as a graph: stretched where the masks will be."""
    maps = combine(logits, found._features[live])
    return minmax(maps) if found._normalisation == "range" else maps


def dense(found):
    """The matrix B of every image, column by column."""
    count, _, cells = found._terms.shape
    live = torch.arange(count)
    columns = [
        found._measure_curvature(live, e.expand(count, -1)) for e in torch.eye(cells).double()
    ]
    return torch.stack(columns, 2)


@pytest.mark.parametrize("normalisation", ["range", "sigmoid"])
@pytest.mark.parametrize("gone", [[], [1]])
def test_the_inner_steps_are_adam_on_the_models_own_gradient(normalisation, gone):
    """They are written out; a graph of softmax, product and stretching must lead to the same u."""
    found = climbed(solver(3, normalisation=normalisation), lambda s: (s.sin() * 3).sum((1, 2)), 3)
    live = torch.tensor([i for i in range(3) if i not in gone])
    here, slope = found._anchor[live].flatten(1), draw(len(live), 9, seed=5)
    found._features[0, :, :, 0] = 0  # several cells that are least
    adam = AdamState(found.logits[live], 0.1)
    for _ in range(found.inner_steps):
        with torch.enable_grad():
            leaf = adam.rows.clone().requires_grad_()
            move = shape(found, leaf, live).flatten(1) - here
            bent = found._measure_curvature(live, move) + found._caution[live, None] * move
            value = (slope * move).sum() - (move * bent).sum() / 2
            (climb,) = torch.autograd.grad(value, leaf)
        adam.ascend(torch.arange(len(live)), climb)
    before = found.logits.clone()
    found._climb(live, here, slope)
    torch.testing.assert_close(found.logits[live], adam.rows)
    assert torch.equal(found.logits[gone], before[gone])


def test_the_curvature_is_bfgs_written_out():
    found = climbed(solver(), lambda s: -(s**4).sum((1, 2)) - s.mean((1, 2)), 1)
    live, matrix = torch.arange(2), dense(found)
    assert torch.allclose(matrix[1], found._rho[1] * torch.eye(9).double())
    for seed in range(4):
        step = draw(2, 9, seed=seed)
        change = torch.einsum("ij,nj->ni", torch.diag(torch.arange(1.0, 10.0)).double(), step)
        bent = torch.einsum("nij,nj->ni", matrix, step)
        along, curved = (step * change).sum(1), (step * bent).sum(1)
        matrix = (
            matrix
            - bent[:, :, None] * bent[:, None] / curved[:, None, None]
            + change[:, :, None] * change[:, None] / along[:, None, None]
        )
        found._learn(live, step, change)
        torch.testing.assert_close(dense(found), matrix)
        # The secant equation: B explains the last change exactly.
        torch.testing.assert_close(found._measure_curvature(live, step), change)


def test_the_curvature_stays_positive_whatever_the_slopes_do():
    found = climbed(solver(), lambda s: s.sum((1, 2)) * s.amax((1, 2)), 1)
    for seed in range(12):
        step, change = draw(2, 9, seed=seed), draw(2, 9, seed=seed + 100)
        found._learn(torch.arange(2), step, change)
    assert (torch.linalg.eigvalsh(dense(found)) > 0).all()


def test_a_step_of_nothing_teaches_nothing():
    found = climbed(solver(), lambda s: s.sum((1, 2)), 1)
    before = dense(found)
    found._learn(torch.arange(2), torch.zeros(2, 9).double(), torch.zeros(2, 9).double())
    torch.testing.assert_close(dense(found), before)


@pytest.mark.parametrize("kind", [TrustRegion, Surrogate])
def test_a_flat_objective_moves_nothing(kind):
    found = climbed(solver(kind=kind), lambda s: s.sum((1, 2)) * 0, 3)
    assert torch.equal(found.logits, torch.zeros_like(found.logits))


def test_stretching_has_the_gradient_of_minmax_and_none_where_a_map_is_constant():
    maps = draw(3, 6)
    maps[1] = 0.3
    maps.requires_grad_()
    weights = draw(3, 6, seed=1)
    (expected,) = torch.autograd.grad((minmax(maps[..., None]) * weights[..., None]).sum(), maps)
    stretch = Stretch(maps.detach())
    torch.testing.assert_close(stretch.shape, minmax(maps.detach()[..., None])[..., 0])
    torch.testing.assert_close(stretch.backward(weights), expected)
    assert stretch.backward(weights)[1].count_nonzero() == 0


@pytest.mark.parametrize("kind", [TrustRegion, Surrogate])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_units_of_the_objective_do_not_matter(scale, kind):
    def concave(s):
        return -(s - 0.3).square().sum((1, 2)) + s[:, 0, 0]

    # few passes: where the least cell of a map changes, a search makes much of rounding
    plain = climbed(solver(kind=kind), concave, 3).logits
    scaled = climbed(solver(kind=kind), lambda s: scale * concave(s), 3).logits
    torch.testing.assert_close(plain, scaled, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["trust-region", "surrogate"])
@pytest.mark.parametrize("normalisation", ["range", "max", "sigmoid"])
def test_the_units_of_the_features_do_not_matter_to_the_model(normalisation, name):
    net, x = convnet(seed=3).double(), images(2, seed=1).double()
    scaled = convnet(seed=3).double()
    with torch.no_grad():
        scaled.bn3.weight.mul_(8), scaled.bn3.bias.mul_(8)
        scaled.fc.weight.div_(8)
    method = OptiCAM(iterations=5, solver=name, normalisation=normalisation)
    plain, other = (one_map(method, one, x) for one in (net, scaled))
    if normalisation == "sigmoid":  # whose mask itself depends on the units
        assert not torch.equal(plain, other)
    else:
        torch.testing.assert_close(plain, other, atol=1e-4, rtol=0)


def one_map(method, net, x):
    return method(net, x, [0, 1], "relu3").map


@pytest.mark.parametrize("kind", [TrustRegion, Surrogate])
def test_a_quadratic_objective_is_climbed_in_fewer_passes_than_adam_needs(kind):
    """Maps near a wanted one: the value after a few passes, beside one Adam step a pass."""
    wanted = solver().propose(torch.arange(2), (6, 6))[0].detach().flip(1)

    def value(s):
        return -(s - wanted).square().sum((1, 2))

    live = torch.arange(2)
    found = climbed(solver(kind=kind), value, 8)
    quick = value(shape(found, found.logits, live))
    slow = solver()
    adam = AdamState(slow.logits, 0.1)
    for _ in range(8):
        leaf = adam.rows.clone().requires_grad_()
        with torch.enable_grad():
            (climb,) = torch.autograd.grad(value(shape(slow, leaf, live)).sum(), leaf)
        adam.ascend(live, climb)
    assert (quick > value(shape(slow, adam.rows, live))).all()


def test_its_memory_grows_with_the_passes_and_never_with_the_square_of_the_map():
    features = torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    found = TrustRegion(features, features.new_zeros(1, 4), 0.1, "range")
    climbed(found, lambda s: -(s - 0.5).square().sum((1, 2)), 5)
    assert found._terms.shape == (1, 2 * 4, 64 * 64)


@pytest.mark.parametrize("kind", [Adam, TrustRegion, Surrogate])
@pytest.mark.parametrize("normalisation", ["range", "max", "sigmoid"])
def test_the_masks_asked_about_are_those_of_the_maps_returned(normalisation, kind):
    features = draw(2, 12, 3, 3, seed=4).abs() + 0.5  # far from 0: an offset would be seen
    found = kind(features, draw(2, 12, seed=1), 0.1, normalisation)
    _, masks = found.propose(torch.arange(2), (6, 6))
    wanted = normalise(upsample(combine(found.logits, features), (6, 6)), normalisation)
    torch.testing.assert_close(masks.detach(), wanted)


def process(count=2, known=4, grid=(2, 3), seed=0):
    cells = grid[0] * grid[1]
    maps, slopes = draw(count, known, cells, seed=seed).sigmoid(), draw(count, known, cells, seed=9)
    return maps, draw(count, known, seed=7), slopes


def kernel(one, other, grid=(2, 3)):
    """The kernel written out, a number, for autograd."""
    places = torch.cartesian_prod(*[torch.arange(float(side)) for side in grid]).double()
    apart = (places[:, None] - places).square().sum(-1)
    near = (apart / (-2 * LocalProcess.reach**2)).exp()
    return (-(near @ (one - other).square()) / (2 * LocalProcess.scale**2)).exp().mean()


def test_the_process_is_the_textbooks_solved_with_the_whole_matrix(monkeypatch):
    maps, values, slopes = process(count=1)
    monkeypatch.setattr(LocalProcess, "rounds", 400)
    found = LocalProcess(maps, values, slopes, (2, 3))
    points = maps[0]

    def joint(x, y):
        """Covariance of (value, gradient) at x and at y."""
        dx = torch.func.grad(kernel, 0)
        corner = torch.stack([kernel(x, y), *torch.func.grad(kernel, 1)(x, y)])
        return torch.cat(
            [corner[None], torch.cat([dx(x, y)[:, None], torch.func.jacrev(dx, 1)(x, y)], 1)]
        )

    matrix = torch.cat([torch.cat([joint(x, y) for y in points], 1) for x in points])
    noise = matrix.diag().clone() * LocalProcess.slope_noise
    noise[:: points.shape[1] + 1] = LocalProcess.value_noise
    told = torch.cat([values[0, :, None] - values.max(), slopes[0]], 1).flatten()
    weights = torch.linalg.solve(matrix + noise.diag(), told)
    here = draw(1, 6, seed=3).sigmoid()
    cross = torch.cat([joint(here[0], y) for y in points], 1) @ weights
    value, slope = found.mean(here)
    torch.testing.assert_close(value[0], values.max() + cross[0])
    torch.testing.assert_close(slope[0], cross[1:])


def test_the_process_keeps_to_what_it_was_told():
    maps = process()[0]
    slopes = 2 * (0.3 - maps)
    values = -(maps - 0.3).square().sum(2)
    found = LocalProcess(maps, values, slopes, (2, 3))
    for place in range(maps.shape[1]):
        value, slope = found.mean(maps[:, place])
        assert (value - values[:, place]).abs().max() < 0.03
        assert torch.nn.functional.cosine_similarity(slope, slopes[:, place]).min() > 0.98


def test_images_of_a_search_do_not_see_each_other_and_may_leave():
    def value(s):
        return (s.sin() * 3).sum((1, 2)) - s[:, 0].square().sum(1)

    together = climbed(solver(3, kind=Surrogate), value, 5)
    features = together._features
    alone = Surrogate(features[1:2], torch.zeros(1, 12).double(), 0.1, "range")
    torch.testing.assert_close(climbed(alone, value, 5).logits, together.logits[1:2])
    found = climbed(solver(3, kind=Surrogate), value, 2)
    before = found.logits.clone()
    live = torch.tensor([0, 2])
    for _ in range(3):
        leaf, _ = found.propose(live, (6, 6))
        with torch.enable_grad():
            values = value(leaf)
            (slope,) = torch.autograd.grad(values.sum(), leaf)
        found.update(live, slope, values.detach())
    assert torch.equal(found.logits[1], before[1])
    torch.testing.assert_close(found.logits[[0, 2]], together.logits[[0, 2]])


def test_when_its_memory_is_full_the_lowest_map_gives_way(monkeypatch):
    monkeypatch.setattr(Surrogate, "memory", 3)
    found = climbed(solver(kind=Surrogate), lambda s: -(s - 0.5).square().sum((1, 2)), 7)
    assert found._values.shape == (2, 3)
    assert torch.equal(found._values.amax(1), found._best)
