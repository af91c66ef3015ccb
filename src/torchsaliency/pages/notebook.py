"""What an explanation shows of itself in a notebook: the viewer, which survives being saved."""

from __future__ import annotations

import base64
import io

from markupsafe import escape
from PIL import Image

from torchsaliency.api import draw_strip
from torchsaliency.core.explanation import Explanation
from torchsaliency.pages.viewer import viewer_html
from torchsaliency.pages.views import view_inputs

_QUALITY = 80


def explanation_html(explanation: Explanation) -> str:
    """Return the images of an explanation under its maps as a fragment of HTML.

    A slider sets the opacity, the pointer reads values. The first eight images are shown, as the
    network saw them. Where scripts do not run, the map is the brightness of the image; where styles
    are taken out, too, as GitHub and other readers of notebooks do, a plain picture remains.

    Args:
        explanation: of a batch.

    Example:
        >>> html = explanation_html(explanations["gradcam"])  # doctest: +SKIP
    """
    label = explanation.label or explanation.method.name
    return _draw_still(explanation, label) + viewer_html(view_inputs({label: explanation}))


def _draw_still(explanation: Explanation, label: str) -> str:
    """Return a picture that only a reader without styles sees; none of maps that are not finite."""
    if not bool(explanation.images.isfinite().all() and explanation.map.isfinite().all()):
        return ""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(draw_strip(explanation))).convert("RGB").save(
        buffer, "JPEG", quality=_QUALITY, optimize=True
    )
    address = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    picture = f'<img class="ts-still" alt="Maps of {escape(label)}" src="{address}">'
    return f"<style>.ts-still {{ display: none; }}</style>{picture}"
