"""A callback of Lightning that keeps maps of fixed images after every validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from torchsaliency.tracking.trackers import MLflow, PictureFolder, TensorBoard, WandB
from torchsaliency.tracking.training import FixedImages, PictureLog


@final
class SaliencyCallback(Callback):  # type: ignore[misc]  # lightning is not followed
    """Keeps maps of fixed images in the trainer's loggers, after every validation.

    TensorBoard's, W&B's and MLflow's loggers are written to; where there is none of them, PNG files
    in the folder `saliency` of the trainer's.

    Args:
        fixed: the images and what explains them.
        network: the name of the submodule that is explained, such as "net"; the module itself by
            default.

    Example:
        >>> fixed = FixedImages(images, ["gradcam"], labels)  # doctest: +SKIP
        >>> Trainer(callbacks=[SaliencyCallback(fixed)])  # doctest: +SKIP
    """

    def __init__(self, fixed: FixedImages, network: str = "") -> None:
        super().__init__()
        self.fixed, self.network = fixed, network

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the maps; not of the check before training, and by one process only."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        net = pl_module.get_submodule(self.network)
        self.fixed.draw(net, _Logs(_find_logs(trainer)), trainer.global_step)


@final
class _Logs:
    """Several logs as one."""

    def __init__(self, logs: list[PictureLog]) -> None:
        self.logs = logs

    def log_picture(self, name: str, picture: Any, step: int) -> None:
        """Keep a picture in all of them."""
        for log in self.logs:
            log.log_picture(name, picture, step)


def _find_logs(trainer: Trainer) -> list[PictureLog]:
    found: list[PictureLog] = []
    for logger in trainer.loggers:
        kind = type(logger).__name__
        if kind == "TensorBoardLogger":
            found.append(TensorBoard(logger.experiment))
        elif kind == "MLFlowLogger":
            found.append(MLflow(str(logger.run_id), client=logger.experiment))
        elif kind == "WandbLogger":
            found.append(WandB(logger.experiment))
    return found or [PictureFolder(Path(trainer.default_root_dir) / "saliency")]
