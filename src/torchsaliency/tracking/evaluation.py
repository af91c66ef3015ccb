"""An evaluation in a tracker: its progress, a few pictures, every number with its interval."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from torchsaliency.errors import OptionError, TorchSaliencyError, describe_error
from torchsaliency.evaluation.callbacks import ExplainedImage, Progress
from torchsaliency.evaluation.plan import Plan
from torchsaliency.evaluation.results import Results
from torchsaliency.report import render, table
from torchsaliency.tracking.trackers import Tracker, create_tracker
from torchsaliency.viz import draw_maps


@final
class EvaluationLog:
    """A callback of `torchsaliency.evaluation.evaluate` that keeps what happens in a tracker.

    Scalars METRIC/METHOD, METRIC/METHOD_low and METRIC/METHOD_high (the 95 % interval) and
    METRIC/METHOD_images; the table of all of them; pictures of the first images under all maps.

    Args:
        tracker: a name, see `create_tracker`, or a `Tracker`.
        samples: of how many images a picture is kept.

    Raises:
        OptionError: there is no such tracker, or its package is not installed; also while the
            evaluation runs, which ends with it, if the tracker fails.

    Example:
        >>> from torchsaliency.evaluation import evaluate, make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:2"}
        >>> plan = make_plan({**facts, "methods": ["gradcam"], "metrics": ["ad"]})
        >>> found = evaluate(plan, "run", callbacks=[EvaluationLog("tensorboard")])
    """

    def __init__(self, tracker: str | Tracker, samples: int = 8) -> None:
        self.tracker = create_tracker(tracker) if isinstance(tracker, str) else tracker
        self.samples = samples
        self._opened, self._begun, self._done = False, 0.0, 0

    def begin(self, plan: Plan, folder: Path | str) -> None:
        """Open the run, with the plan as its facts."""
        facts = {**plan.model_dump(mode="json"), "folder": str(folder)}
        with self._errors():
            # beside the rows; where these are at an address, in a folder of its last name here
            place = folder if isinstance(folder, Path) else Path(folder.rpartition("/")[2])
            self.tracker.open(place.name, facts, place)
        self._opened, self._begun = True, time.monotonic()

    def advance(self, progress: Progress) -> None:
        """Keep how many images are done, and how many a second."""
        self._done = progress.before + progress.done
        seconds = time.monotonic() - self._begun
        speed = progress.done / seconds if progress.done and seconds else math.nan
        values = {"progress/images": float(self._done), "progress/images_a_second": speed}
        with self._errors():
            self.tracker.log_scalars(values, self._done)

    def show(self, explained: ExplainedImage) -> None:
        """Keep a picture of the image under all maps."""
        picture = draw_maps(explained.image, explained.maps, mean=explained.mean, std=explained.std)
        with self._errors():
            self.tracker.log_picture(f"maps/{explained.name}", picture, self._done)

    def finish(self, results: Results | None) -> None:
        """Keep the numbers and the table, and close the run."""
        if not self._opened:
            return
        with self._errors():
            if results is not None:
                for metric in results.metrics:
                    for method in results.methods:
                        self.tracker.log_scalars(_scalars(results, method, metric), self._done)
                made = table(results)
                self.tracker.log_table("results", made.frame, render(made, "markdown"))
            self.tracker.close(failed=results is None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in one sentence what a tracker raises, such as of a server that is not reached."""
        try:
            yield
        except TorchSaliencyError:
            raise
        except Exception as error:  # each tracker has its own
            raise OptionError(
                f"{type(self.tracker).__name__} did not keep the results "
                f"({describe_error(error)}); "
                "check its server and key, or leave it out: the same command goes on with what is "
                "evaluated."
            ) from error


def _scalars(results: Results, method: str, metric: str) -> dict[str, float]:
    summary, name = results.summary(method, metric), f"{metric}/{method}"
    found = {name: summary.value, f"{name}_low": summary.low, f"{name}_high": summary.high}
    numbers = {key: math.nan if value is None else value for key, value in found.items()}
    return {**numbers, f"{name}_images": float(summary.count)}
