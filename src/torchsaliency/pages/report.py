"""The report of photographs: one HTML file with their maps that loads nothing."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from markupsafe import Markup

from torchsaliency.pages.viewer import read_asset, render, viewer_html
from torchsaliency.pages.views import PhotoView


@final
@dataclass(frozen=True)
class About:
    """What a report says besides: where its numbers come from, and what failed.

    Attributes:
        facts: lines of provenance, by heading.
        failures: what could not be used, and why.
        notes: further sentences.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def photos_report(
    views: Sequence[PhotoView],
    about: About,
    *,
    title: str = "Saliency maps",
    colormap: str | None = None,
) -> str:
    """Return photographs with their maps as one HTML file.

    Args:
        views: of each photograph, see `view_photo`.
        about: provenance and failures.
        title: of the page.
        colormap: of maps without signs.

    Example:
        >>> html = photos_report([view_photo(path, found, model=net)], About())  # doctest: +SKIP
    """
    viewer = viewer_html(views, colormap=colormap, assets=False) if views else ""
    return render_page("photos.html.jinja", title, about, viewer=viewer, count=len(views))


def render_page(
    name: str, title: str, about: About | None = None, /, package: str = __package__, **values: Any
) -> str:
    """Return a template that extends `page.html.jinja` with its values.

    Args:
        name: of the template.
        title: of the page.
        about: provenance and failures.
        package: where the template lies.
        values: of the template.
    """
    return render(
        name,
        package,
        title=title,
        about=about or About(),
        made=datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(read_asset("viewer.css") + read_asset("page.css")),
        viewer_script=Markup(read_asset("viewer.js")),
        script=Markup(read_asset("page.js")),
        **values,
    )
