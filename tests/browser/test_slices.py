"""The slider through the slices of a volume, in a real browser."""

import numpy as np
import torch

from served_app import picture
from torchsaliency.pages import viewer_html
from torchsaliency.pages.slices import look_at_pixels
from torchsaliency.pages.views import MapView, PhotoView


def test_a_slider_goes_through_a_volume(open_page, tmp_path):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (12, 40, 32, 3), generator=draw, dtype=torch.uint8)
    (stack, (cut,)), *_ = look_at_pixels(pixels).stacks([torch.rand(12, 40, 32, generator=draw)])
    view = PhotoView("scan", stack.pictures[0], (MapView("gradcam", cut),), stack=stack)
    file = tmp_path / "scan.html"
    file.write_text(f"<!doctype html><body>{viewer_html([view])}")
    watched = open_page(file.as_uri())
    page = watched.page
    page.wait_for_selector(".ts-ready canvas")
    slider, places = page.locator(".ts-stack input"), page.locator(".ts-stack output")
    seen = []
    for place in ("0", "9"):
        slider.fill(place)
        assert places.inner_text() == f"{int(place) + 1} of 12"
        seen.append([picture(watched, f"{kind} .ts-stage") for kind in (".ts-given", ".ts-map")])
    assert all(np.abs(one - other).max() > 50 for one, other in zip(*seen, strict=True))
    slider.press("ArrowRight")
    assert places.inner_text() == "11 of 12"
    assert watched.errors == []
