"""A data set of which some images kill the process that reads them.

A module of its own: spawned processes import it by name, without pytest.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from torchsaliency.data import DataSet, open_data
from torchsaliency.data.dataset import Picture, Sample


@dataclass(frozen=True, eq=False, kw_only=True)
class Deadly(DataSet):
    """Another data set; images of some places, counted in it, kill whoever reads them."""

    kills: tuple[str, ...]
    spared: int  # the process that began

    def mark(self, sample: Sample) -> str:
        """Return the id."""
        return sample.id

    def picture(self, index: int) -> Picture:
        """Die, or open the image."""
        sample = self.samples[index]
        if sample.id in self.kills and os.getpid() != self.spared:
            os.kill(os.getpid(), signal.SIGKILL)
        drawn = open_data("shapes:20?seed=5")
        return drawn.picture([one.id for one in drawn.samples].index(sample.id))


def deadly_shapes(count: int, kills: tuple[int, ...]) -> Deadly:
    """Return the first shapes; those of some places kill every process but this one."""
    drawn = open_data("shapes:20?seed=5")
    samples = drawn.samples[:count]
    return Deadly(
        name="deadly",
        samples=samples,
        classes=drawn.classes,
        annotations=drawn.annotations,
        kills=tuple(samples[place].id for place in kills),
        spared=os.getpid(),
    )
