"""Pictures of saliency maps: overlays, labelled grids, and what a notebook shows."""

from __future__ import annotations

from torchsaliency.viz.grid import Panel, Row, grid
from torchsaliency.viz.notebook import png_bytes
from torchsaliency.viz.overlay import colourise, draw_boxes, overlay

__all__ = ["Panel", "Row", "colourise", "draw_boxes", "grid", "overlay", "png_bytes"]
