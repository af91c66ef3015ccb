"""How sessions that share a store know of each other: small files beside the rows.

Each session has a lease: what it is computing, and a count that a thread raises every few seconds.
No clock is compared with another machine's. A session is dead to another one that has seen its
count stand still for long enough by its own clock, or that sees on the same machine that its
process is gone. Who takes over units of somebody else writes a claim for each.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, final

from torchsaliency.core.files import json_bytes
from torchsaliency.errors import OutputError
from torchsaliency.evaluation.engines.share import Share, find_birth
from torchsaliency.evaluation.places import Files

BEAT, PATIENCE = 5.0, 60.0
"""Seconds between two counts, and for how long a count stands still where a session is dead."""

SETTLE = 0.3
"""Seconds after which a claim that another session wrote at the same moment is seen."""

_LEASES, _CLAIMS, _FINDINGS = "leases", "claims", "findings"


@final
@dataclass(frozen=True)
class Lease:
    """What a session tells the others.

    Attributes:
        session: its name.
        rank: of its process, see `Share`.
        world: how many processes it knows of.
        launch: the command that started it.
        machine: where it runs; "" if that is not known.
        process: its number there.
        birth: when it began, see `find_birth`.
        beat: a count that rises while it lives.
        owns: whether it still computes the units of its rank.
        working: the units that it computes now; if it dies, it may have died of them.
        held: units that are its own business: computed and not written yet, or taken over.
        images: how many it has finished.
    """

    session: str
    rank: int
    world: int
    launch: str
    machine: str
    process: int
    birth: str
    beat: int = 0
    owns: bool = True
    working: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    images: int = 0

    @property
    def file(self) -> str:
        """Return the name of its file."""
        return f"{self.rank:06d}-{self.world}-{self.session}.json"

    def shares_units(self, file: str) -> bool:
        """Whether some units are of both ranks, of another lease by the name of its file."""
        rank, world, _ = file.split("-", 2)
        return self.world != int(world) or self.rank == int(rank)

    @classmethod
    def parse(cls, content: bytes | None) -> Lease | None:
        """Return a lease; None if there is none."""
        with suppress(ValueError, TypeError):
            facts = json.loads(content or b"")
            pairs = {key: tuple(facts[key]) for key in ("working", "held")}
            return cls(**{**facts, **pairs})
        return None


@final
class _Seen:
    """What was seen of another session."""

    def __init__(self, lease: Lease) -> None:
        self.lease, self.moved = lease, False
        self._quiet, self._last = 0.0, time.monotonic()

    def see(self, lease: Lease) -> None:
        """Take what its file says now."""
        now = time.monotonic()
        if lease.beat != self.lease.beat:
            self.moved, self._quiet = True, 0.0
        else:  # of a pause of our own, or of the store's, only a little counts
            self._quiet += min(now - self._last, 2 * BEAT)
        self.lease, self._last = lease, now

    @property
    def is_dead(self) -> bool:
        return self._quiet >= PATIENCE or _is_running(self.lease) is False

    @property
    def is_alive(self) -> bool:
        return not self.is_dead and (self.moved or _is_running(self.lease) is True)


@final
class Board:
    """What the sessions of one store tell each other, and this session's own lease."""

    def __init__(self, place: Files, folder: str, share: Share) -> None:
        """Look at the sessions of a store; a lease is there while it is entered.

        Args:
            place: where they leave files.
            folder: in it, of those who number the units as we do.
            share: which part is ours.
        """
        self._place, self._folder = place, folder
        self.lease = Lease(
            session=uuid.uuid4().hex[:12],
            rank=share.rank,
            world=share.world,
            launch=hashlib.sha256(share.launch.encode()).hexdigest()[:12],
            machine=_machine(),
            process=os.getpid(),
            birth=find_birth(os.getpid()),
        )
        self._seen: dict[str, _Seen] = {}
        self._images: dict[str, int] = {}
        self._read: set[str] = set()
        self._writing, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Board:
        self.post()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(BEAT)
        with suppress(OutputError):
            claims = self.claims()
            self.release(number for number in claims if self.lease.session in claims[number])
            self._place.delete(self._name(_LEASES, self.lease.file))

    # --- this session ----------------------------------------------------------------------------

    def post(self, **changes: Any) -> None:
        """Change what the lease says, and write it."""
        with self._writing:
            self.lease = replace(self.lease, **changes, beat=self.lease.beat + 1)
            name = self._name(_LEASES, self.lease.file)
            self._place.write(name, json_bytes(asdict(self.lease), indent=None))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OutputError):  # the store may be away for a while
                self.post()

    # --- the others ------------------------------------------------------------------------------

    def look(self, *, rivals: bool = False) -> None:
        """Read the leases of the other sessions.

        Args:
            rivals: only of those to which units of our rank belong, too.
        """
        names = {*self._list(_LEASES)} - {self.lease.file}
        for name in [*self._seen]:
            if name not in names:
                del self._seen[name]  # it has ended well
        for name in names:
            known = self._seen.get(name)
            if rivals and not self.lease.shares_units(name):
                continue
            lease = Lease.parse(self._place.read(self._name(_LEASES, name)))
            if lease is None:
                continue
            if known:
                known.see(lease)
            else:
                self._seen[name] = _Seen(lease)
            if lease.launch == self.lease.launch:
                self._images[name] = lease.images

    @property
    def others(self) -> list[Lease]:
        """The leases that were seen last, without those of the dead."""
        return [seen.lease for seen in self._seen.values() if not seen.is_dead]

    @property
    def images_elsewhere(self) -> int:
        """How many images other sessions of this launch have finished."""
        return sum(self._images.values())

    def taken(self) -> set[int]:
        """Return units that are another session's business, as far as its lease says."""
        return {number for lease in self.others for number in (*lease.working, *lease.held)}

    def deaths(self, number: int) -> int:
        """Return how many sessions died while they computed a unit."""
        dead = (seen.lease for seen in self._seen.values() if seen.is_dead)
        return sum(number in lease.working for lease in dead)

    def gives_way(self) -> bool:
        """Whether another session that is alive computes the units of our rank, too."""
        return any(
            seen.is_alive
            and seen.lease.owns
            and self.lease.shares_units(seen.lease.file)
            and seen.lease.session < self.lease.session
            for seen in self._seen.values()
        )

    # --- claims ----------------------------------------------------------------------------------

    def claims(self) -> dict[int, set[str]]:
        """Return who has claimed which units."""
        found: dict[int, set[str]] = defaultdict(set)
        for name in self._list(_CLAIMS):
            number, _, session = name.removesuffix(".json").partition("-")
            found[int(number)].add(session)
        return found

    def claimed(self, *, looked: bool = False) -> set[int]:
        """Return units that other sessions have claimed, without those of the dead.

        Args:
            looked: whether that was just before, so that who has no lease is gone, too.
        """
        living = {lease.session for lease in self.others}
        gone = {self.lease.session} | {seen.lease.session for seen in self._seen.values()} - living
        return {
            number
            for number, sessions in self.claims().items()
            if (sessions & living if looked else sessions - gone)
        }

    def claim(self, numbers: Collection[int]) -> list[int]:
        """Claim units of somebody else, and return those that are ours now.

        Of claims that are written at the same moment, that of the first name holds.
        """
        for number in numbers:
            self._place.write(self._claim_name(number), b"{}")
        time.sleep(SETTLE)
        claims = self.claims()
        self.look()
        taken, names = self.taken(), {lease.session for lease in self.others}
        won = [
            number
            for number in numbers
            if number not in taken
            and self.lease.session <= min(claims[number] & names, default="~")
        ]
        self.release({*numbers} - {*won})
        return won

    def release(self, numbers: Iterable[int]) -> None:
        """Take claims back."""
        for number in [*numbers]:
            self._place.delete(self._claim_name(number))

    def _claim_name(self, number: int) -> str:
        return self._name(_CLAIMS, f"{number}-{self.lease.session}.json")

    # --- what has no rows ------------------------------------------------------------------------

    def publish(self, number: int, findings: Mapping[str, Any]) -> None:
        """Tell the sessions of this launch what came of a unit beside its rows."""
        name = f"{self.lease.launch}-{number}-{self.lease.session}.json"
        self._read.add(name)
        self._place.write(self._name(_FINDINGS, name), json_bytes(findings, indent=None))

    def read_findings(self) -> list[dict[str, Any]]:
        """Return what others of this launch have published since the last call."""
        found = []
        for name in self._list(_FINDINGS):
            if name not in self._read and name.startswith(self.lease.launch):
                content = self._place.read(self._name(_FINDINGS, name))
                with suppress(ValueError):  # gone, or not whole yet
                    found.append(json.loads(content or b""))
                    self._read.add(name)
        return found

    # --- files -----------------------------------------------------------------------------------

    def sweep(self, is_finished: Callable[[int], bool]) -> None:
        """Remove what nobody needs, if no other session is left; after the last unit.

        The lease of who died of a unit that is not finished stays: it warns the next one.
        """
        self._ended.set()
        self._thread.join(BEAT)
        self._place.delete(self._name(_LEASES, self.lease.file))
        self.look()
        if self.others:
            return
        for folder in (_CLAIMS, _FINDINGS):
            for name in self._place.list(f"{self._folder}/{folder}"):
                self._place.delete(self._name(folder, name))
        for name, seen in self._seen.items():
            if all(map(is_finished, seen.lease.working)):
                self._place.delete(self._name(_LEASES, name))

    def _list(self, folder: str) -> list[str]:
        names = self._place.list(f"{self._folder}/{folder}")
        return [name for name in names if name.endswith(".json")]  # others are not whole yet

    def _name(self, folder: str, name: str) -> str:
        return f"{self._folder}/{folder}/{name}"


@cache
def _machine() -> str:
    """Return what processes have in common that see each other's numbers; "" if not known."""
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{booted} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_running(lease: Lease) -> bool | None:
    """Whether a session's process is there; None if it is on another machine."""
    if not lease.machine or lease.machine != _machine():
        return None
    return find_birth(lease.process) == lease.birth
