"""Methods and networks of a run: their progress, and their failures in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from torchsaliency.core.maps import Normalisation
from torchsaliency.core.method import Method, Saliency
from torchsaliency.core.trace import View
from torchsaliency.errors import (
    InputError,
    TorchSaliencyError,
    describe_error,
    out_of_memory,
)


@contextmanager
def name_network_errors(name: str) -> Iterator[None]:
    """Turn whatever a network raises while it runs into an `InputError` of one sentence."""
    try:
        yield
    except TorchSaliencyError:
        raise
    except Exception as error:  # any module may raise anything
        if out_of_memory(error):
            raise InputError(
                f"The memory does not suffice to run {name} ({describe_error(error)}); give a "
                "smaller --chunk or --batch-size."
            ) from error
        raise InputError(
            f"{name} failed while it was explained ({type(error).__name__}: "
            f"{describe_error(error)}); check that its input size, --precision and --device suit "
            "it."
        ) from error


@final
@dataclass(frozen=True, eq=False)
class MonitoredMethod(Method):
    """A method that reports when it is done, and whose failure does not end the others."""

    method: Method
    done: Callable[[], None]  # called after each call of the method, for the progress bar
    tolerant: bool  # whether a failure is remembered, and the map zeros, or raised
    failures: list[str] = field(default_factory=list)  # at most one a layer

    def __post_init__(self) -> None:
        # it stands for its method in all that `explain` reads: needs, name, treatment of layers
        object.__setattr__(self, "entry", self.method.entry)
        object.__setattr__(self, "joint", self.method.joint)

    @property
    def normalisation(self) -> Normalisation:
        """The method's."""
        return self.method.scaling

    def saliency(self, view: View) -> Tensor | Saliency:
        """Return the method's map, or zeros if it failed and may."""
        try:
            return self.method.saliency(view)
        except Exception as error:  # one method's failure must not cost the others' maps
            if not self.tolerant:
                raise
            kind = "" if isinstance(error, TorchSaliencyError) else f"{type(error).__name__}: "
            self.failures.append(f"{kind}{describe_error(error)}")
            return view.images.new_zeros((len(view.images), 1, 1))
        finally:
            self.done()
