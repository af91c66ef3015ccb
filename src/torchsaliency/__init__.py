"""torchsaliency: what is this vision network looking at?

Opti-CAM, Tucker saliency maps and their rivals on PyTorch. In one line:

    torchsaliency.explain(model, x, ["opticam", "mtsm"])["opticam"].map
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torchsaliency.registry import register_loader, register_moved

if TYPE_CHECKING:
    from torchsaliency import concepts as concepts
    from torchsaliency import core as core
    from torchsaliency import data as data
    from torchsaliency import evaluation as evaluation
    from torchsaliency import measures as measures
    from torchsaliency import methods as methods
    from torchsaliency import metrics as metrics
    from torchsaliency import pages as pages
    from torchsaliency import papers as papers
    from torchsaliency import report as report
    from torchsaliency import tracking as tracking
    from torchsaliency import training as training
    from torchsaliency import viz as viz
    from torchsaliency import zoo as zoo
    from torchsaliency._public import *  # noqa: F403

_PACKAGES = (
    "concepts",
    "core",
    "data",
    "evaluation",
    "measures",
    "methods",
    "metrics",
    "pages",
    "papers",
    "report",
    "tracking",
    "training",
    "viz",
    "zoo",
)

register_loader(lambda: importlib.import_module("torchsaliency._public"))
register_moved(
    "torchsaliency.evaluation",
    dict.fromkeys(
        ("Column", "FORMATS", "Table", "comparison", "render", "table"), "torchsaliency.report"
    ),
)
register_moved("torchsaliency.methods.attention", {"TIBAV": "torchsaliency.methods.propagation"})
register_moved(
    "torchsaliency.methods.attribution",
    dict.fromkeys(
        ("LRP", "DeconvNet", "DeepLIFT", "DeepSHAP", "GuidedBackprop"),
        "torchsaliency.methods.propagation",
    ),
)


def __getattr__(name: str) -> Any:
    """Import torch and all else at the first use, so that the command line answers at once."""
    if name in _PACKAGES:
        return importlib.import_module(f"torchsaliency.{name}")
    if name == "__all__" or not name.startswith("__"):
        public = importlib.import_module("torchsaliency._public")
        if name in ("__all__", *public.__all__):
            return getattr(public, name)
    raise AttributeError(f"module 'torchsaliency' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what there is, for completion."""
    public = importlib.import_module("torchsaliency._public")
    return sorted([*globals(), *public.__all__, *_PACKAGES])
