"""The engine of processes that share a store and nothing else: torchrun, srun and job arrays.

Process r of w owns every w-th batch, and asks nobody. When it has computed them, it takes over
batches of the others: first of those that are not there or died, then the later half of what
somebody has left. In the end it waits for what is in work elsewhere, and takes over what dies.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.engines.board import Board
from torchsaliency.evaluation.engines.engine import Job, RunEngine, register_run_engine
from torchsaliency.evaluation.engines.processes import ProcessesEngine
from torchsaliency.evaluation.engines.share import find_share
from torchsaliency.evaluation.work import Outcome, Unit, Worker

LOOK, COMMIT = 2.0, 20.0
"""Seconds between two looks at what others do, and after which rows are written at the latest."""

_SHORTEST, _MANY = 0.05, 64
"""Seconds of the first pause while there is nothing to do; processes that look half as often."""

WINDOW, PORTION = 1.0, 10.0
"""Seconds of work that a lease names at once, and that is taken over at once."""

DEADLY = 2
"""So many sessions may die while they compute a unit before it gets a process of its own."""


@final
@register_run_engine("torchrun")
@dataclass(frozen=True)
class TorchrunEngine(RunEngine):
    """In processes that torchrun, srun or a job array of SLURM started, and that share the store.

    They do not talk to each other. Any of them may die, or come late: the others do its part. A
    batch of which two have died is computed in a process of its own, and halved as
    `ProcessesEngine` does, until the image at fault is alone.
    """

    shares: ClassVar[bool] = True

    def run(self, job: Job, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute this process's part of the units, then what is left, until nothing is."""
        folder = f"batches-of-{job.setting.batch_size}"
        with Board(job.store.place.signals, folder, find_share()) as board:
            yield from _Part(job, units, board).run()


def find_shortest_pause(world: int) -> float:
    """Return the seconds of the first pause of a process that has nothing to do.

    Each look reads the leases of all others, so that many processes look seldom.
    """
    return _SHORTEST * max(1.0, (world / _MANY) ** 2)


@final
class _Part:
    """What one session does of the work that all have in common."""

    def __init__(self, job: Job, units: Sequence[Unit], board: Board) -> None:
        self.job, self.board = job, board
        self.worker = Worker(job.setting)
        self.names = [sample.id for sample in job.setting.data.samples]
        self.units: dict[int, list[Unit]] = defaultdict(list)  # by number
        for unit in units:
            self.units[unit.number].append(unit)
        self.left = set(self.units)
        self.total = sum(map(len, units))
        self.done = self.elsewhere = 0  # images that we have finished, and others
        self.pairs: Set[tuple[str, str]] = frozenset()  # of the store, after we began
        self.skipped: set[str] = set()  # images without rows, by whomever
        self.show = sum(unit.shown for unit in units)  # images of ours, not of the first units
        self.tried: set[int] = set()  # units that we have computed
        self.computed: set[int] = set()  # and not written yet
        self.claimed: set[int] = set()
        self.away: set[int] = set()  # claimed by others
        self.found: dict[int, dict[str, Any]] = {}  # what others are not told yet
        self.pace = 0.0  # seconds a unit
        self.interval = LOOK * (1 + board.lease.world / _MANY)
        self.committed = self.looked = time.monotonic()
        self.random = random.Random(board.lease.session)

    def run(self) -> Generator[Outcome, None, None]:
        """Compute our own units, then what is left."""
        board = self.board
        rank, world = board.lease.rank, board.lease.world
        board.look(rivals=world > _MANY)  # each lease is a request
        away = board.taken() | (board.claimed() if world > _MANY else set())
        ours = [number for number in sorted(self.left - away) if number % world == rank]
        yield from self._compute([one for one in ours if board.deaths(one) < DEADLY])
        board.post(owns=False)
        yield from self._take_over()
        board.sweep(lambda number: not any(self._missing(number, skipped=True)))

    # --- units one after the other ----------------------------------------------------------------

    def _compute(self, numbers: Sequence[int]) -> Generator[Outcome, None, None]:
        """Compute units in their order, but those that others claim meanwhile."""
        units = {number: [*map(self._show, self._missing(number))] for number in numbers}
        groups = [unit.places for number in numbers for unit in units[number]]
        window: Collection[int] = ()
        with closing(batches(self.job.setting, groups)) as read:
            for place, number in enumerate(numbers):
                if number not in window:
                    window = self._begin(numbers[place:])
                    if not window:
                        break
                begun = time.monotonic()
                for unit in units[number]:
                    batch, failed = next(read)
                    if number not in window:
                        continue  # somebody else has it
                    last = unit is units[number][-1]
                    yield from self._give(
                        number, self.worker.compute(unit, batch, failed), last=last
                    )
                if number in window:
                    taken = time.monotonic() - begun
                    self.pace = 0.7 * self.pace + 0.3 * taken if self.pace else taken
        yield from self._commit()
        self.board.post(working=(), held=(), images=self.done)

    def _show(self, unit: Unit) -> Unit:
        shown = min(self.show, len(unit))
        self.show -= shown
        return replace(unit, shown=shown)

    def _begin(self, numbers: Sequence[int]) -> list[int]:
        """Say which of the next units we compute now, and return them; [] if none is left to us."""
        board, ours = self.board, not self.claimed
        if ours:
            if time.monotonic() - self.looked >= self.interval:
                board.look(rivals=board.lease.rank != 0)
                self.looked = time.monotonic()
            if board.gives_way():
                return []
        most = max(1, int(WINDOW / self.pace)) if self.pace else 1
        held = (*sorted(self.computed | self.claimed),)
        while True:
            free = [number for number in numbers if not (ours and number in self.away)]
            window = free[:most]
            board.post(working=tuple(window), held=held, images=self.done)
            # who takes over looks at this lease after the claim is written, and we at the claims
            # after the lease is: one of us sees the other
            claimed = board.claimed() if ours else set()
            self.away |= claimed
            if not claimed & {*window}:
                return window

    def _give(self, number: int, outcome: Outcome, *, last: bool) -> Generator[Outcome, None, None]:
        """Yield what came of a unit, and have it written if it is time or others wait for it."""
        self.done += outcome.images
        self.skipped |= outcome.skipped.keys()
        if outcome.skipped or outcome.odd:
            found = self.found.setdefault(number, {"skipped": {}, "odd": {}})
            found["skipped"] |= outcome.skipped
            found["odd"] |= outcome.odd
        outcome.elsewhere = self._count_elsewhere(self.board.images_elsewhere)
        if last:
            self.computed.add(number)
        late = time.monotonic() - self.committed >= COMMIT
        outcome.commit = last and (late or bool(self.claimed))
        yield outcome
        if outcome.commit:
            self._after_commit()

    def _commit(self) -> Generator[Outcome, None, None]:
        if self.computed:
            yield Outcome(0, commit=True)
            self._after_commit()

    def _after_commit(self) -> None:
        """Tell the others what is written now."""
        for number, found in self.found.items():
            self.board.publish(number, found)
        self.tried |= self.computed
        self.claimed -= self.computed  # the claims stay: the owner does not read the rows
        self.computed, self.found = set(), {}
        self.committed = time.monotonic()

    def _count_elsewhere(self, images: int) -> int:
        """Return how many images others have finished since the last call."""
        more = max(0, min(images, self.total - self.done) - self.elsewhere)
        self.elsewhere += more
        return more

    # --- what is left -----------------------------------------------------------------------------

    def _take_over(self) -> Generator[Outcome, None, None]:
        """Compute what others do not get to; wait for the rest."""
        board, shortest = self.board, find_shortest_pause(self.board.lease.world)
        pause = shortest
        while True:
            board.look()  # before the rows: what is nobody's any more, is written
            away = board.taken() | board.claimed(looked=True)
            yield self._look_at_rows()
            if not self.left:
                return
            chosen = self._choose(sorted(self.left - away))
            won = board.claim(chosen) if chosen else []
            if not won:
                time.sleep(pause)
                pause = min(2 * pause, self.interval)
                continue
            yield self._look_at_rows()
            self.claimed = {*won}
            finished = self.claimed - self.left  # by who held it until a moment ago
            board.release(finished)
            self.claimed -= finished
            deadly = {number for number in self.claimed if board.deaths(number) >= DEADLY}
            yield from self._compute(sorted(self.claimed - deadly))
            for number in sorted(deadly):
                yield from self._compute_apart(number)
            pause = shortest

    def _look_at_rows(self) -> Outcome:
        """Find out what is left; return what others have finished."""
        outcome = Outcome(0)
        self.pairs = self.job.store.done()
        for found in self.board.read_findings():
            outcome.skipped |= found["skipped"]
            outcome.odd |= found["odd"]
        self.skipped |= outcome.skipped.keys()
        # a unit that leaves no rows although we computed it is not begun for ever
        missing = {number: [*self._missing(number)] for number in self.left - self.tried}
        self.left = {number for number, units in missing.items() if units}
        images = sum(len(unit) for units in missing.values() for unit in units)
        outcome.elsewhere = self._count_elsewhere(self.total - images - self.done)
        return outcome

    def _missing(self, number: int, *, skipped: bool = False) -> Iterator[Unit]:
        """Yield a batch's units, with the images that have no rows.

        Args:
            number: of the batch.
            skipped: whether images for which there will be none belong to them.
        """
        for unit in self.units[number]:
            places = tuple(
                place
                for place in unit.places
                if (skipped or self.names[place] not in self.skipped)
                and any((self.names[place], method) not in self.pairs for method in unit.methods)
            )
            if places:
                yield replace(unit, places=places)

    def _choose(self, free: Sequence[int]) -> Sequence[int]:
        """Return units to take over, of those in nobody's work; some seconds of work at most."""
        owners = {lease.session: lease for lease in self.board.others if lease.owns}
        of_owner: dict[str, list[int]] = {session: [] for session in owners}
        of_nobody = []
        for number in free:
            having = [
                session for session, lease in owners.items() if number % lease.world == lease.rank
            ]
            for session in having:
                of_owner[session].append(number)
            if not having:
                of_nobody.append(number)
        if of_nobody:
            most = len(of_nobody) // (2 * len(self.board.others) + 2)
            pool = of_nobody
        else:
            pool = max(of_owner.values(), key=len, default=[])
            pool = pool[len(pool) // 2 :]  # of who comes to it last
            most = len(pool)
        count = max(1, min(most, int(PORTION / self.pace) if self.pace else 1))
        first = self.random.randint(0, max(0, len(pool) - count))  # seldom what another one takes
        return pool[first : first + count]

    def _compute_apart(self, number: int) -> Generator[Outcome, None, None]:
        """Compute a unit in a process of its own, which may die of it."""
        self.board.post(working=(), held=(*self.claimed,))
        units = [*map(self._show, self._missing(number))]
        outcomes = ProcessesEngine(actors=1).run(self.job, units)
        with closing(outcomes):
            for outcome in outcomes:
                yield from self._give(number, outcome, last=False)
        self.computed.add(number)
        yield from self._commit()
        self.board.post(held=(*self.claimed,), images=self.done)
