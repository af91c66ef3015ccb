"""Pages that show maps: the viewer, the report in one file, and the app."""

from torchsaliency.pages.viewer import viewer_assets, viewer_html
from torchsaliency.pages.views import (
    BoxView,
    MapView,
    PhotoView,
    view_inputs,
    view_photo,
    view_volume,
)

__all__ = [
    "BoxView",
    "MapView",
    "PhotoView",
    "view_inputs",
    "view_photo",
    "view_volume",
    "viewer_assets",
    "viewer_html",
]
