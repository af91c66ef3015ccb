"""What a row of the scoreboard is: its sides on a network, its goal, and where it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.comparisons import Side
from benchmarks.networks import Bench

BUILT_IN = "builtin/efficientnet_lite0"
LARGE = ("resnet50", "vit_b_16")
"""With random weights: for seconds of what takes as many passes on any weights."""

Outputs = dict[str, Any]
"""What the sides returned last, by name."""


@dataclass(frozen=True)
class Goal:
    """What a row has to reach.

    Attributes:
        kind: `speed`, the peer's seconds over ours, at least; `cost`, our exact seconds over the
            peer's, at most; `passes`, of the fast side, at most.
        bound: the number.
        limit: what stands in the way, for where it is not met.
    """

    kind: Literal["speed", "cost", "passes"]
    bound: float
    limit: str = ""


@dataclass(frozen=True)
class Contest:
    """The sides of one row on one network.

    Attributes:
        exact: ours, as published.
        fast: ours with fewer or cheaper passes, any number of ways.
        peer: another library, or a plain loop.
        error: how far the second output is off from the first.
        reference: makes what errors are measured from; the exact output by default.
        passes: what the goal's `passes` are, of the outputs; by default those that were counted.
    """

    exact: Side
    fast: Sequence[Side] = ()
    peer: Side | None = None
    error: Callable[[Any, Any], float] | None = None
    reference: Callable[[], Any] | None = None
    passes: Callable[[Outputs], int | None] | None = None

    @property
    def sides(self) -> list[Side]:
        """All of them, the exact one first and the peer last."""
        return [self.exact, *self.fast, *([self.peer] if self.peer else [])]


@dataclass(frozen=True)
class Row:
    """A row of the scoreboard.

    Attributes:
        title: what is done.
        contest: makes the sides on a network.
        unit: of the error.
        goal: what has to be reached, if anything.
        large: whether the large networks with random weights are run, too.
    """

    title: str
    contest: Callable[[Bench], Contest]
    unit: str = ""
    goal: Goal | None = None
    large: bool = False

    @property
    def networks(self) -> tuple[str, ...]:
        """Where the row is measured."""
        return (BUILT_IN, *LARGE) if self.large else (BUILT_IN,)
