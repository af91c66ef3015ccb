"""What an explanation shows of itself in a notebook: the viewer, which survives being saved."""

from __future__ import annotations

from torchsaliency.core.explanation import Explanation
from torchsaliency.pages.viewer import viewer_html
from torchsaliency.pages.views import view_inputs


def explanation_html(explanation: Explanation) -> str:
    """Return the images of an explanation under its maps as a fragment of HTML.

    A slider sets the opacity, the pointer reads values. The first eight images are shown, as the
    network saw them; where scripts do not run, the map is the brightness of the image.

    Args:
        explanation: of a batch.

    Example:
        >>> html = explanation_html(explanations["gradcam"])  # doctest: +SKIP
    """
    label = explanation.label or explanation.method.name
    return viewer_html(view_inputs({label: explanation}))
