"""What an engine of evaluations is, and the registry of them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar, final

from torchsaliency.errors import OptionError
from torchsaliency.evaluation.engines.share import find_share
from torchsaliency.evaluation.plan import ENGINE_OPTIONS, Plan
from torchsaliency.evaluation.setting import Setting
from torchsaliency.evaluation.store import Store
from torchsaliency.evaluation.work import Outcome, Recipe, Unit
from torchsaliency.registry import Entry, Registry


@final
@dataclass(frozen=True, eq=False)
class Job:
    """What an engine is given.

    Attributes:
        setting: networks and data, loaded in this process.
        recipe: from what another process makes the same setting.
        store: where the rows go; the session writes those of the outcomes that it is given.
    """

    setting: Setting
    recipe: Recipe
    store: Store


class RunEngine(ABC):
    """Computes the units of an evaluation.

    Its options are those of the plan with the same names. An engine of another package registers
    itself with `register_run_engine`, under the entry-point group `torchsaliency.run_engines`.
    """

    shares: ClassVar[bool] = False
    """Whether several sessions write to one store at once, each a part of the rows."""

    @abstractmethod
    def run(self, job: Job, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute all units, and yield their outcomes in any order.

        A unit may be yielded in several outcomes, which together have its images. What the caller
        does with an outcome is done before the next one is asked for. Closing the iterator ends the
        work.

        Raises:
            TorchSaliencyError: something that another image would not mend.
        """


EngineT = TypeVar("EngineT", bound=type[RunEngine])

RUN_ENGINES: Registry[Entry] = Registry("run engine", "torchsaliency.run_engines", base=RunEngine)
"""Engines of evaluations, by name."""


def register_run_engine(name: str) -> Callable[[EngineT], EngineT]:
    """Return a decorator that registers an engine under a name.

    Raises:
        OptionError: the name is taken, or an option has no default.

    Example:
        >>> @register_run_engine("mine")  # doctest: +SKIP
        ... class Mine(RunEngine):
        ...     ...
    """
    return RUN_ENGINES.decorate(lambda factory: Entry(name, factory))


def make_run_engine(plan: Plan) -> RunEngine:
    """Return the engine that a plan names, with the plan's options of it.

    Raises:
        OptionError: there is no such engine, or an option is given that it does not have.
    """
    name = plan.engine or choose_run_engine()
    entry = RUN_ENGINES.get(name)
    given = {key: value for key in ENGINE_OPTIONS if (value := getattr(plan, key)) is not None}
    for key in given.keys() - entry.options.keys():
        takers = [other for other, one in RUN_ENGINES.entries().items() if key in one.options]
        raise OptionError(
            f"{key}: {given[key]!r} was given, and the engine {name} has no such option; give "
            f"--engine {' or '.join(takers)}, or leave it out."
        )
    engine: RunEngine = entry.create(given)
    return engine


def tells_results(plan: Plan) -> bool:
    """Whether this process tells of an evaluation; of those that share its store, the first does.

    Raises:
        OptionError: there is no such engine, or the environment does not say which part it has.
    """
    return not make_run_engine(plan).shares or find_share().rank == 0


def choose_run_engine() -> str:
    """Return the engine of a process that names none: torchrun where torchrun started it."""
    return "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "local"
