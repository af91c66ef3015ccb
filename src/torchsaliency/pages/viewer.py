"""The viewer: photographs and their maps as one fragment of HTML that loads nothing.

A notebook, a report and the app show the same fragment. Its maps are coloured in the browser by
`viewer.js`. Where scripts do not run, a photograph is shown as bright as its map.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import torch
from markupsafe import Markup

from torchsaliency.errors import InputError
from torchsaliency.pages.pictures import (
    describe_map,
    encode_map,
    encode_photo,
    encode_stack,
    shrink_map,
)
from torchsaliency.pages.views import MapView, PhotoView, format_probability
from torchsaliency.viz.overlay import colourise

LEVELS, _STOPS = 256, 17
OPACITY = 0.6
"""The default opacity of overlays."""


def viewer_html(
    views: Sequence[PhotoView],
    *,
    alpha: float = OPACITY,
    colormap: str | None = None,
    assets: bool = True,
    key: str = "",
) -> str:
    """Return photographs and their maps as a fragment of HTML.

    It has a slider for the opacity, overlays, raw maps and masked photographs, scales of colours
    for each map or shared, and shows the value under the pointer. All names are escaped.

    Args:
        views: what is shown, see `view_photo` and `view_inputs`.
        alpha: the opacity that the slider begins with, in [0, 1].
        colormap: of maps without signs, any name of matplotlib.
        assets: whether the style and the script are in the fragment; a page with several fragments
            has them once, from `viewer_assets`.
        key: viewers that follow each other under one key keep the reader's settings.

    Returns:
        HTML that can stand anywhere in a body.

    Raises:
        InputError: there is nothing to show, or the opacity is out of range.
        OptionError: there is no such colormap.

    Example:
        >>> from PIL import Image
        >>> shown = (MapView("gradcam", torch.zeros(7, 7)),)
        >>> html = viewer_html([PhotoView("cat", Image.new("RGB", (8, 8)), shown)])
        >>> "<saliency-viewer" in html
        True
    """
    if not views:
        raise InputError("There are no photographs to show; give at least one.")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}, an opacity lies in [0, 1]; {OPACITY} is the default.")
    several = any(len(view.maps) > 1 for view in views) or len(views) > 1
    return render(
        "viewer.html.jinja",
        views=[_encode_view(view) for view in views],
        alpha=alpha,
        key=key,
        several=several,
        plain=encode_colours(colormap, signed=False),
        diverging=encode_colours(None, signed=True),
        plain_stops=_gradient(colormap, signed=False),
        diverging_stops=_gradient(None, signed=True),
        assets=viewer_assets() if assets else "",
    )


@cache
def viewer_assets() -> Markup:
    """Return the style and the script of all viewers, for the head of a page.

    Example:
        >>> "<script" in viewer_assets()
        True
    """
    return Markup(
        f"<style>{read_asset('viewer.css')}</style>\n<script>{read_asset('viewer.js')}</script>"
    )


@cache
def read_asset(name: str, package: str = __package__) -> str:
    """Return a file of this room, or of another one."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def render(name: str, package: str = __package__, /, **values: Any) -> str:
    """Return a template of this room or of another one with its values, all of them escaped."""
    return _load_template(name, package).render(**values)


@cache
def _load_template(name: str, package: str) -> jinja2.Template:
    return _environment().from_string(read_asset(name, package))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = format_probability
    environment.filters["number"] = format_value
    environment.filters["json"] = lambda value: Markup(
        json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )
    return environment


def format_value(value: float) -> str:
    """Return a number of three significant digits, as short as it can be."""
    return f"{value:.3g}".replace("-", "−").replace("e+0", "e").replace("e−0", "e−")


def encode_colours(colormap: str | None, *, signed: bool) -> str:
    """Return the 256 colours of a colormap in base 64, three bytes each."""
    ramp = torch.linspace(-1 if signed else 0, 1, LEVELS)[None]
    return base64.b64encode(colourise(ramp, colormap, signed=signed).tobytes()).decode()


def _gradient(colormap: str | None, *, signed: bool) -> str:
    ramp = torch.linspace(-1 if signed else 0, 1, _STOPS)[None]
    colours = colourise(ramp, colormap, signed=signed)[0].tolist()
    return ",".join(f"rgb({red} {green} {blue})" for red, green, blue in colours)


def _encode_view(view: PhotoView) -> dict[str, Any]:
    stack = view.stack
    return {
        "view": view,
        "photo": encode_photo(view.photo) if stack is None else encode_stack(stack.pictures),
        "size": view.photo.size,
        "maps": [_encode_map(one, view) for one in view.maps],
    }


def _encode_map(one: MapView, view: PhotoView) -> dict[str, Any]:
    values = shrink_map(one.values)
    about = f" for {one.about}" if one.about else ""
    words, where = values, ""
    if view.stack is not None:  # the slice of its maximum is described
        peak = int(values.abs().flatten(1).amax(1).argmax())
        place, words = view.stack.places[peak], values[peak]
        where = f"In {view.stack.name} {place + 1} of {view.stack.total}: "
    described = describe_map(words, signed=one.signed)
    return {
        "map": one,
        "uri": encode_map(values, signed=one.signed),
        "alt": f"{one.title} of {view.title}{about}. {where}{described}",
    }
