"""Maps that another program made, as a method: they are looked up, not computed."""

from __future__ import annotations

import hashlib
from dataclasses import InitVar, dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from torchsaliency.core.explanation import ExplainingMethod
from torchsaliency.core.method import Method, MethodEntry, Needs
from torchsaliency.core.space import describe_size
from torchsaliency.core.trace import View
from torchsaliency.errors import InputError


@final
@dataclass(frozen=True, eq=False)
class GivenMaps(Method):
    """Maps that another program made, one an image, in the order of the images.

    `explain` brings them to [0, 1] like any method's, (S - min S) / (max S - min S), so that all
    metrics take them but those that explain images again.

    Attributes:
        maps: (N, *size), an array or a tensor, at the size of the network's input.
        digest: of the maps, for manifests.

    Raises:
        InputError: they are no maps, or hold NaN or infinite values.

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> found = torchsaliency.explain(net, x, {"mine": GivenMaps(maps)})
        >>> list(torchsaliency.evaluation.score(net, found["mine"], ["ad", "ag"]))
        ['ad', 'ag']
    """

    maps: InitVar[Any]
    digest: str = field(init=False)

    def __post_init__(self, maps: Any) -> None:
        """Check the maps."""
        values = maps.detach().cpu() if isinstance(maps, Tensor) else torch.from_numpy(_array(maps))
        values = values.float()
        if values.ndim < 2 or 0 in values.shape[1:]:  # noqa: PLR2004
            raise InputError(
                f"Maps of {tuple(values.shape)} were given; give one map an image, (N, H, W)."
            )
        if not bool(values.isfinite().all()):
            raise InputError(
                "The given maps hold NaN or infinite values; give finite numbers, larger for more "
                "salient."
            )
        text = values.contiguous().numpy()
        found = hashlib.blake2b(repr(text.shape).encode() + text.tobytes(), digest_size=16)
        object.__setattr__(self, "_maps", values)  # frozen, and set once
        object.__setattr__(self, "digest", found.hexdigest())

    def saliency(self, view: View) -> Tensor:
        """Return the maps.

        Raises:
            InputError: they are not as many as the images, or of another size.
        """
        maps: Tensor = self._maps  # type: ignore[attr-defined]
        if tuple(maps.shape) != (len(view.images), *view.size):
            raise InputError(
                f"{len(maps)} maps of {describe_size(tuple(maps.shape[1:]))} were given for "
                f"{len(view.images)} images of {describe_size(view.size)}; give one map an image, "
                "at the size of the network's input."
            )
        return maps.to(view.images.device)


GIVEN = MethodEntry("given", GivenMaps, "given", "", Needs.NOTHING)
"""No entry of the registry: without maps it is no method."""

GivenMaps.entry = GIVEN


def require_repeatable(method: ExplainingMethod) -> None:
    """Check that a method can explain further images.

    Raises:
        InputError: its maps were made elsewhere.
    """
    if method.entry.factory is GivenMaps:
        raise InputError(
            "The maps were made by another program, which cannot be asked to explain further "
            "images; choose a metric that only reads maps or masks images."
        )


def _array(maps: Any) -> Any:
    try:
        return np.array(maps, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"A {type(maps).__name__} was given as maps; give an array or tensor (N, H, W) of "
            "numbers."
        ) from error
