"""Opti-CAM's studies: every line against the network called by hand, batches that add up."""

import pytest
import torch

from nets import Counter, convnet, images
from torchsaliency.core.explain import explain
from torchsaliency.core.masking import BlackPixel
from torchsaliency.errors import InputError, OptionError
from torchsaliency.evaluation.studies import (
    ALPHAS,
    CLASSES,
    box_masks,
    box_variants,
    class_variants,
    find_misclassified,
    power_variants,
    score_variants,
    study_metrics,
)
from torchsaliency.metrics import AverageDrop, AverageGain, AverageIncrease

COUNT, H, W = 4, 12, 16
LABELS = torch.tensor([0, 3, 1, 2])


@pytest.fixture(scope="module")
def net():
    return convnet()


@pytest.fixture(scope="module")
def x():
    return images(COUNT, H, W)


def by_variant(found):
    """Return the metrics of a study by variant and name."""
    rows = {}
    for label, metric in found.items():
        name, _, variant = label.partition(", ")
        rows.setdefault(variant, {})[name] = metric
    return rows


def selectivity(net, x, maps, labels=None, *, alphas=ALPHAS, **options):
    return by_variant(score_variants(net, x, power_variants(maps, alphas), labels, **options))


def bounding_boxes(net, x, maps, boxes, labels=None, *, published=False, **options):
    variants = box_variants(maps, boxes, published=published)
    return by_variant(score_variants(net, x, variants, labels, **options))


def other_classes(net, x, methods, labels, layer=None, *, masking=None):
    def explain_classes(classes):
        return explain(net, x, methods, classes, layer, masking=masking)

    truth = explain_classes(labels)
    logits = next(iter(truth.values())).output
    studies = {}
    for label, variants in class_variants(truth, explain_classes).items():
        found = score_variants(net, x, variants, labels, masking=masking, clean=logits)
        studies[label] = by_variant(found | find_misclassified(found, logits, labels))
    return studies


def random_maps(low=0.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return low + (1 - low) * torch.rand(COUNT, H, W, generator=draw)


@torch.no_grad()
def by_hand(net, x, maps, labels):
    """AD, AG and AI of every image under grey masking."""
    place = labels[:, None]
    p = net(x).double().softmax(1).gather(1, place)[:, 0]
    o = net(x * maps[:, None]).double().softmax(1).gather(1, place)[:, 0]
    return (
        100 * (p - o).clamp_min(0) / p,
        100 * (o - p).clamp_min(0) / (1 - p),
        100 * (o > p).double(),
    )


def assert_row(row, expected, within=1e-4):
    for one, values in zip(row.values(), expected, strict=True):
        assert one.per_image.tolist() == pytest.approx(values.tolist(), abs=within, nan_ok=True), (
            one.name
        )


def assert_same(one, other, within=1e-9):
    """Insist that two studies have the same numbers in the same lines."""
    assert list(one) == list(other)
    for name, row in one.items():
        assert_row(row, [metric.per_image for metric in other[name].values()], within)


def boxes():
    return [
        torch.tensor([[2.0, 3.0, 9.0, 10.0]]),
        torch.tensor([[0.0, 0.0, 3.0, 12.0], [8.0, 4.0, 14.0, 9.0]]),
        torch.tensor([[-4.0, 2.0, 5.0, 30.0]]),
        torch.tensor([1.0, 1.0, 15.0, 5.0]),
    ]


class TestSelectivity:
    def test_alpha_one_is_the_map_itself(self, net, x):
        maps = random_maps()
        made = selectivity(net, x, maps, LABELS)
        assert list(made) == [f"α = {alpha:g}" for alpha in ALPHAS]
        assert_row(made["α = 1"], by_hand(net, x, maps, LABELS))

    @pytest.mark.parametrize("alpha", [0.1, 0.5, 2, 10])
    def test_every_power(self, net, x, alpha):
        maps = random_maps()
        made = selectivity(net, x, maps, LABELS, alphas=[1, alpha])
        expected = by_hand(net, x, maps**alpha, LABELS)
        assert_row(made[f"α = {alpha:g}"], expected)
        assert max(values.max() for values in expected) > 1  # or nothing would be shown

    def test_small_powers_show_the_whole_image_where_the_map_is_above_zero(self, net, x):
        made = selectivity(net, x, random_maps(low=0.1), LABELS, alphas=[1e-7, 0.01, 1.0])
        drops = [row["ad"].compute() + row["ag"].compute() for row in made.values()]
        assert drops[0] < 1e-3
        assert drops[0] < drops[1] < drops[2]

    def test_zeros_stay_zero(self, net, x):
        maps = random_maps(low=0.1)
        maps[:, :6] = 0
        made = selectivity(net, x, maps, LABELS, alphas=[1e-7])
        binary = (maps > 0).float()
        assert_row(made["α = 1e-07"], by_hand(net, x, binary, LABELS), within=1e-3)

    def test_zero_and_one_are_fixed_points(self, net, x):
        binary = random_maps().round()
        made = selectivity(net, x, binary, LABELS)
        expected = by_hand(net, x, binary, LABELS)
        for row in made.values():
            assert_row(row, expected)

    def test_large_powers_leave_the_ones_alone(self, net, x):
        maps = random_maps() * 0.9
        maps[:, 5, 5] = 1
        made = selectivity(net, x, maps, LABELS, alphas=[1000])
        assert_row(made["α = 1000"], by_hand(net, x, (maps == 1).float(), LABELS))

    def test_one_pass_a_power(self, net, x):
        counter = Counter(net)
        selectivity(net, x, random_maps(), LABELS, alphas=[1, 2, 3])
        assert counter.images == 4 * COUNT
        selectivity(net, x, random_maps(), LABELS, alphas=[1, 2, 3], clean=net(x).detach())
        assert counter.images == (4 + 1 + 3) * COUNT
        counter.remove()

    @pytest.mark.parametrize("alphas", [[], [0], [1, -0.5], [float("nan")]])
    def test_powers_are_above_zero(self, net, x, alphas):
        with pytest.raises(OptionError, match="above 0"):
            selectivity(net, x, random_maps(), alphas=alphas)

    def test_maps_are_checked(self, net, x):
        with pytest.raises(InputError, match="reach from"):
            selectivity(net, x, 2 * random_maps())

    def test_a_power_twice_would_count_images_twice(self, net, x):
        with pytest.raises(OptionError, match="each once"):
            selectivity(net, x, random_maps(), LABELS, alphas=[0.5, 2, 0.5])

    def test_the_masking_is_used(self, net, x):
        maps = random_maps()
        made = selectivity(net, x, maps, LABELS, alphas=[2], masking=BlackPixel())
        p, o = (
            net(one).detach().double().softmax(1).gather(1, LABELS[:, None])[:, 0]
            for one in (x, BlackPixel()(x, maps**2))
        )
        expected = (100 * (p - o).clamp_min(0) / p).tolist()
        assert made["α = 2"]["ad"].per_image.tolist() == pytest.approx(expected, abs=1e-4)
        grey = by_hand(net, x, maps**2, LABELS)[0].tolist()
        assert grey != pytest.approx(expected, abs=1)


class TestBoxes:
    def inside(self):
        made = torch.zeros(COUNT, H, W)
        made[0, 3:10, 2:9] = 1
        made[1, :12, :3] = 1
        made[1, 4:9, 8:14] = 1
        made[2, 2:, :5] = 1
        made[3, 1:5, 1:15] = 1
        return made

    def test_masks_are_clipped_unions(self):
        assert torch.equal(box_masks(boxes(), random_maps()), self.inside())

    def test_boxes_outside_the_image_leave_nothing(self):
        maps = torch.zeros(4, H, W)
        away = [(-9, -9, -1, -1), (16, 0, 20, 4), (2, -5, 6, 0), (3, 12, 5, 14)]
        found = box_masks([torch.tensor([one]) for one in away], maps)
        assert found.sum() == 0

    def test_corners_are_truncated_and_the_type_is_the_maps(self):
        maps = torch.zeros(1, H, W, dtype=torch.float64)
        found = box_masks([torch.tensor([[1.9, 2.2, 4.7, 5.0]])], maps)
        assert found.dtype == torch.float64
        assert found.nonzero()[[0, -1], 1:].tolist() == [[2, 1], [4, 3]]
        assert found.sum() == 9

    def test_every_line(self, net, x):
        maps, inside = random_maps(), self.inside()
        made = bounding_boxes(net, x, maps, boxes(), LABELS)
        variants = {
            "S": maps,
            "B∩S": maps * inside,
            "S∖B": maps * (1 - inside),
            "B": inside,
            "I∖B": 1 - inside,
        }
        assert list(made) == list(variants)
        for name, shown in variants.items():
            assert_row(made[name], by_hand(net, x, shown, LABELS))
        drops = [row["ad"].compute().item() for row in made.values()]
        assert len(set(drops)) == 5

    def test_a_box_that_is_the_image(self, net, x):
        maps = random_maps()
        whole = [torch.tensor([[-1, 0, W, H + 5]])] * COUNT
        made = bounding_boxes(net, x, maps, whole, LABELS, masking=BlackPixel())
        rows = made
        assert_row(rows["B∩S"], [one.per_image for one in rows["S"].values()])
        assert rows["B"]["ad"].compute() == rows["B"]["ag"].compute() == 0
        black = x.new_tensor([-m / s for m, s in zip(*vars(BlackPixel()).values(), strict=True)])
        p, o = (
            net(one).detach().double().softmax(1).gather(1, LABELS[:, None])[:, 0]
            for one in (x, black[:, None, None].expand_as(x))
        )
        for name in ("I∖B", "S∖B"):
            expected = 100 * (p - o).clamp_min(0) / p
            assert rows[name]["ad"].per_image.tolist() == pytest.approx(expected.tolist(), abs=1e-4)

    def test_published_boxes_swap_axes_and_wrap(self, net, x):
        """Rows x0 to x1 and columns y0 to y1, counted from the end where negative (erratum O7)."""
        given = [
            torch.tensor([[2, 3, 9, 10]]),
            torch.tensor([[0, 5, 3, 12], [8, 0, 11, 2]]),
            torch.tensor([[-4, 2, 11, 30]]),
            torch.tensor([[-5, 1, 3, 6]]),
        ]
        expected = torch.zeros(COUNT, H, W)
        expected[0, 2:9, 3:10] = 1
        expected[1, 0:3, 5:12] = 1
        expected[1, 8:11, 0:2] = 1
        expected[2, H - 4 : 11, 2:] = 1
        # image 3: rows 7 to 3 are none
        assert torch.equal(box_masks(given, random_maps(), published=True), expected)
        maps = random_maps()
        made = bounding_boxes(net, x, maps, given, LABELS, published=True)
        assert_row(made["B∩S"], by_hand(net, x, maps * expected, LABELS))
        assert_row(made["I∖B"], by_hand(net, x, 1 - expected, LABELS))

    def test_one_pass_a_line(self, net, x):
        counter = Counter(net)
        bounding_boxes(net, x, random_maps(), boxes(), LABELS)
        assert counter.images == 6 * COUNT
        counter.remove()

    def test_wrong_boxes_are_told(self, net, x):
        with pytest.raises(InputError, match="3 images"):
            bounding_boxes(net, x, random_maps(), boxes()[:3])
        with pytest.raises(InputError, match="x0 < x1"):
            bounding_boxes(net, x, random_maps(), [torch.tensor([[5.0, 1, 5, 3]])] * COUNT)


class TestOtherClasses:
    def order(self, net, x):
        return net(x).detach().argsort(dim=1, descending=True)

    def labels(self, net, x):
        """The true class: twice the predicted one, then the second and the fourth."""
        order = self.order(net, x)
        return torch.stack([order[0, 0], order[1, 0], order[2, 1], order[3, 3]])

    @pytest.mark.parametrize("name", ["gradcam", "hirescam"])
    def test_maps_are_for_the_named_class_and_judged_for_the_truth(self, net, x, name):
        order, labels = self.order(net, x), self.labels(net, x)
        made = other_classes(net, x, name, labels)
        assert list(made) == [name]
        rows = made[name]
        assert list(rows) == list(CLASSES)
        explained = {
            "ground truth": labels,
            "most": order[:, 0],
            "second": order[:, 1],
            "least": order[:, -1],
        }
        found = {}
        for line, classes in explained.items():
            maps = explain(net, x, name, classes)[name].map
            found[line] = by_hand(net, x, maps, labels)
            assert_row(rows[line], found[line], within=1e-3)
        # images 2 and 3 alone are misclassified
        wrong = {name: metric.per_image for name, metric in rows[CLASSES[-1]].items()}
        assert all(values[:2].isnan().all() for values in wrong.values())
        for values, expected in zip(wrong.values(), found["most"], strict=True):
            assert values[2:].tolist() == pytest.approx(expected[2:].tolist(), abs=1e-3)
        assert rows[CLASSES[-1]]["ad"].summary().count == 2
        # for the right predictions the first two lines are one
        same = [rows[line]["ad"].per_image[:2].tolist() for line in ("ground truth", "most")]
        assert same[0] == pytest.approx(same[1], abs=1e-4)
        assert len({row["ad"].compute().item() for row in rows.values()}) >= 4

    def test_several_methods_are_as_each_alone(self, net, x):
        labels = self.labels(net, x)
        both = other_classes(net, x, {"a": "gradcam", "b": "layercam"}, labels)
        assert list(both) == ["a", "b"]
        for label, name in (("a", "gradcam"), ("b", "layercam")):
            alone = other_classes(net, x, name, labels)
            assert_same(both[label], alone[name], within=1e-4)

    def test_no_image_misclassified(self, net, x):
        made = other_classes(net, x, "gradcam", self.order(net, x)[:, 0])["gradcam"]
        summary = made[CLASSES[-1]]["ad"].summary()
        assert (summary.value, summary.count) == (None, 0)
        truth, most = made["ground truth"], made["most"]
        assert_row(most, [one.per_image for one in truth.values()])

    def test_the_layer_and_the_masking_are_passed_on(self, net, x):
        labels = self.labels(net, x)
        made = other_classes(net, x, "gradcam", labels, "conv2", masking=BlackPixel())
        maps = explain(net, x, "gradcam", labels, "conv2")["gradcam"].map
        shown = BlackPixel()(x, maps)
        p, o = (
            net(one).detach().double().softmax(1).gather(1, labels[:, None])[:, 0]
            for one in (x, shown)
        )
        found = made["gradcam"]["ground truth"]["ad"].per_image
        expected = 100 * (p - o).clamp_min(0) / p
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-3)


class TestStudy:
    def test_chunks_do_not_matter(self, net, x):
        maps = random_maps()
        one, other = (
            bounding_boxes(net, x, maps, boxes(), LABELS, chunk=chunk) for chunk in (3, 64)
        )
        assert_same(one, other, within=1e-3)

    def test_predicted_classes_by_default(self, net, x):
        maps = random_maps()
        predicted = net(x).argmax(1)
        made = selectivity(net, x, maps, alphas=[1])
        assert_row(made["α = 1"], by_hand(net, x, maps, predicted))
        made = bounding_boxes(net, x, maps, boxes())
        assert_row(made["S"], by_hand(net, x, maps, predicted))

    def test_the_metrics_of_a_plans_study(self):
        found = by_variant(study_metrics("classes"))
        assert list(found) == list(CLASSES)
        kinds = [AverageDrop, AverageGain, AverageIncrease]
        assert [type(one) for one in found["most"].values()] == kinds
        assert study_metrics(None) == {}
