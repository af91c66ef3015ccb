"""Pictures of saliency maps: overlays, labelled grids, and what a notebook shows."""

from __future__ import annotations

from torchsaliency.viz.concepts import add_legend, concept_colours, draw_concepts
from torchsaliency.viz.grid import Panel, Row, grid
from torchsaliency.viz.notebook import draw_maps, png_bytes
from torchsaliency.viz.overlay import COLORMAP, DIVERGING, colourise, draw_boxes, overlay
from torchsaliency.viz.scale import (
    MAP_WORDS,
    Limits,
    add_scale,
    apply_limits,
    find_limits,
    write_limits,
)
from torchsaliency.viz.volumes import animate, montage

__all__ = [
    "COLORMAP",
    "DIVERGING",
    "MAP_WORDS",
    "Limits",
    "Panel",
    "Row",
    "add_legend",
    "add_scale",
    "animate",
    "apply_limits",
    "colourise",
    "concept_colours",
    "draw_boxes",
    "draw_concepts",
    "draw_maps",
    "find_limits",
    "grid",
    "montage",
    "overlay",
    "png_bytes",
    "write_limits",
]
