"""One interface for MLflow, W&B and TensorBoard: numbers, pictures, tables and facts of a run.

Each is imported where a run of it is opened. A run that is open already is used, and left open.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from PIL import Image

from torchsaliency.core.files import file_name
from torchsaliency.errors import OptionError, describe_error, require_extra
from torchsaliency.registry import Entry, Registry
from torchsaliency.viz.overlay import png

if TYPE_CHECKING:
    import pandas as pd


class Tracker(abc.ABC):
    """A run in which results are kept."""

    @abc.abstractmethod
    def open(self, name: str, facts: Mapping[str, Any], folder: Path) -> None:
        """Begin a run, or use the one that is open.

        Args:
            name: of the run.
            facts: how it was made, JSON-able.
            folder: where the command writes; for trackers that keep files.
        """

    @abc.abstractmethod
    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers by name; names are paths such as ad/gradcam, NaN is left out."""

    @abc.abstractmethod
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Keep a picture."""

    @abc.abstractmethod
    def log_table(self, name: str, frame: pd.DataFrame, text: str) -> None:
        """Keep a table; `text` is the same in Markdown, for trackers without tables."""

    @abc.abstractmethod
    def close(self, *, failed: bool = False) -> None:
        """End the run that `open` began."""


TRACKERS: Registry[Entry] = Registry("tracker", "torchsaliency.trackers", base=Tracker)


def create_tracker(name: str) -> Tracker:
    """Return the tracker of a name, "mlflow", "wandb" or "tensorboard".

    Raises:
        OptionError: there is none.
        MissingPackageError: its package is not installed.

    Example:
        >>> type(create_tracker("tensorboard")).__name__
        'TensorBoard'
    """
    found: Tracker = TRACKERS.create(name)
    return found


@final
class MLflow(Tracker):
    """MLflow: where MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say, or mlflow's own defaults.

    Args:
        run_id: of a run that exists; the active run, or a new one, by default.
        client: an `MlflowClient`, of the current tracking address by default.
    """

    def __init__(self, run_id: str = "", client: Any = None) -> None:
        require_extra("mlflow", "mlflow")
        import mlflow  # noqa: PLC0415 (an extra)

        self._mlflow, self._run_id = mlflow, run_id
        try:
            self._client = client or mlflow.MlflowClient()
        except Exception as error:  # mlflow has many; some are of packages that it lacks
            raise OptionError(
                f"MLflow cannot keep results at {mlflow.get_tracking_uri()} "
                f"({describe_error(error)}); set MLFLOW_TRACKING_URI to a server, or run pip "
                "install mlflow for its data base."
            ) from error
        self._began = False

    def open(self, name: str, facts: Mapping[str, Any], folder: Path) -> None:  # noqa: ARG002
        """Begin a run, or use the active one; facts become the file facts.json."""
        if not self._run_id:
            active = self._mlflow.active_run()
            self._began = active is None
            active = active or self._mlflow.start_run(run_name=name)
            self._run_id = active.info.run_id
        self._client.log_dict(self._run_id, dict(facts), "facts.json")

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers as metrics; a + of a name becomes a p, which MLflow does not take."""
        for name, value in values.items():
            if not math.isnan(value):
                self._client.log_metric(self._run_id, _plain(name), value, step=step)

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Keep a picture as a file, NAME-STEP.png."""
        file = f"{'/'.join(map(file_name, name.split('/')))}-{step}.png"
        self._client.log_image(self._run_id, picture, artifact_file=file)

    def log_table(self, name: str, frame: pd.DataFrame, text: str) -> None:  # noqa: ARG002
        """Keep a table as NAME.json."""
        self._client.log_table(self._run_id, _objects(frame), f"{name}.json")

    def close(self, *, failed: bool = False) -> None:
        """End the run if `open` began it."""
        if self._began:
            self._mlflow.end_run("FAILED" if failed else "FINISHED")


@final
class WandB(Tracker):
    """Weights & Biases: where `wandb login` and WANDB_MODE, WANDB_PROJECT, … say.

    Args:
        run: one that is open; the active run, or a new one, by default.
    """

    def __init__(self, run: Any = None) -> None:
        require_extra("wandb", "wandb")
        import wandb  # noqa: PLC0415 (an extra)

        self._wandb, self._began = wandb, False
        self._run: Any = run or wandb.run

    def open(self, name: str, facts: Mapping[str, Any], folder: Path) -> None:  # noqa: ARG002
        """Begin a run, or use the active one; facts become its configuration."""
        if self._run is None:
            self._run, self._began = self._wandb.init(name=name, config=dict(facts)), True
        else:
            self._run.config.update(dict(facts), allow_val_change=True)

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers; the step is one of them, as W&B's own only rises."""
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        self._run.log({**known, "saliency/step": step})

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Keep a picture."""
        self._run.log({name: self._wandb.Image(picture), "saliency/step": step})

    def log_table(self, name: str, frame: pd.DataFrame, text: str) -> None:  # noqa: ARG002
        """Keep a table."""
        self._run.log({name: self._wandb.Table(dataframe=_objects(frame))})

    def close(self, *, failed: bool = False) -> None:
        """End the run if `open` began it."""
        if self._began:
            self._run.finish(exit_code=int(failed))


@final
class TensorBoard(Tracker):
    """TensorBoard: event files in the folder `tensorboard` of what the command writes.

    Args:
        writer: a `SummaryWriter` that is open already; it stays open.
    """

    def __init__(self, writer: Any = None) -> None:
        require_extra("tensorboard", "tensorboard")
        self._writer, self._began = writer, writer is None

    def open(self, name: str, facts: Mapping[str, Any], folder: Path) -> None:
        """Begin the event file; facts become a text."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an extra)

        if self._writer is None:
            self._writer = SummaryWriter(str(folder / "tensorboard"))
        lines = [f"| {key} | {value} |" for key, value in facts.items()]
        self._writer.add_text(name, "\n".join(["| | |", "| --- | --- |", *lines]))

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers."""
        for name, value in values.items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, step)

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Keep a picture."""
        self._writer.add_image(name, np.array(picture.convert("RGB")), step, dataformats="HWC")

    def log_table(self, name: str, frame: pd.DataFrame, text: str) -> None:  # noqa: ARG002
        """Keep a table as text."""
        self._writer.add_text(name, text)

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002
        """Write what is waiting; close the file if `open` began it."""
        if self._writer is not None:
            self._writer.flush()
            if self._began:
                self._writer.close()


TRACKERS.register(Entry("mlflow", MLflow))
TRACKERS.register(Entry("wandb", WandB))
TRACKERS.register(Entry("tensorboard", TensorBoard))


@final
class PictureFolder:
    """Pictures as files NAME-STEP.png, where there is no tracker.

    Args:
        folder: where they are written.

    Example:
        >>> PictureFolder("maps").log_picture("cat", Image.new("RGB", (8, 8)), step=3)
        >>> [path.name for path in Path("maps").iterdir()]
        ['cat-3.png']
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Write a picture."""
        path = self.folder / f"{name}-{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture))


def _plain(name: str) -> str:
    """Return a name with the characters that MLflow takes: "gradcam++" is "gradcampp"."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("+", "p"))


def _objects(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of plain numbers and words, nothing where a cell is empty."""
    return frame.astype(object).where(frame.notna(), None)
