"""`torchsaliency compact`: the many small shards of a run become few."""

from __future__ import annotations

from torchsaliency.cli.console import print_line
from torchsaliency.cli.progress import show_progress
from torchsaliency.cli.table import RUN
from torchsaliency.options import Options


class CompactOptions(Options):
    """Which run is compacted."""

    run: str = RUN


def compact(options: CompactOptions) -> None:
    """Merge the shards of a run into few, sorted by method and metric; no number changes."""
    from torchsaliency.evaluation import Store
    from torchsaliency.evaluation.compaction import compact as merge

    with show_progress("merging", "shards") as meter:
        found = merge(Store(options.run), lambda done, total: meter.update(done=done, total=total))
    print_line(
        f"{options.run}: {found.before:,} shards became {found.after:,}, with {found.rows:,} rows."
    )
