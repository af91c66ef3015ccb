"""A method among others of a shared pass: it tells when it is done, and may fail alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from torchsaliency.core.maps import Normalisation
from torchsaliency.core.method import Method, Saliency
from torchsaliency.core.trace import View
from torchsaliency.errors import TorchSaliencyError, describe_error


@final
@dataclass(frozen=True, eq=False)
class Guarded(Method):
    """Runs a method, tells when it is done, and remembers why it failed.

    Attributes:
        method: the method.
        done: called after each call of the method, for the progress bar.
        tolerant: whether a failure is remembered, and the map zeros, or raised.
        failures: the reasons, at most one a layer.
    """

    method: Method
    done: Callable[[], None]
    tolerant: bool
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # it stands for its method in all that `explain` asks: needs, name and treatment of layers
        object.__setattr__(self, "entry", self.method.entry)
        object.__setattr__(self, "joint", self.method.joint)

    @property
    def normalisation(self) -> Normalisation:
        """The method's own."""
        return self.method.scaling

    def saliency(self, view: View) -> Tensor | Saliency:
        """Return the method's map, or zeros if it failed and may."""
        try:
            return self.method.saliency(view)
        except Exception as error:  # one method's mishap must not cost the others' maps
            if not self.tolerant:
                raise
            kind = "" if isinstance(error, TorchSaliencyError) else f"{type(error).__name__}: "
            self.failures.append(f"{kind}{describe_error(error)}")
            return view.images.new_zeros((len(view.images), 1, 1))
        finally:
            self.done()
