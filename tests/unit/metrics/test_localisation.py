"""Localisation: boxes by hand, perfect and worst by construction, the published figures' logic."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.base import create_metric, metric_entry
from torchsaliency.metrics.localisation import (
    EnergyPointingGame,
    LocalisationError,
    MaxBoxAccuracy,
    OfficialMetric,
    PixelF1,
    PixelPrecision,
    PixelRecall,
    PointingGame,
    SaliencyCropMetric,
    box_hits,
    box_iou,
    energy_pointing_game,
    localisation_error,
    max_box_accuracy,
    official_metric,
    pixel_scores,
    pointing_game,
    predicted_boxes,
    saliency_metric,
)

NAMES = ["om", "le", "f1", "precision", "recall", "ba", "sp", "ep", "sm"]


def box(*corners):
    return torch.tensor([corners], dtype=torch.float64)


def filled(*corners, size=10, inside=1.0, outside=0.0):
    """A map (1, size, size) that is one value in a box and another elsewhere."""
    made = torch.full((1, size, size), outside)
    x0, y0, x1, y1 = corners
    made[:, y0:y1, x0:x1] = inside
    return made


def fake(count=1, size=224):
    """Fake-CAM: 1 everywhere but in the first pixel."""
    made = torch.ones(count, size, size)
    made[:, 0, 0] = 0
    return made


def smooth(count=6, size=32, seed=0):
    draw = np.random.default_rng(seed)
    maps = ndimage.gaussian_filter(draw.standard_normal((count, size, size)), (0, 3, 3))
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return torch.from_numpy((maps - low) / (high - low)).float()


def some_boxes(count=6, size=32, seed=0):
    """One to three boxes an image, some of which reach outside."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for place in range(count):
        corner = torch.rand(place % 3 + 1, 2, generator=draw) * size * 1.2 - size * 0.3
        side = torch.rand(place % 3 + 1, 2, generator=draw) * size * 0.6 + 4
        made.append(torch.cat([corner, corner + side], 1))
    return made


def inputs(name, maps, boxes, correct=None, crop=None):
    count = len(maps)
    given = {
        "maps": maps,
        "boxes": boxes,
        "correct": torch.ones(count, dtype=torch.bool) if correct is None else correct,
        "crop": torch.ones(count) if crop is None else crop,
    }
    return {key: given[key] for key in metric_entry(name).inputs}


def scored(name, maps, boxes, **given):
    made = create_metric(name)
    made.update(**inputs(name, maps, boxes, **given))
    return made


class TestPredictedBoxes:
    def test_by_hand(self):
        maps = torch.zeros(2, 6, 8)
        maps[0, 1:3, 2:5] = 0.9  # 6 pixels
        maps[0, 4, :7] = 1  # 7 pixels
        maps[1, 0, 0] = maps[1, 1, 1] = 1  # a corner does not join
        assert predicted_boxes(maps).tolist() == [[0, 4, 7, 5], [0, 0, 1, 1]]

    def test_the_mean_itself_is_not_above_the_mean(self):
        maps = torch.tensor([[[0.0, 0.5, 0.5, 1.0]]])
        assert predicted_boxes(maps).tolist() == [[3, 0, 4, 1]]

    def test_the_published_box_is_one_pixel_short(self):
        assert predicted_boxes(fake()).tolist() == [[0, 0, 224, 224]]
        assert predicted_boxes(fake(), short=True).tolist() == [[0, 0, 223, 223]]
        single = filled(3, 4, 4, 5)
        assert predicted_boxes(single, short=True).tolist() == [[3, 4, 3, 4]]

    @pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 0.7, 1.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
    @pytest.mark.parametrize("short", [False, True])
    def test_a_constant_map_has_an_empty_box(self, value, dtype, short):
        maps = torch.full((2, 17, 13), value, dtype=dtype)
        assert predicted_boxes(maps, short=short).tolist() == [[0] * 4] * 2


class TestOverlap:
    def test_by_hand(self):
        predicted = torch.tensor([[2, 2, 6, 6]], dtype=torch.float64)
        assert box_iou(predicted, [box(4, 2, 8, 6)]).item() == pytest.approx(8 / 24)
        assert box_iou(predicted, [box(6, 2, 8, 6)]).item() == 0
        assert box_iou(predicted, [box(2, 2, 6, 6)]).item() == 1

    def test_the_best_of_several_boxes_counts(self):
        predicted = torch.tensor([[0, 0, 4, 4]], dtype=torch.float64)
        boxes = torch.cat([box(5, 5, 9, 9), box(0, 0, 4, 2), box(0, 0, 1, 1)])
        assert box_iou(predicted, [boxes]).item() == 0.5

    def test_what_is_outside_the_image_counts_as_missed(self):
        predicted = torch.tensor([[0, 0, 4, 4]], dtype=torch.float64)
        assert box_iou(predicted, [box(-4, 0, 4, 4)]).item() == 0.5
        assert box_iou(predicted, [box(-9, -9, -1, -1)]).item() == 0

    def test_boxes_are_cut_to_whole_pixels_towards_zero(self):
        predicted = torch.tensor([[0, 0, 4, 4]], dtype=torch.float64)
        assert box_iou(predicted, [box(-0.9, 0.9, 4.9, 4.2)]).item() == 1
        assert box_iou(predicted, [box(1.2, 1.2, 1.8, 1.8)]).item() == 0

    def test_an_empty_box_overlaps_nothing(self):
        empty = torch.zeros(1, 4, dtype=torch.float64)
        assert box_iou(empty, [box(0, 0, 4, 4)]).item() == 0
        assert box_iou(empty, [box(0.1, 0.1, 0.4, 0.4)]).item() == 0


class TestOfficialMetricAndLocalisationError:
    maps = torch.cat([filled(2, 2, 8, 8), filled(2, 2, 8, 8), filled(2, 2, 8, 8)])
    boxes = (box(2, 2, 8, 8), box(2, 2, 8, 5), box(2, 2, 5, 5))  # IoU 1, 1/2, 1/4

    def test_a_half_is_not_enough(self):
        assert localisation_error(self.maps, self.boxes).tolist() == [0, 100, 100]
        found = localisation_error(self.maps, self.boxes, continuous=True)
        assert found.tolist() == [0, 50, 75]

    def test_a_wrong_class_is_an_error(self):
        correct = torch.tensor([False, True, False])
        assert official_metric(self.maps, self.boxes, correct).tolist() == [100, 100, 100]
        found = official_metric(self.maps, self.boxes, correct, continuous=True)
        assert found.tolist() == [100, 50, 100]
        assert official_metric(self.maps, self.boxes, ~correct).tolist() == [0, 100, 100]

    def test_classes_take_the_options(self):
        error = LocalisationError(continuous=True)
        error.update(self.maps, self.boxes)
        assert error.compute() == pytest.approx(125 / 3)
        short = LocalisationError(continuous=True, short=True)
        short.update(self.maps, self.boxes)
        assert short.per_image[0] == pytest.approx(100 * (1 - 25 / 36))
        official = OfficialMetric(continuous=True)
        official.update(self.maps, self.boxes, torch.tensor([True, True, False]))
        assert official.per_image.tolist() == [0, 50, 100]

    @pytest.mark.parametrize("correct", [torch.ones(2, dtype=torch.bool), torch.ones(3)])
    def test_correct_must_be_bool_and_one_an_image(self, correct):
        with pytest.raises(InputError, match="correct"):
            official_metric(self.maps, self.boxes, correct)


class TestPixelScores:
    def test_by_hand(self):
        maps = filled(0, 0, 4, 2, inside=0.5)  # mass 4, half of it in the box of 8 pixels
        scores = pixel_scores(maps, [box(2, 0, 4, 4)])
        precision, recall = 0.5, 0.25
        assert scores.precision.item() == pytest.approx(100 * precision)
        assert scores.recall.item() == pytest.approx(100 * recall)
        f1 = 2 * precision * recall / (precision + recall)
        assert scores.f1.item() == pytest.approx(100 * f1)

    def test_the_best_single_box_or_the_union(self):
        maps = filled(0, 0, 4, 4)
        boxes = [torch.cat([box(0, 0, 2, 4), box(1, 0, 4, 4)])]
        single = pixel_scores(maps, boxes)
        assert [one.item() for one in single] == pytest.approx([75, 100, 600 / 7])
        union = pixel_scores(maps, boxes, union=True)
        assert [one.item() for one in union] == [100, 100, 100]

    def test_a_box_counts_its_whole_area_and_the_union_what_is_in_the_image(self):
        maps, boxes = filled(0, 0, 4, 4), [box(-4, 0, 4, 4)]
        assert pixel_scores(maps, boxes).recall.item() == 50
        assert pixel_scores(maps, boxes, union=True).recall.item() == 100

    @pytest.mark.parametrize("union", [False, True])
    def test_nothing_scores_nothing(self, union):
        boxes = [box(1, 1, 4, 4)]
        assert [one.item() for one in pixel_scores(torch.zeros(1, 6, 6), boxes, union=union)] == [
            0,
            0,
            0,
        ]
        outside = [box(-9, -9, -4, -4)]
        assert [one.item() for one in pixel_scores(fake(size=6), outside, union=union)] == [0] * 3

    def test_classes_take_the_option(self):
        maps = filled(0, 0, 4, 4)
        boxes = [torch.cat([box(0, 0, 2, 4), box(1, 0, 4, 4)])]
        for factory, single in ((PixelPrecision, 75), (PixelRecall, 100), (PixelF1, 600 / 7)):
            for union, expected in ((False, single), (True, 100)):
                made = factory(union)
                made.update(maps, boxes)
                assert made.compute() == pytest.approx(expected)


def wsol_overlaps(saliency, boxes, contours, step):
    """The official evaluation, one threshold after the other: best IoU by threshold."""
    cv2 = pytest.importorskip("cv2")
    levels = (saliency * 255).astype(np.uint8)
    height, width = levels.shape
    boxes = [[max(0, int(value)) for value in one] for one in boxes.tolist() if min(one[2:]) >= 1]
    best = []
    for threshold in np.arange(0, 1, step):
        cut = int(threshold * levels.max())
        _, binary = cv2.threshold(levels, cut, 255, cv2.THRESH_BINARY)
        found, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        if contours == "largest" and found:
            found = [max(found, key=cv2.contourArea)]
        estimated = [(0, 0, 0, 0)] if not found else []
        for contour in found:
            x, y, w, h = cv2.boundingRect(contour)
            estimated.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
        ious = [0.0]
        for a in estimated:
            for b in boxes:
                across = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
                down = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
                sizes = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
                ious.append(across * down / (sum(sizes) - across * down))
        best.append(max(ious))
    return np.array(best)


class TestMaxBoxAccuracy:
    @pytest.mark.parametrize("contours", ["all", "largest"])
    @pytest.mark.parametrize("step", [0.01, 0.001, 0.13])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_is_the_official_evaluation(self, contours, step, seed):
        maps, boxes = smooth(seed=seed), some_boxes(seed=seed)
        overlaps = (0.1, 0.3, 0.5, 0.7)
        found = box_hits(maps, boxes, step=step, overlaps=overlaps, contours=contours)
        for one, true, hits in zip(maps.numpy(), boxes, found, strict=True):
            best = wsol_overlaps(one, true, contours, step)
            assert np.array_equal(hits.numpy(), best[:, None] >= np.array(overlaps))
        accuracy = 100 * found.mean(0).amax(0).mean()
        assert max_box_accuracy(
            maps, boxes, step=step, overlaps=overlaps, contours=contours
        ).mean() == pytest.approx(accuracy.item())

    def test_a_hole_can_be_the_object(self):
        maps = 1 - filled(4, 4, 9, 8, size=12)  # its contour's box is 3 3 10 9
        boxes = [box(3, 3, 10, 9)]
        assert box_hits(maps, boxes, step=0.5, overlaps=(1,)).tolist() == [[[1], [1]]]
        alone = box_hits(maps, boxes, step=0.5, overlaps=(0.7,), contours="largest")
        assert alone.tolist() == [[[0], [0]]]

    def test_the_box_counts_both_ends_but_not_beyond_the_border(self):
        boxes = [box(2, 2, 6, 6)]
        hits = box_hits(filled(2, 2, 6, 6), boxes, step=1, overlaps=(1,))
        assert hits.item() == 1  # 5 by 5 for both
        whole = torch.ones(1, 10, 10)
        assert box_hits(whole, [box(0, 0, 9, 9)], step=1, overlaps=(1,)).item() == 1
        assert box_hits(whole, [box(-5, -5, 9, 9)], step=1, overlaps=(1,)).item() == 1
        assert box_hits(whole, [box(0, 0, 10, 10)], step=1, overlaps=(1,)).item() == 0

    def test_nothing_above_the_threshold_is_the_first_pixel(self):
        nothing = torch.zeros(1, 4, 4)
        assert box_hits(nothing, [box(0, 0, 1, 1)], step=1, overlaps=(0.25,)).item() == 1
        assert box_hits(nothing, [box(0, 0, 1, 1)], step=1, overlaps=(0.26,)).item() == 0
        assert box_hits(nothing, [box(2, 2, 4, 4)], step=1, overlaps=(0.01,)).item() == 0

    def test_a_box_wholly_outside_is_missed(self):
        boxes = [box(-5, 0, -1, 4), box(12, 0, 20, 4), box(0, -3, 10, 0)]
        assert box_hits(torch.ones(3, 10, 10), boxes, overlaps=(0.001,)).sum() == 0

    def test_the_threshold_is_chosen_for_all_images(self):
        """One image needs a high threshold, two a low one; the low one wins."""
        low = filled(0, 0, 10, 10, inside=0.3, outside=0.0, size=20)
        low[0, 0, 0] = 1
        maps = torch.cat([low, low, filled(0, 0, 10, 10, outside=0.5, size=20)])
        boxes = [box(0, 0, 10, 10)] * 3
        found = max_box_accuracy(maps, boxes, overlaps=(0.9,))
        assert found.tolist() == [100, 100, 0]
        made = MaxBoxAccuracy(overlaps=(0.9,))
        for start in range(3):
            made.update(maps[start : start + 1], boxes[start : start + 1])
        assert made.compute().item() == pytest.approx(200 / 3)
        assert made.per_image.tolist() == [100, 100, 0]
        assert made.summary().value == pytest.approx(200 / 3)

    def test_large_maps_are_computed_in_parts(self, monkeypatch):
        maps, boxes = smooth(count=2), some_boxes(count=2)
        whole = box_hits(maps, boxes)
        monkeypatch.setattr("torchsaliency.metrics.localisation.accuracy._PIXELS", 5000)
        assert torch.equal(box_hits(maps, boxes), whole)

    def test_width_follows_the_options(self):
        made = MaxBoxAccuracy(step=0.25, overlaps=(0.5,), contours="largest")
        assert made.width == 4
        made.update(smooth(), some_boxes())
        assert 0 <= made.compute() <= 100
        assert MaxBoxAccuracy().width == 300

    @pytest.mark.parametrize(
        "wrong", [{"step": 0}, {"step": 1.5}, {"overlaps": ()}, {"overlaps": (0.0,)}]
    )
    def test_options_out_of_range_are_told(self, wrong):
        with pytest.raises(OptionError, match="above 0"):
            MaxBoxAccuracy(**wrong)
        with pytest.raises(OptionError, match="above 0"):
            box_hits(smooth(), some_boxes(), **wrong)


class TestPointingGame:
    def test_the_maximum_must_be_in_a_box(self):
        maps = filled(4, 2, 5, 3)  # one pixel: x = 4, y = 2
        assert pointing_game(maps, [box(4, 2, 5, 3)]).item() == 100
        assert pointing_game(maps, [box(2, 4, 3, 5)]).item() == 0
        assert pointing_game(maps, [box(0, 0, 4, 3)]).item() == 0
        assert pointing_game(maps, [torch.cat([box(0, 0, 1, 1), box(3, 1, 6, 4)])]).item() == 100

    def test_ties(self):
        maps = filled(0, 0, 4, 2)  # eight maxima, of which two are in the box
        assert pointing_game(maps, [box(3, 0, 6, 6)]).item() == 100
        assert pointing_game(maps, [box(3, 0, 6, 6)], ties="expected").item() == 25
        assert pointing_game(maps, [box(5, 0, 6, 6)], ties="expected").item() == 0

    @pytest.mark.parametrize(("tolerance", "hit"), [(0, 0), (5, 0), (5.01, 100), (15, 100)])
    def test_a_tolerance_is_a_distance_to_a_pixel_below_it(self, tolerance, hit):
        maps = filled(2, 3, 3, 4, size=20)
        boxes = [box(5, 7, 9, 9)]  # three right, four down
        assert pointing_game(maps, boxes, tolerance=tolerance).item() == hit

    def test_a_tolerance_reaches_back_over_the_far_side(self):
        maps = filled(9, 3, 10, 4)
        assert pointing_game(maps, [box(2, 2, 8, 8)], tolerance=2).item() == 0
        assert pointing_game(maps, [box(2, 2, 8, 8)], tolerance=2.1).item() == 100

    def test_a_box_without_pixels_is_missed_whatever_the_tolerance(self):
        maps = torch.ones(1, 10, 10)
        assert pointing_game(maps, [box(-5, 0, 0, 9)], tolerance=100).item() == 0
        assert pointing_game(maps, [box(-5, 0, 1, 9)]).item() == 100

    def test_the_class_takes_the_options(self):
        made = PointingGame(ties="expected", tolerance=2)
        made.update(filled(0, 0, 4, 2), [box(4, 0, 6, 6)])
        assert made.compute() == 25
        with pytest.raises(OptionError, match="tolerance"):
            PointingGame(tolerance=-1)


class TestEnergyPointingGame:
    def test_by_hand(self):
        maps = filled(0, 0, 4, 2, inside=0.5)
        assert energy_pointing_game(maps, [box(3, 0, 9, 9)]).item() == 25
        boxes = torch.cat([box(3, 0, 9, 9), box(2, 0, 4, 1)])  # a pixel of both counts once
        assert energy_pointing_game(maps, [boxes]).item() == pytest.approx(37.5)
        assert energy_pointing_game(maps, [box(-5, -5, 1, 1)]).item() == 12.5

    def test_is_the_precision_of_the_union(self):
        maps, boxes = smooth(), some_boxes()
        found = energy_pointing_game(maps, boxes)
        assert torch.allclose(found, pixel_scores(maps, boxes, union=True).precision)

    def test_a_map_of_zeros_scores_zero(self):
        assert energy_pointing_game(torch.zeros(1, 4, 4), [box(0, 0, 4, 4)]).item() == 0

    def test_published_swaps_the_axes(self):
        maps = filled(6, 1, 9, 3)
        assert energy_pointing_game(maps, [box(6, 1, 9, 3)]).item() == 100
        assert energy_pointing_game(maps, [box(6, 1, 9, 3)], published=True).item() == 0
        assert energy_pointing_game(maps, [box(1, 6, 3, 9)], published=True).item() == 100

    def test_published_wraps_negative_coordinates(self):
        ones = torch.ones(1, 10, 10)
        for corners, pixels in (
            ((-3, 0, 8, 10), 10),  # rows 7 to 8
            ((-3, 0, 5, 10), 0),  # rows 7 to 5: none
            ((0, -2, 10, -1), 10),  # columns 8 to 9
            ((0, 0, 99, 5), 50),
        ):
            found = energy_pointing_game(ones, [box(*corners)], published=True)
            assert found.item() == pytest.approx(pixels)

    def test_the_class_takes_the_option(self):
        made = EnergyPointingGame(published=True)
        made.update(filled(6, 1, 9, 3), [box(1, 6, 3, 9)])
        assert made.compute() == 100


class TestSaliencyMetric:
    def test_by_hand(self):
        maps = torch.cat([filled(0, 0, 5, 5), filled(0, 0, 1, 1), torch.zeros(1, 10, 10)])
        found = saliency_metric(maps, torch.tensor([0.5, 1.0, 0.1]))
        expected = [
            math.log(0.25) - math.log(0.5),
            math.log(0.05),
            math.log(0.05) - math.log(0.1),
        ]
        assert found.tolist() == pytest.approx(expected)

    def test_the_short_box_is_smaller(self):
        found = saliency_metric(filled(0, 0, 5, 5), torch.ones(1), short=True)
        assert found.item() == pytest.approx(math.log(0.16))

    def test_undefined_where_the_probability_is_zero(self):
        made = SaliencyCropMetric()
        made.update(filled(0, 0, 5, 5).repeat(2, 1, 1), torch.tensor([0.0, 1.0]))
        assert made.per_image.isnan().tolist() == [True, False]
        assert made.compute() == pytest.approx(math.log(0.25))
        assert made.summary().undefined == 1

    def test_probabilities_are_checked(self):
        with pytest.raises(InputError, match="crop"):
            saliency_metric(filled(0, 0, 5, 5), torch.tensor([3.0]))
        with pytest.raises(InputError, match="crop"):
            saliency_metric(filled(0, 0, 5, 5), torch.ones(2))


class TestByConstruction:
    maps = torch.cat([filled(2, 3, 7, 6), filled(0, 0, 5, 5)])
    boxes = (box(2, 3, 7, 6), torch.cat([box(0, 0, 5, 5), box(8, 8, 9, 9)]))
    away = (box(8, 8, 10, 10), torch.cat([box(7, 0, 10, 3), box(-9, -9, -1, -1)]))

    @pytest.mark.parametrize("name", NAMES[:-1])
    def test_perfect(self, name):
        made = scored(name, self.maps, self.boxes)
        assert made.compute() == metric_entry(name).best

    @pytest.mark.parametrize("name", NAMES[:-1])
    def test_worst(self, name):
        made = scored(name, self.maps, self.away, correct=torch.zeros(2, dtype=torch.bool))
        assert made.compute() == metric_entry(name).worst

    def test_perfect_saliency_metric(self):
        small = torch.cat([filled(0, 0, 1, 5), filled(3, 3, 4, 4)])
        assert scored("sm", small, []).compute() == pytest.approx(metric_entry("sm").best)
        assert metric_entry("sm").worst is None


class TestFakeCam:
    """1 everywhere but in one pixel: the published figures follow from the boxes alone."""

    boxes = (
        box(0, 0, 224, 224),
        box(20, 20, 200, 200),
        box(-60, 0, 150, 224),
        torch.cat([box(0, 0, 100, 100), box(100, 100, 224, 224)]),
        box(-80, 10, -20, 60),
    )
    areas = (224 * 224, 180 * 180, 150 * 224, 100 * 100 + 124 * 124, 0)

    def test_localisation_error_counts_large_boxes(self):
        found = localisation_error(fake(5), self.boxes)
        assert found.tolist() == [0, 0, 0, 100, 100]
        continuous = localisation_error(fake(5), self.boxes, continuous=True)
        full = 224 * 224
        ious = [1, 180**2 / full, 150 / 284, 124**2 / full, 0]
        assert continuous.tolist() == pytest.approx([100 * (1 - iou) for iou in ious])

    def test_pointing_game_finds_whatever_is_in_the_image(self):
        assert pointing_game(fake(5), self.boxes).tolist() == [100, 100, 100, 100, 0]
        expected = pointing_game(fake(5), self.boxes, ties="expected")
        assert expected[1].item() == pytest.approx(100 * 180**2 / (224 * 224 - 1))

    def test_energy_is_the_share_of_the_boxes(self):
        found = energy_pointing_game(fake(5), self.boxes)
        pixels = [area - (place in (0, 2, 3)) for place, area in enumerate(self.areas)]
        assert found.tolist() == pytest.approx([100 * one / (224 * 224 - 1) for one in pixels])

    def test_published_energy_loses_what_wraps(self):
        found = energy_pointing_game(fake(5), self.boxes, published=True)
        assert found[2].item() == 0  # rows 164 to 150
        # rows 144 to 204, none of which the object has; columns 10 to 60
        assert found[4].item() == pytest.approx(100 * 60 * 50 / (224 * 224 - 1))
        whole = energy_pointing_game(fake(5), self.boxes)
        assert torch.allclose(found[[0, 1, 3]], whole[[0, 1, 3]])

    def test_f1_takes_the_best_single_box(self):
        single = pixel_scores(fake(5), self.boxes).f1
        union = pixel_scores(fake(5), self.boxes, union=True).f1
        share = 124**2 / (224 * 224 - 1)
        assert single[3].item() == pytest.approx(100 * 2 * share / (1 + share))
        assert union[3] > single[3]

    def test_box_accuracy_counts_overlaps_reached(self):
        """Opti-CAM's figure: the mean over 0.3, 0.5, 0.7 of the share of large enough boxes."""
        ious = []
        for boxes in self.boxes:
            true = boxes.clamp_min(0)
            sides = (true[:, 2:].clamp_max(223) - true[:, :2] + 1).prod(1)
            whole = (true[:, 2:] - true[:, :2] + 1).prod(1)
            seen = (boxes[:, 2:] > 0).all(1)
            ious.append(float((seen * sides / (224**2 + whole - sides)).max()))
        for contours in ("all", "largest"):
            made = MaxBoxAccuracy(contours=contours)
            made.update(fake(5), self.boxes)
            reached = [[iou >= one for iou in ious] for one in (0.3, 0.5, 0.7)]
            assert made.compute().item() == pytest.approx(100 * np.mean(reached))


class TestEveryMetric:
    @pytest.mark.parametrize("name", NAMES)
    def test_neither_batches_nor_order_matter(self, name):
        maps, boxes = smooth(), some_boxes()
        correct = torch.tensor([True, False, True, True, False, True])
        crop = torch.linspace(0.1, 0.9, 6)

        def part(places):
            return inputs(
                name, maps[places], [boxes[i] for i in places], correct[places], crop[places]
            )

        whole, parts, turned = (create_metric(name) for _ in range(3))
        whole.update(**part([0, 1, 2, 3, 4, 5]))
        for places in ([0], [1, 2, 3], [4, 5]):
            parts.update(**part(places))
        turned.update(**part([5, 4, 3, 2, 1, 0]))
        assert torch.equal(whole.per_image, parts.per_image)
        assert torch.equal(whole.per_image, turned.per_image.flip(0))
        assert torch.equal(whole.compute(), parts.compute())
        assert whole.compute().item() == pytest.approx(turned.compute().item())
        assert whole.per_image.mean().item() == pytest.approx(whole.compute().item())

    @pytest.mark.parametrize("name", NAMES)
    def test_the_order_of_an_images_boxes_does_not_matter(self, name):
        maps, boxes = smooth(), some_boxes()
        found = scored(name, maps, boxes).per_image
        turned = scored(name, maps, [one.flip(0) for one in boxes]).per_image
        assert torch.equal(found, turned)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
    def test_a_constant_map_is_defined_and_in_range(self, name, value):
        maps = torch.full((2, 12, 12), value)
        made = scored(name, maps, [box(2, 2, 6, 6), box(-9, 0, -1, 4)])
        entry = metric_entry(name)
        assert made.per_image.isfinite().all()
        if entry.worst is not None:
            low, high = sorted([entry.best, entry.worst])
            assert ((made.per_image >= low) & (made.per_image <= high)).all()

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_all_float_types_are_accepted(self, name, dtype):
        maps = filled(2, 2, 6, 6).to(dtype)
        expected = scored(name, maps.float(), [box(2, 2, 6, 6)]).compute()
        assert torch.equal(scored(name, maps, [box(2, 2, 6, 6)]).compute(), expected)

    def test_no_images_are_no_error(self):
        maps, none = torch.zeros(0, 8, 8), torch.ones(0)
        assert predicted_boxes(maps).shape == (0, 4)
        assert box_hits(maps, []).shape == (0, 100, 3)
        found = [
            localisation_error(maps, []),
            official_metric(maps, [], none.bool()),
            *pixel_scores(maps, []),
            max_box_accuracy(maps, []),
            pointing_game(maps, []),
            energy_pointing_game(maps, []),
            saliency_metric(maps, none),
        ]
        assert all(one.shape == (0,) for one in found)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_single_box_needs_no_list(self, name):
        found = scored(name, filled(2, 2, 6, 6), [torch.tensor([2, 2, 6, 6])]).compute()
        assert torch.equal(found, scored(name, filled(2, 2, 6, 6), [box(2, 2, 6, 6)]).compute())

    @pytest.mark.parametrize("name", NAMES[:-1])
    @pytest.mark.parametrize(
        ("boxes", "told"),
        [
            ([], "0 images"),
            ([box(0, 0, 4, 4), box(0, 0, 4, 4)], "2 images"),
            ([torch.zeros(0, 4)], "at least one"),
            ([torch.zeros(1, 3)], "at least one"),
            ([box(4, 0, 4, 4)], "x0 < x1"),
            ([box(0, 0, 4, math.inf)], "finite"),
        ],
    )
    def test_wrong_boxes_are_told(self, name, boxes, told):
        with pytest.raises(InputError, match=told):
            scored(name, filled(2, 2, 6, 6), boxes)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("factor", [2.0, -1.0, math.nan])
    def test_maps_that_are_none_are_told(self, name, factor):
        maps = filled(2, 2, 6, 6) * factor
        with pytest.raises(InputError, match="maps"):
            scored(name, maps, [box(0, 0, 4, 4)])

    @pytest.mark.parametrize("name", NAMES)
    def test_the_registry_knows(self, name):
        entry = metric_entry(name)
        assert entry.group == "localisation"
        assert entry.annotations == ("" if name == "sm" else "boxes")
        sections = ("Formula", "Rewards", "Misleads", "Undefined", "Source")
        assert all(entry.section(key) for key in sections)
        assert create_metric(name, entry.options).settings == dict(entry.options)
