"""Pictures of saliency maps: overlays, labelled grids, and what a notebook shows."""

from __future__ import annotations

from torchsaliency.viz.grid import Panel, Row, grid
from torchsaliency.viz.notebook import png_bytes
from torchsaliency.viz.overlay import colourise, overlay

__all__ = ["Panel", "Row", "colourise", "grid", "overlay", "png_bytes"]
