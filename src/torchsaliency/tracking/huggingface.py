"""A callback of Hugging Face's Trainer that keeps maps of fixed images after every evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from torchsaliency.tracking.trackers import PictureFolder
from torchsaliency.tracking.training import FixedImages, PictureLog


@final
class SaliencyCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
    """Keeps maps of fixed images after every evaluation of a `transformers.Trainer`.

    Args:
        fixed: the images (`pixel_values`) and what explains them.
        log: a `torchsaliency.tracking.Tracker` that is open; by default PNG files in the folder
            `saliency` of the trainer's `output_dir`.

    Example:
        >>> fixed = FixedImages(pixel_values, ["gradcam"], labels)  # doctest: +SKIP
        >>> Trainer(…, callbacks=[SaliencyCallback(fixed)])  # doctest: +SKIP
    """

    def __init__(self, fixed: FixedImages, log: PictureLog | None = None) -> None:
        self.fixed, self.log = fixed, log

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 (given by name)
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Draw the maps, by one process only."""
        if model is None or not state.is_world_process_zero:
            return
        log = self.log or PictureFolder(Path(str(args.output_dir)) / "saliency")
        self.fixed.draw(model, log, state.global_step)
