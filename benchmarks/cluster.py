"""A simulation of many workers that share one store: `python -m benchmarks.cluster`.

No network and no store is real: workers follow the protocol of the engine `torchrun` (its
constants are imported) and ask a store that answers so many requests a second, as object stores
state it. Simulated are the seconds of units (log-normal), beats, looks, claims and shards; killed
workers; the rest is assumed to cost nothing. Printed is JSON: the efficiency (the work over what
all workers could have done), the tail (from the first worker that has nothing left to the end),
and the requests.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, final

import simpy

from torchsaliency.evaluation.engines.board import BEAT, PATIENCE, SETTLE
from torchsaliency.evaluation.engines.torchrun import COMMIT, LOOK, find_shortest_pause

READS, WRITES = 5500.0, 3500.0
"""Requests that an object store answers a second: S3 states them for each prefix."""

LATENCY = 0.03
"""Seconds of a request."""

Step = Generator[simpy.Event, Any, Any]


@final
@dataclass
class Scenario:
    """What is simulated.

    Attributes:
        workers: processes.
        units: batches of the whole data.
        seconds: of a batch on average.
        spread: of the logarithm of a batch's seconds.
        slow: share of the workers that need three times as long.
        killed: share of the workers that die at a random moment.
        parallel: requests that a worker has under way at once while it reads leases.
    """

    workers: int
    units: int
    seconds: float
    spread: float = 0.3
    slow: float = 0.02
    killed: float = 0.0
    parallel: int = 1


@final
@dataclass
class Cluster:
    """The state that all workers see through the store."""

    scenario: Scenario
    env: simpy.Environment = field(default_factory=simpy.Environment)
    requests: Counter[str] = field(default_factory=Counter)
    by_second: Counter[int] = field(default_factory=Counter)
    waited: float = 0.0
    written: set[int] = field(default_factory=set)
    working: dict[int, int] = field(default_factory=dict)  # unit -> worker
    held: dict[int, set[int]] = field(default_factory=dict)
    claims: dict[int, int] = field(default_factory=dict)
    died: dict[int, float] = field(default_factory=dict)  # when
    computed: int = 0
    spent: float = 0.0
    idle_since: float | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(0)
        self.reading = simpy.Resource(self.env)
        self.writing = simpy.Resource(self.env)

    def ask(self, kind: str, count: int = 1, parallel: int = 1) -> Step:
        """Send requests of a kind and wait for the answers."""
        begun = self.env.now
        self.requests[kind] += count
        self.by_second[int(begun)] += count
        door, rate = (self.reading, READS) if kind == "get" else (self.writing, WRITES)
        with door.request() as turn:
            yield turn
            yield self.env.timeout(count / rate)
        yield self.env.timeout(LATENCY * -(-count // parallel))
        self.waited += self.env.now - begun

    def is_dead(self, worker: int) -> bool:
        """Whether the others know of a worker that it is dead."""
        return worker in self.died and self.env.now - self.died[worker] >= PATIENCE


class Worker:
    """One process."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number = cluster, number
        scenario, draw = cluster.scenario, cluster.random
        self.pace = 3.0 if draw.random() < scenario.slow else 1.0
        self.interval = LOOK * (1 + scenario.workers / 64)
        cluster.held[number] = set()
        self.computed: set[int] = set()
        self.committed = self.looked = 0.0

    def beat(self) -> Step:
        """Raise the count of the lease."""
        while True:
            yield self.cluster.env.timeout(BEAT)
            yield from self.cluster.ask("put")

    def run(self) -> Step:
        """Compute own units, then those of others."""
        cluster, env = self.cluster, self.cluster.env
        for unit in range(self.number, cluster.scenario.units, cluster.scenario.workers):
            if env.now - self.looked >= self.interval:
                yield from cluster.ask("list")
                self.looked = env.now
            if unit not in cluster.claims:
                yield from self.compute(unit)
        yield from self.commit()
        if cluster.idle_since is None:
            cluster.idle_since = env.now
        pause = shortest = find_shortest_pause(cluster.scenario.workers)
        while True:
            yield from self.look()
            yield from cluster.ask("list", 2)  # rows and findings
            left = set(range(cluster.scenario.units)) - cluster.written
            if not left:
                return
            claimed = {
                unit for unit, worker in cluster.claims.items() if not cluster.is_dead(worker)
            }
            free = sorted(left - self.taken() - claimed)
            chosen = self.choose(free)
            if not chosen:
                yield env.timeout(pause)
                pause = min(2 * pause, self.interval)
                continue
            yield from cluster.ask("put", len(chosen))
            for unit in chosen:
                if cluster.is_dead(cluster.claims.get(unit, self.number)):
                    del cluster.claims[unit]
            won = [
                unit
                for unit in chosen
                if cluster.claims.setdefault(unit, self.number) == self.number
            ]
            yield env.timeout(SETTLE)
            yield from cluster.ask("list")
            yield from self.look()
            for unit in won:
                if unit not in cluster.written and unit not in self.taken():
                    yield from self.compute(unit)
            yield from self.commit()
            yield from cluster.ask("delete", len(chosen))
            pause = shortest

    def compute(self, unit: int) -> Step:
        """Compute one unit."""
        cluster, scenario = self.cluster, self.cluster.scenario
        draw = random.Random(unit).lognormvariate(-(scenario.spread**2) / 2, scenario.spread)
        seconds = scenario.seconds * draw
        cluster.working[unit] = self.number
        yield from cluster.ask("put")
        yield cluster.env.timeout(seconds * self.pace)
        cluster.working.pop(unit, None)
        cluster.computed += 1
        cluster.spent += seconds * self.pace
        self.computed.add(unit)
        cluster.held[self.number].add(unit)
        if cluster.env.now - self.committed >= COMMIT:
            yield from self.commit()

    def commit(self) -> Step:
        """Write the rows of what is computed."""
        if self.computed:
            yield from self.cluster.ask("put")
        self.cluster.written |= self.computed
        self.cluster.held[self.number] -= self.computed
        self.computed, self.committed = set(), self.cluster.env.now

    def look(self) -> Step:
        """Read all leases."""
        scenario = self.cluster.scenario
        yield from self.cluster.ask("list", 1 + scenario.workers // 1000)
        yield from self.cluster.ask("get", scenario.workers - 1, scenario.parallel)

    def taken(self) -> set[int]:
        """Return the units that are another living worker's business."""
        cluster = self.cluster
        found = {unit for unit, worker in cluster.working.items() if not cluster.is_dead(worker)}
        for worker, held in cluster.held.items():
            if worker != self.number and not cluster.is_dead(worker):
                found |= held
        return found

    def choose(self, free: list[int]) -> list[int]:
        """Return some units of others."""
        owners: dict[int, list[int]] = {}
        for unit in free:
            owners.setdefault(unit % self.cluster.scenario.workers, []).append(unit)
        if not owners:
            return []
        pool = max(owners.values(), key=len)
        pool = pool[len(pool) // 2 :]
        return [self.cluster.random.choice(pool)]


def simulate(scenario: Scenario) -> dict[str, Any]:
    """Return what happens."""
    cluster = Cluster(scenario)
    env = cluster.env
    workers = []
    for number in range(scenario.workers):
        worker = Worker(cluster, number)
        workers.append([env.process(_until_killed(one)) for one in (worker.run(), worker.beat())])
    ideal = scenario.units * scenario.seconds / scenario.workers
    for number in range(int(scenario.killed * scenario.workers)):
        env.process(_kill(cluster, number, workers[number], cluster.random.uniform(0, ideal)))
    env.run(until=env.process(_wait_for_all(cluster)))
    seconds = env.now
    return {
        "workers": scenario.workers,
        "units": scenario.units,
        "seconds a unit": scenario.seconds,
        "killed": len(cluster.died),
        "hours": round(seconds / 3600, 3),
        "efficiency": round(ideal / seconds, 3),
        "tail, seconds": round(seconds - (cluster.idle_since or seconds), 1),
        "units computed twice": cluster.computed - scenario.units,
        "requests": dict(cluster.requests),
        "most requests in a second": max(cluster.by_second.values()),
        "seconds of waiting for the store, a worker": round(cluster.waited / scenario.workers, 2),
    }


def _until_killed(work: Step) -> Step:
    with suppress(simpy.Interrupt):
        yield from work


def _kill(cluster: Cluster, number: int, processes: list[simpy.Process], when: float) -> Step:
    """Kill a worker; what it was computing is in work until the others know that it is dead."""
    yield cluster.env.timeout(when)
    cluster.died[number] = cluster.env.now
    for process in processes:
        if process.is_alive:
            process.interrupt()


def _wait_for_all(cluster: Cluster) -> Step:
    while len(cluster.written) < cluster.scenario.units:
        yield cluster.env.timeout(0.1)


SCENARIOS = [
    Scenario(10, 3125, 60.0),
    Scenario(100, 3125, 60.0),
    Scenario(100, 3125, 60.0, killed=0.05),
    Scenario(300, 3125, 60.0),
    Scenario(1000, 3125, 60.0),
    Scenario(1000, 3125, 60.0, slow=0.0),
    Scenario(1000, 12500, 15.0),
]
"""ImageNet's 50,000 images in batches of 16 or 4, on three sizes of a cluster."""


if __name__ == "__main__":
    facts = {"what": __doc__, "rows": [simulate(scenario) for scenario in SCENARIOS]}
    json.dump(facts, sys.stdout, indent=1)
