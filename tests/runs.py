"""Runs that no network computed: stores with the rows of a plan, drawn by a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from torchsaliency.evaluation import Store, make_plan

SAMPLES = [f"image/{number}" for number in range(30)]
PLAN = make_plan({"methods": "gradcam,tsm,opticam", "metrics": "ad,ag,deletion"})


def begin(where: Any, *, samples: Sequence[str] | None = SAMPLES, **options: Any) -> Store:
    """Begin the run of `PLAN` on some samples; None for a run that does not list them."""
    store = Store(where, **options)
    facts = {
        "identity": {},
        "methods": PLAN.method_identity(),
        "plan": PLAN.model_dump(mode="json"),
        "session": {"begun": "now"},
    }
    with store.lock():
        known = store.begin(facts, "")
        if samples is not None:
            store.write({**known, "samples": [*samples]})
    return store


def draw_rows(
    samples: Sequence[str] = SAMPLES, methods: Sequence[str] | None = None, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield lines as `evaluate` writes them; one in ten is undefined, and one in ten has a NaN."""
    for name in samples:
        for method in methods or PLAN.create_methods():
            rng = np.random.default_rng([seed, len(method), *name.encode()])
            seconds, passes = float(rng.random()), float(rng.integers(1, 9))
            for label, metric in PLAN.create_metrics().items():
                row = rng.random(metric.width).tolist()
                kind = rng.integers(10)
                if kind == 0:
                    row = []
                if kind == 1:
                    row[-1] = float("nan")
                yield {
                    "sample": name,
                    "method": method,
                    "metric": label,
                    "value": row[0] if row else None,
                    "row": row,
                    "seconds": seconds if kind != 2 else None,
                    "passes": passes,
                    "judge_passes": float(rng.integers(1, 9)),
                }


def fill(store: Store, *, shards: int = 5, samples: Sequence[str] = SAMPLES) -> None:
    """Write all rows into so many shards."""
    for number in range(shards):
        store.add(draw_rows(samples[number::shards]))
