"""The grid's sizes, wrapping, type and errors."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchsaliency.errors import InputError, OptionError
from torchsaliency.viz import Panel, Row, grid
from torchsaliency.viz.grid import _font, _lines, _shorten, _Style, _wrap

WIDTH = 64
LONG = "soft-coated wheaten terrier, Irish wheaten, or something with a name that never ends " * 5


def panel(title="method", size=(40, 30), subtitle="", colour="black"):
    return Panel(Image.new("RGB", size, colour), title, subtitle)


def row(count, **options):
    return Row(tuple(panel(f"m{index}") for index in range(count)), panel("photo", **options))


def columns_of(image):
    style = _Style(WIDTH)
    return (image.width - 2 * style.margin + style.gap) / (WIDTH + style.gap)


@pytest.mark.parametrize("count", range(31))
def test_width_holds_whole_columns(count):
    image = grid([row(count)], width=WIDTH)
    assert image.mode == "RGB"
    assert columns_of(image) == min(8, 1 + -(-count // max(1, -(-count // 7))))


@pytest.mark.parametrize(("count", "lengths"), [(7, [7]), (8, [4, 4]), (14, [7, 7]), (15, [5] * 3)])
def test_long_rows_wrap_evenly_and_show_the_photo_once(count, lengths):
    lines = _lines([row(count)], columns=8)
    assert [len(line.cells) - 1 for line in lines] == lengths
    assert [line.cells[0] is not None for line in lines] == [True] + [False] * (len(lengths) - 1)


@pytest.mark.parametrize("count", range(100, 0, -9))
def test_every_overlay_is_placed_once_in_order(count):
    cells = [cell.title for line in _lines([row(count)], columns=8) for cell in line.cells if cell]
    assert cells == ["photo", *(f"m{index}" for index in range(count))]


def test_headings_stand_once_while_columns_agree():
    same = _lines([row(3), row(3), row(2)], columns=8)
    assert [line.headed for line in same] == [True, False, False]
    other = _lines([row(3), Row((panel("else"),), panel("photo"))], columns=8)
    assert [line.headed for line in other] == [True, True]
    assert not _lines([Row((panel(""),))], columns=8)[0].headed


def test_many_rows_of_different_shapes():
    sizes = [(40, 30), (30, 40), (1, 1), (500, 5), (5, 500), (1000, 800)]
    rows = [row(index % 4, size=sizes[index % 6], subtitle="cat\n9 %") for index in range(30)]
    image = grid(rows, width=WIDTH)
    assert columns_of(image) == 4
    assert image.height > 30 * 20


def test_images_keep_their_aspect_ratio():
    style = _Style(100)
    assert style.fit_image(Image.new("L", (400, 300))) == (100, 75)
    assert style.fit_image(Image.new("L", (300, 600))) == (62, 125)
    assert style.fit_image(Image.new("L", (9000, 2))) == (100, 1)


@pytest.mark.parametrize("where", ["title", "subtitle"])
def test_long_text_stays_in_its_cell(where):
    options = {where: LONG}
    style = _Style(WIDTH)
    image = grid([Row((panel(**options), panel("")))], width=WIDTH, colour_bar=False)
    gap = style.margin + WIDTH + 1, style.find_left(1) - 1
    assert np.asarray(image)[:, gap[0] : gap[1]].min() == 255
    assert np.asarray(image)[:, image.width - style.margin + 1 :].min() == 255


def test_a_long_class_name_does_not_hide_its_probability():
    lines = _Style(WIDTH).caption(panel(subtitle=f"{LONG}\n12.3 %"))
    assert len(lines) == 3
    assert lines[1][0].endswith("…")
    assert lines[2][0] == "12.3 %"
    assert lines[0][1] != lines[2][1]


def test_shortened_and_wrapped_fit_their_measure():
    face = _font(12)
    for text in (LONG, "Donaudampfschifffahrtsgesellschaft" * 3, "a b", "", "кошка " * 30):
        for measure in (20, 64, 300):
            lines = _wrap(text, face, measure, most=2)
            assert len(lines) <= 2
            assert all(face.getlength(line) <= measure for line in lines)
    assert _shorten("cat", face, 300) == "cat"
    assert _wrap("tiger cat", face, 300, most=2) == ["tiger cat"]


def test_colour_bar_is_drawn_only_for_overlays():
    with_bar, without = (grid([row(1)], width=WIDTH, colour_bar=bar) for bar in (True, False))
    assert with_bar.height > without.height
    assert not np.ptp(np.asarray(without), axis=-1).any()  # black images, grey type
    assert np.ptp(np.asarray(with_bar), axis=-1).any()
    assert grid([row(0)], width=WIDTH).size == grid([row(0)], width=WIDTH, colour_bar=False).size


def test_the_bar_of_signed_maps_is_blue_white_red():
    photo = Image.new("RGB", (64, 48), "white")
    signed = Row.of(photo, {"lrp": torch.zeros(4, 4)}, signed=True)
    sheet = np.asarray(grid([signed], width=WIDTH, signed=True)).astype(int)
    rows = np.abs(sheet - sheet.mean(-1, keepdims=True)).sum((1, 2))
    bar = sheet[rows.argmax()]
    coloured = np.flatnonzero(np.ptp(bar, axis=-1) > 9)
    assert bar[coloured[0]].tolist() == [0, 0, 255]
    assert bar[coloured[-1]].tolist() == [255, 0, 0]
    assert bar[(coloured[0] + coloured[-1]) // 2].min() >= 250


def test_rows_without_photos_start_at_the_first_column():
    assert columns_of(grid([Row((panel(), panel()))], width=WIDTH)) == 2


def test_row_of_lays_the_maps_over_the_photo():
    photo = Image.new("L", (3000, 1500), "white")
    made = Row.of(photo, {"gradcam": torch.zeros(7, 7), "mtsm": torch.ones(7, 7)}, subtitle="cat")
    assert [panel.title for panel in (made.photo, *made.overlays)] == ["photo", "gradcam", "mtsm"]
    assert {panel.image.size for panel in made.overlays} == {(1024, 512)}
    assert made.photo.subtitle == "cat"
    assert photo.size == (3000, 1500)
    assert made.overlays[0].image.getextrema() == ((255, 255),) * 3


def test_same_rows_same_pixels():
    assert grid([row(3)], width=WIDTH).tobytes() == grid([row(3)], width=WIDTH).tobytes()


def test_errors():
    with pytest.raises(InputError, match="no rows"):
        grid([])
    with pytest.raises(InputError, match="neither photo nor overlays"):
        Row(())
    with pytest.raises(InputError, match="no pixels"):
        Panel(Image.new("RGB", (0, 4)))
    with pytest.raises(OptionError, match="width is 10"):
        grid([row(1)], width=10)
    with pytest.raises(OptionError, match="columns is 1"):
        grid([row(1)], columns=1)
    with pytest.raises(OptionError, match="no colormap 'turbot'"):
        grid([row(1)], colormap="turbot")
