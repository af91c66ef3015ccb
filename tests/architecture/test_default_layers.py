"""Every architecture of the catalogue is explained without naming a layer."""

from pathlib import Path

import pytest

from architectures import METHODS, TIMM, Case, cases, explained
from torchsaliency.core.maps import is_constant

TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.source}/{case.name}")
def test_maps_are_finite_and_not_constant_with_no_layer_named(case: Case) -> None:
    layer, made = explained(case)
    for label in METHODS:
        maps = made[label].map
        assert maps.shape == (2, case.side, case.side)
        assert maps.isfinite().all()
        assert not is_constant(maps).any(), f"{label} at {layer.name}: {made[label].status}"
    assert f"| `{case.source}/{case.name}` |" in TABLE.read_text(encoding="utf-8")


def test_the_catalogue_is_broad() -> None:
    assert len(TIMM) >= 60
    assert len({name for name, _, _ in TIMM.values()}) == len(TIMM)
    assert sum(case.source == "torchvision" for case in cases()) >= 80
