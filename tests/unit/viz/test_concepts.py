"""The picture of concepts: pixels have the colour of their strongest one, as the legend has."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchsaliency.errors import InputError, OptionError
from torchsaliency.viz import concept_colours, draw_concepts

HALVES = torch.zeros(3, 4, 8)
HALVES[0, :, :4], HALVES[2, :, 4:] = 1, 1
WHITE = Image.new("RGB", (8, 4), "white")


def test_every_pixel_has_its_strongest_concepts_colour_and_nothing_where_there_is_none():
    drawn = np.asarray(draw_concepts(WHITE, HALVES, alpha=1.0))
    colours = concept_colours(3)
    assert tuple(drawn[0, 0]) == colours[0]
    assert tuple(drawn[3, 7]) == colours[2]
    assert (np.asarray(draw_concepts(WHITE, HALVES * 0)) == 255).all()


def test_the_legend_has_the_colours_and_many_concepts_have_different_ones():
    wide = Image.new("RGB", (300, 40), "white")
    drawn = draw_concepts(wide, HALVES * 0, ["one", "two", "three" * 99])
    assert drawn.width == 300
    found = {tuple(pixel) for row in np.asarray(drawn)[40:].tolist() for pixel in row}
    assert set(concept_colours(3)) <= found
    assert len(set(concept_colours(30))) == 30


@pytest.mark.parametrize(
    ("maps", "options", "error"),
    [
        (HALVES[:0], {}, InputError),
        (HALVES + 1, {}, InputError),
        (HALVES / 0, {}, InputError),
        (HALVES, {"legend": ["one"]}, InputError),
        (HALVES, {"alpha": 2.0}, OptionError),
    ],
)
def test_mistakes_are_told(maps, options, error):
    with pytest.raises(error):
        draw_concepts(WHITE, maps, **options)
