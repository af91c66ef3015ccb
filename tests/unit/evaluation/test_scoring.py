"""`score`: every metric runs, its number is the one made by hand, and no pass is made twice."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

import torchsaliency
from nets import Counter, convnet, images, quick
from torchsaliency import measures
from torchsaliency.core.explain import explain
from torchsaliency.core.masking import BlackPixel, GivenImage
from torchsaliency.core.network import NetworkWrapper
from torchsaliency.core.scores import EMBEDDING
from torchsaliency.core.target import EmbeddingSimilarity, OwnEmbedding
from torchsaliency.errors import InputError, OptionError, TargetError
from torchsaliency.evaluation.bench import Bench, find_class_measure, measure
from torchsaliency.evaluation.scoring import score
from torchsaliency.measures import group_removals
from torchsaliency.metrics import create_metric, functional, metric_entry, metrics
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.classification import adcc, coherency, complexity
from torchsaliency.metrics.localisation import predicted_boxes

SIDE, COUNT = 48, 3

QUICK = {
    "insertion": {"step": 480},
    "deletion": {"step": 480},
    "aopc": {"patch": 8, "regions": 3},
    "road": {"percentages": (30, 60)},
    "max-sensitivity": {"samples": 2},
    "avg-sensitivity": {"samples": 2},
    "infidelity": {"samples": 6},
    "abpc": {"patch": 16, "regions": 3},
    "arcc": {"percentages": (30, 60)},
    "faithfulness-correlation": {"samples": 4},
    "faithfulness-estimate": {"groups": 4},
    "irof": {"superpixels": 6},
    "monotonicity": {"step": 480},
    "monotonicity-correlation": {"groups": 4, "samples": 2},
    "saco": {"groups": 4},
    "selectivity": {"patch": 16},
    "sensitivity-n": {"shares": (0.1, 0.5), "samples": 4},
    "non-sensitivity": {"samples": 6},
    "continuity": {"steps": 4},
    "smprt": {"stages": 2, "samples": 2},
    **{name: {"stages": 2} for name in ("spearman", "spearman-abs", "hog", "ssim", "mprt")},
    **{name: {"samples": 2} for name in ("local-lipschitz", "ris", "ros", "rrs")},
}
"""Options that make a metric quick, wherever it has them."""

PASSES = {
    **dict.fromkeys(("masked_scores", "masked_maps", "masked_embeddings", "crop_scores"), 1),
    "perturbation_curve": math.ceil(SIDE**2 / 480),
    "region_curve": 3,
    "removal_curves": 4,
    "noisy_maps": 2,
    "noisy_features": 3,
    "translated_maps": 3,
    "smooth_randomised_maps": 2,
    "other_class_maps": 1,
    "square_removals": 6,
    "group_removals": 4,
    "group_resamplings": 8,
    "block_curve": (SIDE // 16) ** 2,
    "information_curve": 14,
}
"""Passes an image through the network of each measure; the others need none.

The randomised networks are copies. Two measures of one metric share their passes.
"""

OWN_PASSES = {"abpc": 6, "arcc": 5, "faithfulness-correlation": 4, "sensitivity-n": 8}
"""Of metrics whose measures share no passes, or whose options decide them."""

UNDEFINED = {"focus", "grid-pointing-game", "sic", "aic", "completeness"}
"""They need images of more classes, a surer network, or attributions that add up to the score; see
`test_grids`, `test_information` and `test_axioms`."""

NAMES = [name for name in metrics() if name not in UNDEFINED]
FREE = [name for name in NAMES if not metric_entry(name).annotations]
BOXED = [name for name, entry in metrics().items() if entry.annotations == "boxes"]
MASKED = [name for name, entry in metrics().items() if entry.annotations == "masks"]


def made(name):
    return create_metric(name, QUICK.get(name, {}))


@pytest.fixture(scope="module")
def net():
    return convnet()


@pytest.fixture(scope="module")
def x():
    return images(COUNT, SIDE, SIDE)


@pytest.fixture(scope="module")
def explained(net, x):
    """Of classes that are not all the predicted ones; its maps do not depend on the class."""
    return explain(net, x, "mtsm", torch.tensor([0, 3, 1]))["mtsm"]


@pytest.fixture
def counted(net):
    counter = Counter(net)
    yield counter
    counter.remove()


def boxes():
    return [
        torch.tensor([[4.0, 8.0, 30.0, 40.0]]),
        torch.tensor([[-5.0, 0.0, 20.0, 48.0], [30.0, 30.0, 40.0, 44.0]]),
        torch.tensor([0.0, 0.0, 48.0, 48.0]),
    ]


def masks():
    labels = torch.zeros(COUNT, SIDE, SIDE, dtype=torch.long)
    labels[:, 10:30, 5:40] = 7
    labels[:, :3] = 255
    return labels


def annotations(name):
    kind = metric_entry(name).annotations
    return {"boxes": {"boxes": boxes()}, "masks": {"masks": masks()}}.get(kind, {})


@torch.no_grad()
def probabilities(net, x, labels):
    return net(x).double().softmax(1).gather(1, labels[:, None])[:, 0]


def near(found, expected, within=1e-4, share=1e-6):
    assert found.shape == expected.shape
    wanted = pytest.approx(expected.flatten().tolist(), abs=within, rel=share)
    assert found.flatten().tolist() == wanted


class TestEveryMetric:
    def test_the_lists_are_whole(self):
        assert {*FREE, *BOXED, *MASKED} == set(NAMES)
        assert {"le", "ba", "sp"} < set(BOXED)
        assert {"miou", "miou-sweep"} <= set(MASKED)

    @pytest.mark.parametrize("name", NAMES)
    def test_runs_and_costs_what_it_must(self, name, net, explained, counted):
        found = score(net, explained, [made(name)], **annotations(name))
        assert list(found) == [name]
        values = found[name].per_image
        assert values.shape == (COUNT,)
        assert values.isfinite().all()
        entry = metric_entry(name)
        passes = max(PASSES.get(measure, 0) for measure in entry.requires)
        if name != "irof":  # as many as the image has superpixels
            assert counted.images == COUNT * OWN_PASSES.get(name, passes)
        for bound in (entry.best, entry.worst):
            if bound is not None and None not in (entry.best, entry.worst):
                low, high = sorted((entry.best, entry.worst))
                assert ((values >= low - 1e-9) & (values <= high + 1e-9)).all()
        assert found[name].summary().count == COUNT

    @pytest.mark.parametrize("name", NAMES)
    def test_batches_add_up(self, name, net, explained):
        told = annotations(name)
        whole = score(net, explained, [made(name)], **told)[name]
        one = made(name)
        for part in (slice(0, 2), slice(2, 3)):
            own = {key: value[part] for key, value in told.items()}
            same = score(net, explained[part], [one], **own)[name]
            assert same is one
        near(one.per_image, whole.per_image, within=2e-3)

    @pytest.mark.parametrize("name", NAMES)
    def test_the_chunk_does_not_matter(self, name, net, explained):
        told = annotations(name)
        found = [
            score(net, explained, [made(name)], chunk=chunk, **told)[name] for chunk in (1, 32)
        ]
        # quotients by almost nothing (ris, ros) are as large as 1e6
        near(found[0].per_image, found[1].per_image, within=2e-3, share=1e-4)

    @pytest.mark.parametrize("name", BOXED)
    def test_missing_boxes_are_told(self, name, net, explained):
        with pytest.raises(InputError, match=f"{name} needs the boxes"):
            score(net, explained, [name], masks=masks())

    @pytest.mark.parametrize("name", MASKED)
    def test_missing_masks_are_told(self, name, net, explained):
        with pytest.raises(InputError, match=f"{name} needs the masks"):
            score(net, explained, [name], boxes=boxes())

    def test_all_at_once_by_name_or_as_metrics(self, net, explained):
        names = [name for name in NAMES if name not in QUICK]
        alone = {name: score(net, explained, [name], **annotations(name))[name] for name in names}
        found = score(net, explained, names, boxes=boxes(), masks=masks())
        assert list(found) == names
        for name in names:
            near(found[name].per_image, alone[name].per_image, within=1e-9)


class TestNumbers:
    """Against the network, called by hand."""

    labels = torch.tensor([0, 3, 1])

    def scored(self, net, explained, name, **options):
        return score(net, explained, [made(name)], **{**annotations(name), **options})[name]

    def test_masked_scores(self, net, x, explained):
        p = probabilities(net, x, self.labels)
        o = probabilities(net, x * explained.map[:, None], self.labels)
        near(self.scored(net, explained, "ad").per_image, 100 * (p - o).clamp_min(0) / p)
        near(self.scored(net, explained, "ag").per_image, 100 * (o - p).clamp_min(0) / (1 - p))
        near(self.scored(net, explained, "ai").per_image, 100 * (o > p).double())

    def test_the_masking_is_the_explanations_unless_given(self, net, x):
        grey = GivenImage(torch.full((3, 1, 1), 0.4))
        own = explain(net, x, "mtsm", self.labels, masking=grey)["mtsm"]
        keep = own.map[:, None]
        p = probabilities(net, x, self.labels)
        for given, colour in ((None, torch.full((3, 1, 1), 0.4)), (BlackPixel(), None)):
            if colour is None:
                pairs = zip(given.mean, given.std, strict=True)
                colour = torch.tensor([-mean / std for mean, std in pairs])[:, None, None]
            o = probabilities(net, x * keep + colour * (1 - keep), self.labels)
            found = self.scored(net, own, "ad", masking=given).per_image
            near(found, 100 * (p - o).clamp_min(0) / p)

    def test_embeddings(self, net, x, explained):
        with torch.no_grad():
            z, masked = net(x).double(), net(x * explained.map[:, None]).double()
        near(self.scored(net, explained, "mse").per_image, (z - masked).square().sum(1))
        near(self.scored(net, explained, "cosine").per_image, 100 * F.cosine_similarity(z, masked))

    def test_coherency_and_adcc(self, net, x, explained):
        shown = x * explained.map[:, None]
        again = explain(net, shown, "mtsm", self.labels)["mtsm"].map
        coherent = coherency(explained.map, again)
        near(self.scored(net, explained, "coherency").per_image, coherent, within=1e-3)
        p, o = (probabilities(net, one, self.labels) for one in (x, shown))
        drops = 100 * (p - o).clamp_min(0) / p
        expected = adcc(coherent, complexity(explained.map), drops)
        near(self.scored(net, explained, "adcc").per_image, expected, within=1e-3)

    def test_official_metric_knows_whether_the_class_is_right(self, net, x, explained):
        predicted = net(x).argmax(1)
        perfect = list(predicted_boxes(explained.map).double()[:, None])
        wrong = (predicted != self.labels).double()
        assert wrong.sum() > 0
        near(score(net, explained, ["om"], boxes=perfect)["om"].per_image, 100 * wrong)
        right = score(net, explained, ["om"], boxes=perfect, target=predicted)["om"]
        assert right.compute() == 0

    def test_saliency_metric_crops_the_predicted_box(self, net, x, explained):
        found = self.scored(net, explained, "sm").per_image
        for place, box in enumerate(predicted_boxes(explained.map).long().tolist()):
            x0, y0, x1, y1 = box
            part = x[place : place + 1, :, y0:y1, x0:x1]
            part = F.interpolate(part, (SIDE, SIDE), mode="bicubic", align_corners=False)
            p = probabilities(net, part, self.labels[[place]]).item()
            area = max((x1 - x0) * (y1 - y0) / SIDE**2, 0.05)
            assert found[place].item() == pytest.approx(math.log(area) - math.log(p), abs=1e-4)

    def test_deletion(self, net, x, explained):
        order = explained.map.flatten(1).argsort(dim=1, descending=True, stable=True)
        taken, curve = [0, 1152, 2304], []
        for count in taken:
            keep = torch.ones(COUNT, SIDE * SIDE)
            for place in range(COUNT):
                keep[place, order[place, :count]] = 0
            curve.append(probabilities(net, x * keep.view(COUNT, 1, SIDE, SIDE), self.labels))
        expected = 100 * (curve[0] / 4 + curve[1] / 2 + curve[2] / 4)
        one = create_metric("deletion", {"step": 1152})
        near(score(net, explained, [one])["deletion"].per_image, expected)

    def test_the_settings_reach_the_measure(self, net, explained):
        """Against the measures, called with the settings."""
        labels, curve = self.labels, measures.perturbation_curve
        one = create_metric("insertion", {"step": 100, "budget": 5})
        score(net, explained, [one])
        told = curve(net, explained.images, explained.map, labels, step=100, budget=5)
        assert one.curves[:, 0].tolist() == pytest.approx(told.probabilities[:, 0].tolist())
        alone = create_metric("insertion")
        alone.update(**told.inputs())
        near(one.curves, alone.curves, within=1e-6)
        for seed in (0, 4):
            one = create_metric("infidelity", {"samples": 5, "side": 0.4})
            score(net, explained, [one], seed=seed)
            told = measures.square_removals(
                net, explained.images, labels, samples=5, side=0.4, seed=seed
            )
            alone = create_metric("infidelity")
            alone.update(explained.map, **told.inputs())
            near(one.per_image, alone.per_image, within=1e-6)

    def test_two_metrics_of_one_measure_with_other_options(self, net, explained, counted):
        first = create_metric("max-sensitivity", {"samples": 2})
        second = create_metric("avg-sensitivity", {"samples": 3})
        score(net, explained, [first, second])
        assert counted.images == COUNT * 5
        for one in (first, second):
            told = measures.noisy_maps(net, explained, samples=one.samples)
            alone = create_metric(one.name, {"samples": one.samples})
            alone.update(**{k: v for k, v in told.inputs().items() if k in alone.entry.inputs})
            near(one.per_image, alone.per_image, within=1e-6)


class TestPasses:
    def test_drop_increase_and_gain_share_one_masked_pass(self, net, explained, counted):
        score(net, explained, ["ad", "ai", "ag"])
        assert counted.images == COUNT
        assert counted.with_gradients == 0

    def test_insertion_and_deletion_cost_a_pass_a_row_each(self, net, explained, counted):
        one = explained[0]
        bench = Bench(net, one)
        for name in ("ad", "insertion", "deletion"):
            bench.inputs(create_metric(name))
        assert counted.images == bench.passes == 1 + 2 * SIDE
        bench.inputs(create_metric("insertion"))
        assert counted.images == bench.passes

    def test_adcc_costs_one_more_explanation_and_no_masked_pass(self, net, explained, counted):
        score(net, explained, ["adcc"])
        assert counted.images == COUNT
        score(net, explained, ["adcc", "coherency", "complexity", "ad", "ai", "ag"])
        assert counted.images == 2 * COUNT

    def test_the_order_of_the_metrics_costs_nothing(self, net, explained, counted):
        score(net, explained, ["ad", "adcc"])
        assert counted.images == COUNT

    def test_scores_of_the_re_explanation_are_those_of_the_masked_pass(self, net, explained):
        first = score(net, explained, ["ad", "adcc"])
        second = score(net, explained, ["adcc", "ad"])
        for name in ("ad", "adcc"):
            near(first[name].per_image, second[name].per_image)

    def test_sanity_metrics_share_the_randomised_networks(self, net, explained, monkeypatch):
        calls, run = [], measures.randomised_maps
        monkeypatch.setattr(
            measures, "randomised_maps", lambda *a, **k: calls.append(k["stages"]) or run(*a, **k)
        )
        score(net, explained, [made(name) for name in ("spearman", "spearman-abs", "ssim")])
        assert calls == [["fc", "conv3"]]

    def test_a_network_of_permuted_labels_is_compared_instead(self, net, explained):
        alike = create_metric("ssim", {"mode": "labels", "window": 3})
        with pytest.raises(OptionError, match="has the weights of the explained one"):
            score(net, explained, [alike], permuted=copy.deepcopy(net))
        score(net, explained, [alike], permuted=convnet(seed=5))
        assert (alike.per_image < 0.99).all()
        with pytest.raises(OptionError, match="without a network trained on permuted labels"):
            score(net, explained, [alike])

    def test_a_second_judge_costs_one_clean_pass_more(self, net, explained, counted):
        other = convnet(seed=5)
        judge = Counter(other)
        found = score(net, explained, ["ad", "ag", "om"], judge=other, boxes=boxes())
        assert (judge.images, counted.images) == (2 * COUNT, 0)
        labels = explained.target.labels
        p = probabilities(other, explained.images, labels)
        o = probabilities(other, explained.images * explained.map[:, None], labels)
        near(found["ad"].per_image, 100 * (p - o).clamp_min(0) / p)

    def test_maps_are_made_again_by_the_explained_network(self, net, explained, counted):
        other = convnet(seed=5)
        judge = Counter(other)
        score(net, explained, ["adcc"], judge=other)
        assert counted.images == COUNT
        assert judge.images == 2 * COUNT  # clean and masked: it has seen neither

    def test_other_images_for_the_judge(self, net, explained, counted):
        """Preprocessed in another way: the explanation's logits say nothing of them."""
        given = 0.5 * explained.images + 0.1
        found = score(net, explained, ["ad"], images=given)["ad"]
        assert counted.images == 2 * COUNT
        labels = explained.target.labels
        p = probabilities(net, given, labels)
        o = probabilities(net, given * explained.map[:, None], labels)
        near(found.per_image, 100 * (p - o).clamp_min(0) / p)

    def test_the_explained_network_wrapped_is_the_same_judge(self, net, explained, counted):
        wrapped = NetworkWrapper()
        wrapped.module = net
        score(net, explained, ["ad"], judge=wrapped)
        score(wrapped, explained, ["ad"])
        assert counted.images == 2 * COUNT

    def test_map_metrics_run_nothing(self, net, explained, counted):
        names = [name for name in BOXED if name != "om"]
        score(net, explained, [*names, "complexity", "om"], boxes=boxes())
        assert counted.calls == 0


SHARING = {
    "groups": (["saco", "faithfulness-estimate"], {}, 10),
    "curve": (["monotonicity", "deletion"], {"budget": 4}, 4),
    "subsets": (["sensitivity-n", "faithfulness-correlation"], {"samples": 2}, 10),
    "information": (["sic", "aic"], {}, 14),
}


@pytest.mark.filterwarnings("ignore:.* is undefined")
@pytest.mark.parametrize("kind", SHARING)
def test_metrics_of_the_same_perturbed_images_share_passes(kind, net, explained, counted):
    names, options, passes = SHARING[kind]
    score(net, explained, [create_metric(name, options) for name in names])
    assert counted.images == COUNT * passes


class TestTarget:
    def test_the_explained_classes_by_default(self, net, explained):
        bench = Bench(net, explained)
        assert bench.labels.tolist() == [0, 3, 1]
        assert bench.passes == 0

    @pytest.mark.parametrize("target", [2, [2, 2, 2], torch.tensor([2, 2, 2])])
    def test_given_classes(self, net, explained, target):
        labels = torch.full((COUNT,), 2)
        p = probabilities(net, explained.images, labels)
        o = probabilities(net, explained.images * explained.map[:, None], labels)
        found = score(net, explained, ["ad"], target=target)["ad"]
        near(found.per_image, 100 * (p - o).clamp_min(0) / p)

    def test_no_class_explained_means_the_judges_predictions(self, net, x):
        reference = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(0))
        own = explain(net, x, quick("gradcam"), EmbeddingSimilarity(reference))["gradcam"]
        predicted = net(x).argmax(1)
        assert Bench(net, own).labels.tolist() == predicted.tolist()
        p = probabilities(net, x, predicted)
        o = probabilities(net, x * own.map[:, None], predicted)
        near(score(net, own, ["ad"])["ad"].per_image, 100 * (p - o).clamp_min(0) / p)
        other = convnet(seed=5)
        assert Bench(net, own, judge=other).labels.tolist() == other(x).argmax(1).tolist()

    def test_a_target_that_does_not_fit(self, net, explained):
        with pytest.raises(TargetError, match="classes 0 to 4"):
            score(net, explained, ["ad"], target=5)
        with pytest.raises(TargetError):
            score(net, explained, ["ad"], target=[0, 1])

    def test_any_score_may_be_given(self, net, explained):
        """An encoder's similarity is judged by itself, unasked; a callable where it is given."""

        def first(output):
            return output.sigmoid()[:, 0]

        found = score(net, explained, ["ad"], target=first)["ad"]
        with torch.no_grad():
            clean = first(net(explained.images)).double()
            masked = first(net(explained.images * explained.map[:, None])).double()
        near(found.per_image, 100 * (clean - masked).clamp_min(0) / clean)
        encoder = NetworkWrapper(net, scores=EMBEDDING)
        own = explain(encoder, explained.images, quick("gradcam"), OwnEmbedding())["gradcam"]
        judged = score(encoder, own, [create_metric("saco", {"groups": 4})])["saco"]
        direct = group_removals(net, own.images, own.map, own.target, groups=4)
        near(judged.per_image, functional.saco(direct.sums, direct.drops))


def test_options_are_written_as_in_a_plan(net, explained):
    options = {"ssim": {"mode": "labels", "window": 3}}
    for given in (options, [options], [{"name": "ssim", "options": options["ssim"]}]):
        (alike,) = score(net, explained, given, permuted=convnet(seed=5)).values()
        assert (alike.mode, alike.window) == ("labels", 3)
    labelled = [{"name": "ad", "label": "drop"}, "ad"]
    assert [*score(net, explained, labelled)] == ["drop", "ad"]
    assert [*score(net, explained, "ad")] == ["ad"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ad": {"bogus": 3}}, "ad has no option 'bogus'"),
        ({"ad": 3}, r"\{'ad': 3\} was given as a metric; give its name, \{name: "),
    ],
)
def test_options_that_do_not_fit(net, explained, given, sentence):
    with pytest.raises(OptionError, match=sentence):
        score(net, explained, given)


class TestErrors:
    def test_unknown_metric(self, net, explained, counted):
        with pytest.raises(OptionError, match="no metric 'insertoin'; close names are insertion"):
            score(net, explained, ["ad", "insertoin"])
        assert counted.calls == 0

    @pytest.mark.parametrize("names", [["ad", "ag", "ad"], []])
    def test_none_or_a_duplicate(self, net, explained, names):
        with pytest.raises(OptionError, match="each once"):
            score(net, explained, names)
        with pytest.raises(OptionError, match="each once"):
            score(net, explained, ["ad", create_metric("ad")])

    def test_more_stages_than_the_network_has(self, net, explained):
        with pytest.raises(OptionError, match=r"5 stages .* has 4: fc, conv3, conv2, conv1"):
            score(net, explained, ["spearman"])

    def test_boxes_of_another_number_of_images(self, net, explained):
        with pytest.raises(InputError, match="2 images"):
            score(net, explained, ["le"], boxes=boxes()[:2])

    def test_a_failed_call_updates_nothing(self, net, explained):
        """A second try after the mistake would count the batch twice."""
        drop = create_metric("ad")
        with pytest.raises(InputError, match="needs the boxes"):
            score(net, explained, [drop, "le"])
        assert len(drop.per_image) == 0

    def test_the_network_is_left_as_it_was(self, net, explained):
        before = {key: value.clone() for key, value in net.state_dict().items()}
        net.train()
        try:
            score(net, explained, ["adcc", made("spearman"), made("insertion")])
            assert all(module.training for module in net.modules())
        finally:
            net.eval()
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())

    def test_it_is_public(self):
        assert torchsaliency.evaluation.score is score


class TestAMeasureFromOutside:
    """A metric with a measure of its own is one file."""

    @pytest.fixture
    def shade(self, registries):  # noqa: ARG002 (restores them)
        calls = []

        @measure("shade", "power", classes=False)
        def measure_shade(bench, power):
            """No pass."""
            calls.append(power)
            return {"shade": bench.images.mean((1, 2, 3)) ** power}

        @metric("shade", group="test", cite="nobody", direction="neither", requires="shade")
        class Shade(SaliencyMetric):
            """Formula: mean of the image."""

            def __init__(self, power: int = 1) -> None:
                self.power = power
                super().__init__()

            def update(self, shade: torch.Tensor) -> None:
                self._record(shade)

        return calls

    def test_it_is_scored(self, net, explained, shade, counted):
        names = ["shade", "complexity"]
        found = score(net, explained, names)["shade"].per_image
        near(found, explained.images.mean((1, 2, 3)).double())
        squared = score(net, explained, [create_metric("shade", {"power": "2"})])["shade"]
        near(squared.per_image, found**2)
        assert shade == [1, 2]
        assert counted.calls == 0

    @pytest.mark.usefixtures("shade")
    def test_it_needs_no_classes(self):
        assert find_class_measure(create_metric("shade")) == ""
        assert find_class_measure(create_metric("ad")) == "masked_scores"

    @pytest.mark.usefixtures("shade")
    def test_a_name_is_taken_once(self):
        with pytest.raises(OptionError, match="A measure 'shade' is registered already"):
            measure("shade")(lambda bench: {})

    @pytest.mark.usefixtures("shade")
    def test_a_metric_whose_measure_is_missing(self, net, explained):
        @metric("lost", group="test", cite="nobody", direction="neither", requires="shadow")
        class Lost(SaliencyMetric):
            """Formula: nothing."""

            def update(self, shade: torch.Tensor) -> None:
                self._record(shade)

        with pytest.raises(OptionError, match="no measure 'shadow'; close names are shade"):
            score(net, explained, ["lost"])
