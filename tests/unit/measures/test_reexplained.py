"""Maps made again: of noisy images, of masked images, by networks with random weights."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from nets import (
    CLASSES,
    Counter,
    assert_same_state,
    convnet,
    images,
    quick,
    state_of,
    tiny_vit,
    two_layer_head,
)
from torchsaliency import BlackPixel, Explanation, LayerError, OptionError, TargetError, explain
from torchsaliency.evaluation import score
from torchsaliency.measures import (
    masked_maps,
    network_stages,
    noisy_maps,
    other_class_maps,
    random_network_maps,
    randomised_maps,
    randomised_networks,
    smooth_randomised_maps,
    translated_maps,
)
from torchsaliency.metrics import functional

N = 3
X = images(N, seed=1)
SURE = ["gradcam", "opticam", "scorecam", "mtsm"]
"""One method of each family, none of which draws numbers."""


def explain_one(
    name="gradcam", net=None, x=X, target=None, layer="relu3", **options
) -> Explanation:
    net = convnet(seed=3) if net is None else net
    return explain(net, x, quick(name), target, layer, **options)[name]


def close(one, other):
    torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


def the_noise(samples, radius, seed, shape=(3, 16, 16)):
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand((samples, *shape), generator=draw) * 2 - 1) * radius


# --- noisy copies --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SURE)
def test_noisy_maps_are_those_of_each_copy_by_hand(name):
    net = convnet(seed=3)
    made = explain_one(name, net, target=[4, 0, 2])
    found = noisy_maps(net, made, radius=0.5, samples=3, seed=7, chunk=4)
    assert found.noisy_maps.shape == (N, 3, 16, 16)
    assert found.maps is made.map
    for s, noise in enumerate(the_noise(3, 0.5, 7)):
        again = explain_one(name, net, X + noise, [4, 0, 2])
        close(found.noisy_maps[:, s], again.map)
    torch.testing.assert_close(found.norms, X.double().flatten(1).norm(dim=1))


def test_noise_is_uniform_and_its_size_is_recorded():
    net = convnet(seed=3)
    found = noisy_maps(net, explain_one(net=net), radius=0.2, samples=40)
    assert found.distances.shape == (N, 40)
    noise = the_noise(40, 0.2, 0)
    torch.testing.assert_close(found.distances[0], noise.flatten(1).abs().amax(1))
    assert found.distances.max() <= 0.2
    assert found.distances.min() > 0.19  # 768 uniform values come close to the radius
    assert set(found.inputs()) == set(vars(found)) - {"distances"}


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_noisy_maps_do_not_depend_on_batch_or_chunk(chunk):
    net = convnet(seed=3)
    made = explain_one(net=net)
    full = noisy_maps(net, made, samples=4)
    close(noisy_maps(net, made, samples=4, chunk=chunk).noisy_maps, full.noisy_maps)
    for i in range(N):
        alone = noisy_maps(net, made[i], samples=4, chunk=chunk)
        close(alone.noisy_maps, full.noisy_maps[i : i + 1])
        torch.testing.assert_close(alone.distances, full.distances[i : i + 1])


def test_the_same_image_twice_has_the_same_noisy_maps():
    net = convnet(seed=3)
    twice = explain_one(net=net, x=X[:1].repeat(2, 1, 1, 1))
    found = noisy_maps(net, twice, samples=3)
    close(found.noisy_maps[0], found.noisy_maps[1])


def test_noise_is_seeded():
    net = convnet(seed=3)
    made = explain_one(net=net)
    torch.manual_seed(0)
    one = noisy_maps(net, made, samples=2, seed=1)
    torch.manual_seed(1)
    same = noisy_maps(net, made, samples=2, seed=1)
    other = noisy_maps(net, made, samples=2, seed=2)
    assert torch.equal(one.noisy_maps, same.noisy_maps)
    assert not torch.allclose(one.noisy_maps, other.noisy_maps, atol=1e-3)


@pytest.mark.parametrize("name", SURE)
def test_what_noise_changes_in_image_output_and_features_by_hand(name):
    net, labels = convnet(seed=3), [4, 0, 2]
    made = explain_one(name, net, target=labels)
    found = noisy_maps(net, made, radius=0.5, samples=3, seed=7, features=True, chunk=4)
    plain = noisy_maps(net, made, radius=0.5, samples=3, seed=7)
    close(found.noisy_maps, plain.noisy_maps)
    assert plain.feature_changes is None
    body = net[:9]

    def share(one, other):
        return ((one - other) / torch.where(one == 0, 1e-6, one)).double().flatten(1).norm(dim=1)

    with torch.no_grad():
        for s, noise in enumerate(the_noise(3, 0.5, 7)):
            moved = X + noise
            size = noise.double().norm().expand(N)
            torch.testing.assert_close(found.image_distances[:, s], size)
            close(found.image_changes[:, s] / share(X, moved), torch.ones(N).double())
            features = share(body(X.clone()), body(moved.clone()))
            torch.testing.assert_close(found.feature_changes[:, s], features, rtol=0.02, atol=0.02)
            one, other = net(X.clone()), net(moved.clone())
            close(found.output_distances[:, s].float(), (one - other).norm(dim=1))
            assert torch.equal(found.same_class[:, s], one.argmax(1) == other.argmax(1))


def test_features_share_the_passes_of_the_noise():
    net = convnet(seed=3)
    made = explain_one(net=net)
    counter = Counter(net)
    found = score(net, made, ["max-sensitivity", "ris", "rrs", "local-lipschitz"])
    assert counter.images == 10 * N + N  # the clean images once more, for their features
    assert all(metric.per_image.isfinite().all() for metric in found.values())


# --- moved copies, other classes, averages -------------------------------------------------------


def test_translated_maps_are_those_of_moved_images_by_hand():
    net, labels = convnet(seed=3), [4, 0, 2]
    made = explain_one(net=net, target=labels)
    found = translated_maps(net, made, steps=11, chunk=4)  # by 3 columns: -13, -10, … 17
    moves = [move for move in range(-13, 18, 3) if move]
    assert found.translated_maps.shape == (N, len(moves), 16, 16)
    for place, move in enumerate(moves):
        moved = torch.stack([torch.full_like(one, float(one.min())) for one in X])
        if 0 < move < 16:
            moved[..., move:] = X[..., :-move]
        elif move < 0:
            moved[..., :move] = X[..., -move:]
        close(found.translated_maps[:, place], explain_one(net=net, x=moved, target=labels).map)
        distance = (X - moved).double().flatten(1).norm(dim=1)
        torch.testing.assert_close(found.translation_distances[:, place], distance)
    with pytest.raises(OptionError, match="1 to 33"):
        translated_maps(net, made, steps=34)


def test_another_class_is_never_the_explained_one():
    net, labels = convnet(seed=3), [4, 0, 2]
    made = explain_one(net=net, target=labels)
    steps = set()
    for seed in range(12):
        found = other_class_maps(net, made, seed=seed, chunk=2)
        step = (found.labels - torch.tensor(labels)) % CLASSES
        assert len(set(step.tolist())) == 1
        steps |= set(step.tolist())
        close(found.other_class_maps, explain_one(net=net, target=found.labels).map)
    assert steps == set(range(1, CLASSES))
    with pytest.raises(TargetError, match="class target"):
        other_class_maps(net, explain_one(net=net, target=lambda output: output.sum(1)))


def test_the_random_network_is_the_last_of_the_cascade():
    net, labels = convnet(seed=3), [4, 0, 2]
    made = explain_one(net=net, target=labels)
    found = random_network_maps(net, made, seed=5)
    cascade = randomised_maps(net, made, seed=5)
    close(found.random_network_maps, cascade.random_maps[:, -1])


def test_smooth_maps_are_means_by_hand():
    net, labels = convnet(seed=3), [4, 0, 2]
    made = explain_one(net=net, target=labels)
    found = smooth_randomised_maps(net, made, samples=3, noise=0.2, seed=5, chunk=4)
    drawn = torch.randn((3, *X.shape[1:]), generator=torch.Generator().manual_seed(5))
    drawn[-1] = 0
    flat = X.flatten(1)
    scale = 0.2 * (flat.amax(1) - flat.amin(1))[:, None, None, None]
    networks = [net, *(copied for _, copied in _copies(net))]
    for place, network in enumerate(networks):
        maps = [explain_one(net=network, x=X + scale * one, target=labels).map for one in drawn]
        mean = torch.stack(maps).mean(0)
        close(found.smooth_maps if not place else found.smooth_random_maps[:, place - 1], mean)
    still = smooth_randomised_maps(net, made, samples=1, seed=5)
    close(still.smooth_random_maps, randomised_maps(net, made, seed=5).random_maps)


def _copies(net):
    return [(name, copy.deepcopy(network)) for name, network in randomised_networks(net, seed=5)]


def test_more_noise_moves_the_map_further():
    net = two_layer_head(seed=3)
    made = explain_one(net=net, layer="relu", target=1)
    small, large = (noisy_maps(net, made, radius=r, samples=5) for r in (1e-4, 1.0))
    a, b = (functional.sensitivities(m.maps, m.noisy_maps).amax(1) for m in (small, large))
    assert (a < 0.02).all()
    assert (b > 10 * a).all()


def test_a_map_that_ignores_the_image_is_steady():
    net = convnet(seed=3)
    made = explain_one("fakecam", net)
    found = noisy_maps(net, made, radius=2.0, samples=4)
    assert torch.equal(found.noisy_maps, found.maps[:, None].expand(-1, 4, -1, -1))
    assert functional.sensitivities(found.maps, found.noisy_maps).count_nonzero() == 0


def border() -> tuple[nn.Module, torch.Tensor]:
    """A network and an image whose first two classes differ by a hair, so that noise swaps them."""
    net, x = convnet(seed=3), X[:1]
    with torch.no_grad():
        logits = net(x.clone())[0]
        net.fc.bias[:2] += logits.max() + 1 - logits[:2]
        net.fc.bias[0] += 1e-4
    return net, x


def test_the_class_is_that_of_the_clean_image():
    net, x = border()
    made = explain_one(net=net, x=x)
    assert made.target.labels.tolist() == [0]
    found = noisy_maps(net, made, radius=0.5, samples=8, seed=2)
    noisy = x + the_noise(8, 0.5, 2)
    with torch.no_grad():
        predicted = net(noisy.clone()).argmax(1)
    assert predicted.unique().tolist() == [0, 1]  # the test is about something
    kept, resolved = explain_one(net=net, x=noisy, target=0), explain_one(net=net, x=noisy)
    close(found.noisy_maps[0], kept.map)
    assert not torch.allclose(found.noisy_maps[0], resolved.map, atol=0.05)


def test_targets_of_a_batch_stay_with_their_images():
    net = convnet(seed=3)
    labels = [4, 0, 2]
    made = explain_one(net=net, target=labels)
    found = noisy_maps(net, made, samples=3, chunk=2)
    for i, label in enumerate(labels):
        alone = noisy_maps(net, explain_one(net=net, x=X[i : i + 1], target=label), samples=3)
        close(found.noisy_maps[i : i + 1], alone.noisy_maps)


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 0}, *({"radius": r} for r in (0, -0.1, float("inf"), float("nan")))],
)
def test_noise_out_of_range(wrong):
    net = convnet()
    with pytest.raises(OptionError, match="radius"):
        noisy_maps(net, explain_one(net=net), **wrong)


@pytest.mark.parametrize("measure", [noisy_maps, masked_maps])
def test_a_chunk_of_no_images_is_refused(measure):
    net = convnet()
    with pytest.raises(ValueError, match="chunk"):
        measure(net, explain_one(net=net), chunk=0)


# --- masked images -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SURE)
@pytest.mark.parametrize("chunk", [2, 32])
def test_masked_maps_are_those_of_masked_images_by_hand(name, chunk):
    net = convnet(seed=3)
    labels = [4, 0, 2]
    made = explain_one(name, net, target=labels)
    found = masked_maps(net, made, chunk=chunk)
    shown = X * made.map[:, None]  # over the mean colour
    again = explain_one(name, net, shown, labels)
    close(found.masked_maps, again.map)
    assert found.maps is made.map
    torch.testing.assert_close(found.output, again.output, atol=1e-5, rtol=1e-4)
    assert set(found.inputs()) == {"maps", "masked_maps"}


def test_the_masking_is_the_explanations_unless_another_is_given():
    net, black = convnet(seed=3), BlackPixel()
    made = explain_one(net=net, target=1, masking=black)
    shown = black(X, made.map)
    close(masked_maps(net, made).masked_maps, explain_one(net=net, x=shown, target=1).map)
    plain = explain_one(net=net, target=1)
    given = masked_maps(net, plain, masking=black)
    close(given.masked_maps, explain_one(net=net, x=shown, target=1).map)
    assert not torch.allclose(masked_maps(net, plain).masked_maps, given.masked_maps, atol=0.01)


def test_masked_maps_keep_the_class_too():
    net, x = border()
    made = explain_one(net=net, x=x)
    assert made.target.labels.tolist() == [0]
    shown = x * made.map[:, None]
    with torch.no_grad():
        assert net(shown.clone()).argmax(1).tolist() == [1]  # the test is about something
    found = masked_maps(net, made)
    close(found.masked_maps, explain_one(net=net, x=shown, target=0).map)
    assert not torch.allclose(found.masked_maps, explain_one(net=net, x=shown).map, atol=0.05)


def test_a_full_mask_gives_the_same_map():
    net = convnet(seed=3)
    made = explain_one("fakecam", net)
    found = masked_maps(net, made)
    assert torch.equal(found.masked_maps, made.map)
    close(functional.coherency(found.maps, found.masked_maps), torch.full((N,), 100.0).double())


@pytest.mark.parametrize("measure", [noisy_maps, masked_maps], ids=["noisy", "masked"])
def test_several_layers_and_options_are_repeated(measure):
    net = convnet(seed=3)
    method = quick("opticam", iterations=5, normalisation="max")
    made = explain(net, X, method, 1, ["relu2", "relu3"])["opticam"]
    found = measure(net, made, **({"samples": 1} if measure is noisy_maps else {}))
    changed = X + the_noise(1, 0.2, 0) if measure is noisy_maps else X * made.map[:, None]
    again = explain(net, changed, method, 1, ["relu2", "relu3"])["opticam"]
    close(found.noisy_maps[:, 0] if measure is noisy_maps else found.masked_maps, again.map)


# --- random networks -----------------------------------------------------------------------------


def weights(net):
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


RESNET = ["fc", "layer4", "layer3", "layer2", "layer1", "conv1"]


def resnet():
    """ResNet-18 as if trained: batch norms are not the identity, statistics not 0 and 1."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=CLASSES)
    with torch.no_grad():
        for name, value in [*net.named_parameters(), *net.named_buffers()]:
            if value.ndim == 1:
                value.copy_(torch.rand(value.shape) + 0.5)
            assert name
    return net.eval()


def test_stages_of_known_networks():
    assert network_stages(resnet()) == RESNET
    vgg = torchvision.models.vgg11(num_classes=CLASSES)
    convolutions = [18, 16, 13, 11, 8, 6, 3, 0]
    linear = [6, 3, 0]
    assert network_stages(vgg) == [
        *(f"classifier.{i}" for i in linear),
        *(f"features.{i}" for i in convolutions),
    ]
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=CLASSES)
    blocks = [f"blocks.{i}" for i in reversed(range(12))]
    assert network_stages(vit) == ["head", *blocks, "patch_embed"]
    assert network_stages(convnet()) == ["fc", "conv3", "conv2", "conv1"]


@pytest.mark.parametrize("build", [resnet, convnet, tiny_vit, two_layer_head])
@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_the_users_network_is_untouched(build, mode):
    net = build()
    net.train()
    before = state_of(net)
    for _, copied in randomised_networks(net, mode=mode):
        assert copied is not net
        assert_same_state(before, state_of(net))
        copied(torch.randn(2, 3, 32, 32))  # a batch norm in training mode learns from that
        assert_same_state(before | {"random": torch.get_rng_state()}, state_of(net))
        torch.set_rng_state(before["random"])


def belongs(name, stage):
    """Say whether a parameter belongs to a stage of a ResNet or the tiny convnet."""
    norms = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3"}
    return name.startswith((f"{stage}.", f"{norms.get(stage, stage)}."))


@pytest.mark.parametrize("build", [resnet, convnet])
def test_cascading_accumulates(build):
    net = build()
    before, stages = weights(net), []
    for stage, copied in randomised_networks(net):
        stages.append(stage)
        found = changed(before, weights(copied))
        expected = {name for name in before if any(belongs(name, one) for one in stages)}
        statistics = {name for name in expected if "running" in name or "batches" in name}
        assert found == expected - statistics
    assert stages == network_stages(net)


@pytest.mark.parametrize("build", [resnet, convnet])
def test_independent_puts_the_others_back(build):
    net = build()
    before = weights(net)
    for stage, copied in randomised_networks(net, mode="independent"):
        found = changed(before, weights(copied))
        expected = {name for name in before if belongs(name, stage)}
        assert found == {name for name in expected if "running" not in name and "num" not in name}


def test_both_modes_draw_the_same_weights_for_a_stage():
    net = resnet()
    one = {s: weights(n) for s, n in randomised_networks(net, seed=4)}
    other = {s: weights(n) for s, n in randomised_networks(net, mode="independent", seed=4)}
    for stage in RESNET:
        for name in one[stage]:
            if belongs(name, stage):
                assert torch.equal(one[stage][name], other[stage][name])


def test_norms_become_the_identity_and_the_rest_is_drawn_as_torchvision_does():
    net = resnet()
    *_, (stage, last) = randomised_networks(net)
    last.requires_grad_(False)
    assert stage == "conv1"
    assert last.bn1.weight.eq(1).all()  # randomised with conv1
    assert last.bn1.bias.eq(0).all()
    assert torch.equal(last.bn1.running_mean, net.bn1.running_mean)
    for module in last.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
        if isinstance(module, nn.Conv2d):
            fan = module.out_channels * module.kernel_size[0] ** 2
            assert float(module.weight.std()) == pytest.approx((2 / fan) ** 0.5, rel=0.05)
            assert abs(float(module.weight.mean())) < 0.1 * float(module.weight.std())
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            assert module.weight.abs().max() <= bound
            assert module.weight.abs().max() > 0.95 * bound
            assert module.bias.abs().max() <= bound


def test_seeds_of_weights():
    net = convnet()
    torch.manual_seed(0)
    one = [weights(copied) for _, copied in randomised_networks(net, seed=1)]
    torch.manual_seed(1)
    same = [weights(copied) for _, copied in randomised_networks(net, seed=1)]
    other = [weights(copied) for _, copied in randomised_networks(net, seed=2)]
    for a, b, c in zip(one, same, other, strict=True):
        assert not changed(a, b)
        assert changed(a, c)


def test_a_vision_transformer_is_random_after_the_cascade():
    net = tiny_vit()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    *_, (_, last) = randomised_networks(net)
    still = set(dict(net.named_parameters())) - changed(weights(net), weights(last))
    # the class token and the positions belong to no stage, the first norm comes before the first
    assert still - {"norm.weight", "norm.bias"} == {
        "cls_token",
        "pos_embed",
        "blocks.0.norm1.weight",
        "blocks.0.norm1.bias",
    }


def test_the_last_norm_of_a_transformer_is_random_too():
    net = tiny_vit()
    with torch.no_grad():
        net.norm.weight.fill_(3)
    *_, (_, last) = randomised_networks(net)
    assert last.norm.weight.eq(1).all()


def test_the_random_state_of_gpus_is_left_alone(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    list(randomised_networks(convnet()))
    assert not seeds


def test_wrong_stages():
    net = convnet()
    with pytest.raises(OptionError, match=r"no stage 'conv9'; it has fc, conv3, conv2, conv1"):
        list(randomised_networks(net, stages=["fc", "conv9"]))
    with pytest.raises(OptionError, match="'pool' has no parameters"):
        list(randomised_networks(net, stages=["pool"]))
    with pytest.raises(OptionError, match="no stage"):
        randomised_maps(net, explain_one(net=net), stages=["fc.weight"])


@pytest.mark.parametrize("mode", ["cascading", "independent"])
@pytest.mark.parametrize("name", ["gradcam", "opticam"])
def test_randomised_maps_are_those_of_each_network_by_hand(mode, name):
    net, labels = convnet(seed=3), [4, 0, 2]
    made = explain_one(name, net, target=labels)
    before = state_of(net)
    found = randomised_maps(net, made, mode=mode, seed=5)
    assert_same_state(before, state_of(net))
    assert found.stages == ("fc", "conv3", "conv2", "conv1")
    assert found.mode == mode
    assert found.random_maps.shape == (N, 4, 16, 16)
    assert found.maps is made.map
    for place, (_, copied) in enumerate(randomised_networks(net, mode=mode, seed=5)):
        again = explain_one(name, copied, target=labels)
        close(found.random_maps[:, place], again.map)
    assert set(found.inputs()) == {"maps", "random_maps"}


def test_randomised_maps_change_and_repeat():
    net = convnet(seed=3)
    made = explain_one(net=net, target=1)
    one = randomised_maps(net, made, stages=["conv3", "conv1"])
    same = randomised_maps(net, made, stages=["conv3", "conv1"])
    other = randomised_maps(net, made, stages=["conv3", "conv1"], seed=1)
    assert one.stages == ("conv3", "conv1")
    assert torch.equal(one.random_maps, same.random_maps)
    assert not torch.allclose(one.random_maps, other.random_maps, atol=0.05)
    assert not torch.allclose(one.random_maps[:, 0], one.maps, atol=0.05)


def test_a_network_of_permuted_labels_takes_the_place_of_random_weights():
    net, other, labels = convnet(seed=3), convnet(seed=4), [4, 0, 2]
    made = explain_one("opticam", net, target=labels)
    found = randomised_maps(net, made, mode="labels", permuted=other)
    assert (found.stages, found.mode) == (("labels",), "labels")
    close(found.random_maps[:, 0], explain_one("opticam", other, target=labels).map)


def test_networks_of_permuted_labels_that_cannot_be_used():
    net, other = convnet(seed=3), convnet(seed=4)
    made = explain_one(net=net, target=1)
    with pytest.raises(OptionError, match="'labels' was given without a network"):
        randomised_maps(net, made, mode="labels")
    with pytest.raises(OptionError, match="'cascading' was given with a network"):
        randomised_maps(net, made, permuted=other)
    for itself in (net, copy.deepcopy(net)):
        with pytest.raises(OptionError, match="has the weights of the explained one"):
            randomised_maps(net, made, mode="labels", permuted=itself)
    with pytest.raises(LayerError, match=r"of permuted labels lacks a layer: .*'relu3'"):
        randomised_maps(net, made, mode="labels", permuted=tiny_vit())
    other.fc = nn.Linear(other.fc.in_features, 3)
    with pytest.raises(OptionError, match=r"gives \(3,\) numbers an image"):
        randomised_maps(net, made, mode="labels", permuted=other)


def test_a_map_that_ignores_the_network_survives_the_sanity_check():
    net = convnet(seed=3)
    made = explain_one("fakecam", net)
    found = randomised_maps(net, made)
    assert torch.equal(found.random_maps, found.maps[:, None].expand(-1, 4, -1, -1))


# --- how much at once ----------------------------------------------------------------------------


class Watch(nn.Module):
    """Writes the size of every batch into a list that copies of the network share."""

    batches: list[int] = []  # noqa: RUF012 (shared on purpose)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return x


@pytest.mark.parametrize(
    "measure",
    [
        noisy_maps,
        masked_maps,
        randomised_maps,
    ],
    ids=["noisy", "masked", "randomised"],
)
@pytest.mark.parametrize("name", ["gradcam", "scorecam"])
def test_the_chunk_bounds_the_memory(measure, name):
    net = convnet(seed=3)
    net.conv1 = nn.Sequential(Watch(), net.conv1)
    made = explain_one(name, net)
    Watch.batches.clear()
    measure(net, made, chunk=2)
    assert max(Watch.batches) == 2


def test_passes_of_noisy_copies():
    net = convnet(seed=3)
    made = explain_one(net=net)
    counter = Counter(net)
    noisy_maps(net, made, samples=4)
    assert counter.images == 4 * N
    counter.images = 0
    masked_maps(net, made)
    assert counter.images == N
