"""A measure that is called by hand does what its metrics tell it by default."""

import inspect

import pytest

from torchsaliency import measures
from torchsaliency.metrics import metrics

SHARED = [
    (measure, option, default)
    for entry in metrics().values()
    for measure in entry.requires
    for option, default in entry.options.items()
    if option in inspect.signature(getattr(measures, measure, lambda: None)).parameters
]


def test_there_are_some():
    assert {"removal_curves", "region_curve", "noisy_maps"} <= {measure for measure, *_ in SHARED}


@pytest.mark.parametrize(("measure", "option", "default"), SHARED)
def test_the_defaults_are_those_of_the_metrics(measure, option, default):
    parameter = inspect.signature(getattr(measures, measure)).parameters[option]
    assert parameter.default in (default, None)  # None: as many stages as the network has
