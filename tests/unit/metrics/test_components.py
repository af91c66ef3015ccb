"""Components and contours: drawn by hand, and against OpenCV on random blobs."""

import numpy as np
import pytest
from scipy import ndimage

from torchsaliency.metrics.components import (
    component_boxes,
    contour_boxes,
    largest_component_boxes,
    largest_contour_boxes,
)


def drawn(*pictures):
    """Masks of pictures, one string a picture, # for foreground."""
    return np.array([[[spot == "#" for spot in row] for row in one.split()] for one in pictures])


def blobs(count=40, height=33, width=29, seed=0):
    """Random blobs at many scales, from noise to large areas, touching the border."""
    draw = np.random.default_rng(seed)
    found = []
    for place in range(count):
        noise = ndimage.gaussian_filter(draw.standard_normal((height, width)), (place % 8) / 3)
        found.append(noise > np.quantile(noise, draw.uniform(0.1, 0.95)))
    return np.stack(found)


def sorted_rows(frame, boxes):
    rows = np.column_stack([frame, boxes])
    return rows[np.lexsort(rows.T)]


def test_components_by_hand():
    masks = drawn("##.. ...# ..#. ....", ".... .... .... ....", "#### #..# #..# ####")
    frame, boxes, pixels = component_boxes(masks, connectivity=4)
    assert frame.tolist() == [0, 0, 0, 2]
    assert boxes.tolist() == [[0, 0, 2, 1], [3, 1, 4, 2], [2, 2, 3, 3], [0, 0, 4, 4]]
    assert pixels.tolist() == [2, 1, 1, 12]
    frame, boxes, pixels = component_boxes(masks)  # a corner joins
    assert frame.tolist() == [0, 0, 2]
    assert boxes.tolist() == [[0, 0, 2, 1], [2, 1, 4, 3], [0, 0, 4, 4]]
    assert pixels.tolist() == [2, 2, 12]


def test_neighbouring_masks_of_a_stack_do_not_join():
    full = np.ones((3, 4, 5), bool)
    frame, boxes, pixels = component_boxes(full)
    assert frame.tolist() == [0, 1, 2]
    assert boxes.tolist() == [[0, 0, 5, 4]] * 3
    assert pixels.tolist() == [20] * 3


def test_largest_component_counts_pixels_and_takes_the_first_of_equals():
    masks = drawn("#..## #..## #.... #....", "##.## ..... ##.## .....", "..... ..... ..... .....")
    found = largest_component_boxes(masks)
    assert found.tolist() == [[0, 0, 1, 4], [0, 0, 2, 1], [0, 0, 0, 0]]


def test_the_contour_of_a_hole_runs_one_pixel_outside_it():
    masks = drawn("##### #...# #...# #####", "##### #.##. ##### #####")
    frame, boxes = contour_boxes(masks)
    rows = np.column_stack([frame, boxes]).tolist()
    assert rows == [
        [0, 0, 0, 5, 4],
        [1, 0, 0, 5, 4],
        [0, 0, 0, 5, 4],  # the hole's, grown by one pixel
        [1, 0, 0, 3, 3],  # background at the border is no hole
    ]


def test_an_island_in_a_hole_is_a_contour():
    _, boxes = contour_boxes(drawn("##### #...# #.#.# #...# #####"))
    assert boxes.tolist() == [[0, 0, 5, 5], [2, 2, 3, 3], [0, 0, 5, 5]]


def test_the_largest_contour_holds_its_holes_and_a_line_has_no_area():
    ring = "####... #..#.## #..#.## ####.##"  # the ring is 9 inside, the block 2 and the line 0
    line = "####### ....... ..##... ..##..."
    even = "##..##. ##..##. ....... ......."
    empty = "....... ....... ....... ......."
    found = largest_contour_boxes(drawn(ring, line, even, empty))
    assert found.tolist() == [[0, 0, 4, 4], [2, 2, 4, 4], [4, 0, 6, 2], [0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_contours_are_opencvs(seed):
    cv2 = pytest.importorskip("cv2")
    masks = blobs(seed=seed)
    found = contour_boxes(masks)
    largest = largest_contour_boxes(masks)
    frames, boxes = [], []
    for place, one in enumerate(masks):
        contours, _ = cv2.findContours(
            one.astype(np.uint8) * 255, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE
        )
        corners = [cv2.boundingRect(contour) for contour in contours]
        frames += [place] * len(corners)
        boxes += [[x, y, x + w, y + h] for x, y, w, h in corners]
        x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
        assert largest[place].tolist() == [x, y, x + w, y + h]
    assert np.array_equal(sorted_rows(*found), sorted_rows(frames, boxes))


def test_a_mask_alone_has_the_boxes_it_has_in_a_stack():
    masks = blobs(count=6)
    for find in (largest_component_boxes, largest_contour_boxes):
        assert np.array_equal(find(masks), np.concatenate([find(one[None]) for one in masks]))


@pytest.mark.parametrize("find", [largest_component_boxes, largest_contour_boxes])
def test_no_masks_have_no_boxes(find):
    assert find(np.zeros((0, 4, 5), bool)).shape == (0, 4)
