"""The engine that measures which of the others is the fastest within a stated error."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration.engine import ENGINES, Engine, register_engine
from torchsaliency.core.freeze import Hold
from torchsaliency.core.runtime import seconds_now, without_warnings
from torchsaliency.errors import OptionError, out_of_memory

_CANDIDATES = ("channels-last", "onnx", "bf16")
"""The engines that are tried: compilation takes longer than a calibration may."""

_LIMIT = 0.01
"""How far off an output may be, of the extent of an image's outputs."""

_TIMED = 2
"""Passes by which each is timed, in turns; the fastest counts."""


@final
@dataclass(frozen=True)
class Calibration:
    """What an engine took and changed on the first images.

    Attributes:
        engine: its name.
        seconds: of the fastest pass.
        error: the largest difference of a number from the network's own, relative to the extent
            (largest minus smallest) of its image's numbers.
    """

    engine: str
    seconds: float
    error: float


@register_engine("fast")
@final
class Fast(Engine):
    """The fastest of "off", "channels-last", "onnx", "bf16" whose outputs are off by 1 % at most.

    Measured on the first images, once a network and size of image: each engine's seconds, and the
    largest difference of its outputs from the network's own, relative to the extent of an image's
    outputs. The log "torchsaliency.fast" says what was picked and its error, at the level INFO, and
    the command line tells it. The calibration includes the export if ONNX Runtime is installed.
    Passes with gradients, and traced ones, run as "auto" does.

    Attributes:
        chosen: what was picked; None for the network itself.
        calibrations: of all engines that ran, the network itself first.
    """

    with_graph = "auto"
    exact = False

    chosen: Engine | None = None
    calibrations: tuple[Calibration, ...] = ()

    def run_copy(self, images: Tensor) -> Any:
        """Run what was picked."""
        assert self.chosen is not None
        return self.chosen.run_copy(images)

    def is_current(self, net: nn.Module, hold: Hold | None, images: Tensor) -> bool:
        """Whether the network still is what was measured."""
        if self.chosen is not None:
            return self.chosen.is_current(net, hold, images)
        return super().is_current(net, hold, images)

    def __call__(self, net: nn.Module, images: Tensor) -> Any:
        """Run what was picked; on the first pass, measure."""
        if self.faithful is not None:
            return super().__call__(net, images)
        own = self.run_network(net, images)
        engines = self._make_engines(net, images) if isinstance(own, Tensor) else []
        self.calibrations = self._measure(net, images, own, engines) if engines else ()
        best = min(
            (found for found in self.calibrations if found.error <= _LIMIT),
            key=lambda found: found.seconds,
            default=None,
        )
        self.chosen = next((e for e in engines if best and e.name == best.engine), None)
        self.faithful = self.chosen is not None
        self.drop()  # the picked engine has a copy of its own
        logging.getLogger("torchsaliency.fast").info(
            "accelerate='fast' runs %s by %s, with an error of %.2g (%s).",
            type(net).__name__,
            best.engine if best else "off",
            best.error if best else 0.0,
            ", ".join(f"{c.engine}: {c.seconds:.3g} s, {c.error:.2g}" for c in self.calibrations),
        )
        return own

    def _make_engines(self, net: nn.Module, images: Tensor) -> list[Engine]:
        """Return the engines that can run the network here, each warmed up by its first pass."""
        made = []
        for name in _CANDIDATES:
            kind: type[Engine] = ENGINES.get(name).factory
            try:
                kind.require_packages()
                kind.require_device(images.device)
            except OptionError:
                continue
            engine = kind(self.call, net, self.batch)
            try:
                with without_warnings():  # that it makes no use of its copy
                    engine(net, images)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                continue
            if engine.faithful:
                made.append(engine)
        return made

    def _measure(
        self, net: nn.Module, images: Tensor, own: Tensor, engines: list[Engine]
    ) -> tuple[Calibration, ...]:
        rows = own.detach().double().flatten(1) if own.ndim > 1 else own.detach().double()[:, None]
        least: dict[str, float] = {}
        errors = {"off": 0.0}
        for _ in range(_TIMED):
            for engine in (None, *engines):
                begun = seconds_now(images.device)
                output = self.call(net, images) if engine is None else engine.run_copy(images)
                name, took = (
                    "off" if engine is None else engine.name,
                    seconds_now(images.device) - begun,
                )
                least[name] = min(took, least.get(name, took))
                if engine is not None:
                    errors[name] = _compare(output.detach().double().view_as(rows), rows)
        return tuple(Calibration(name, least[name], errors[name]) for name in least)


def _compare(output: Tensor, rows: Tensor) -> float:
    """Return the largest difference relative to the extent of a row's finite numbers.

    Infinity where one of two numbers is NaN or infinite, and the other one is not the same.
    """
    finite = rows.isfinite()
    high = torch.where(finite, rows, -torch.inf).amax(1)
    low = torch.where(finite, rows, torch.inf).amin(1)
    extent = torch.maximum(high - low, torch.maximum(high.abs(), low.abs()) * 1e-3)
    same = (output == rows) | (output.isnan() & rows.isnan())
    off = torch.where(
        finite & output.isfinite(), (output - rows).abs() / extent[:, None], torch.inf
    )
    return float(torch.where(same, 0.0, off).amax())
