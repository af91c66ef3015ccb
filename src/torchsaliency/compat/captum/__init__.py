"""captum's names and calls: `from torchsaliency.compat.captum.attr import IntegratedGradients`.

What changes, and what is corrected, is in docs/from-captum.md.
"""

import importlib
from types import ModuleType

__all__ = ["attr", "metrics"]


def __getattr__(name: str) -> ModuleType:
    """Import a module when it is asked for.

    Raises:
        AttributeError: there is none of this name.
    """
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
