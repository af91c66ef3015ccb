"""What can be chosen: methods and networks, as JSON-able rows."""

from __future__ import annotations

import inspect
import re
from typing import Any

from torchsaliency.core.method import MethodEntry, Needs, methods
from torchsaliency.zoo import DEFAULT_MODEL, models

_SOURCE = re.compile(r"Source: (.+?)\.(?:\s|$)", re.DOTALL)


def method_rows() -> list[dict[str, Any]]:
    """Describe every method."""
    return [_method_row(entry) for entry in methods().values()]


def metric_rows() -> list[dict[str, Any]]:
    """Describe every metric."""
    from torchsaliency.metrics import metrics  # noqa: PLC0415 (takes seconds)

    return [entry.to_dict() for entry in metrics().values()]


def model_rows(text: str) -> list[dict[str, Any]]:
    """Describe the networks whose name contains a text, in any case."""
    return [
        {
            "name": model.name,
            "source": model.source,
            "family": model.family,
            "default": model.name == DEFAULT_MODEL,
        }
        for model in models()
        if text.casefold() in model.name.casefold()
    ]


def _method_row(entry: MethodEntry) -> dict[str, Any]:
    source = _SOURCE.search(inspect.cleandoc(entry.factory.__doc__ or ""))
    return {
        "name": entry.name,
        "family": entry.family,
        "summary": entry.summary,
        "paper": " ".join(source.group(1).split()) if source else entry.cite,
        "cite": entry.cite,
        "label_free": Needs.TARGET not in entry.needs,
        "gradients": Needs.GRADIENTS in entry.needs,
        "passes": Needs.PASSES in entry.needs,
        "options": {key: _plain(value) for key, value in entry.options.items()},
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)
