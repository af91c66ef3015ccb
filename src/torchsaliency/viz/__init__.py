"""Pictures of saliency maps: overlays, labelled grids, and what a notebook shows."""

from __future__ import annotations

from torchsaliency.viz.grid import Panel, Row, grid
from torchsaliency.viz.notebook import png_bytes
from torchsaliency.viz.overlay import colourise, draw_boxes, overlay
from torchsaliency.viz.volumes import animate, montage

__all__ = [
    "Panel",
    "Row",
    "animate",
    "colourise",
    "draw_boxes",
    "grid",
    "montage",
    "overlay",
    "png_bytes",
]
