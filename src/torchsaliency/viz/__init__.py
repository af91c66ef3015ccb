"""Pictures of saliency maps: overlays, labelled grids, and what a notebook shows."""

from __future__ import annotations

from torchsaliency.viz.concepts import add_legend, concept_colours, draw_concepts
from torchsaliency.viz.grid import Panel, Row, grid
from torchsaliency.viz.notebook import png_bytes
from torchsaliency.viz.overlay import colourise, draw_boxes, overlay
from torchsaliency.viz.volumes import animate, montage

__all__ = [
    "Panel",
    "Row",
    "add_legend",
    "animate",
    "colourise",
    "concept_colours",
    "draw_boxes",
    "draw_concepts",
    "grid",
    "montage",
    "overlay",
    "png_bytes",
]
