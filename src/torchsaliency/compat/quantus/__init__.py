"""Quantus' names and calls: `from torchsaliency.compat import quantus`.

Its metrics are this library's, asked with arrays. `explain` serves the library's methods to the
metrics here and to those of the real Quantus. What changes, and what is corrected, is in
docs/from-quantus.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from torchsaliency.compat.quantus.curves import (
    Focus,
    PixelFlipping,
    PointingGame,
    RegionPerturbation,
)
from torchsaliency.compat.quantus.explaining import CAPTUM_NAMES as CAPTUM_NAMES
from torchsaliency.compat.quantus.explaining import explain as explain
from torchsaliency.compat.quantus.metric import (
    Metric,
    Spec,
    count_groups,
    count_share,
    count_step,
    keep_value,
)
from torchsaliency.errors import OptionError

_SAMPLES = {"nr_samples": (200, "samples", keep_value)}
_STABLE = {**_SAMPLES, "eps_min": (1e-6, "least", keep_value)}
_NOISY = {**_SAMPLES, "lower_bound": (0.2, "radius", keep_value)}
_SEED = {"seed": (42, "seed", keep_value)}

_SPECS = {
    "Completeness": Spec("completeness", order=True),
    "InputInvariance": Spec("input-invariance", options={"input_shift": (-1, "shift", keep_value)}),
    "NonSensitivity": Spec("non-sensitivity", True, options={"eps": (1e-5, "least", keep_value)}),
    "Complexity": Spec("entropy", True),
    "EffectiveComplexity": Spec(
        "effective-complexity", True, options={"eps": (1e-5, "threshold", keep_value)}
    ),
    "Sparseness": Spec("sparseness", True),
    "MSTC": Spec("mst-c", True, options={"threshold": (80.0, "percentile", keep_value)}),
    "FaithfulnessCorrelation": Spec(
        "faithfulness-correlation",
        order=True,
        options={
            "nr_runs": (100, "samples", keep_value),
            "subset_size": (224, "share", count_share),
        },
    ),
    "FaithfulnessEstimate": Spec(
        "faithfulness-estimate",
        order=True,
        options={"features_in_step": (1, "groups", count_groups)},
    ),
    "Infidelity": Spec(
        "infidelity",
        options={"n_perturb_samples": (10, "samples", keep_value)},
        fixed={"normalise": False},
    ),
    "IROF": Spec("irof", order=True),
    "Monotonicity": Spec(
        "monotonicity", True, order=True, options={"features_in_step": (1, "step", count_step)}
    ),
    "MonotonicityCorrelation": Spec(
        "monotonicity-correlation",
        True,
        order=True,
        options={
            "features_in_step": (1, "groups", count_groups),
            "nr_samples": (100, "samples", keep_value),
        },
    ),
    "ROAD": Spec("road", order=True, options={"noise": (0.01, "noise", keep_value)}),
    "Selectivity": Spec(
        "selectivity", order=True, options={"patch_size": (8, "patch", keep_value)}
    ),
    "SensitivityN": Spec("sensitivity-n", order=True),
    "Sufficiency": Spec(
        "sufficiency",
        True,
        options={"threshold": (0.6, "threshold", keep_value)},
        fixed={"itself": False},
    ),
    "AttributionLocalisation": Spec(
        "attribution-localisation",
        True,
        options={
            "weighted": (False, "weighted", keep_value),
            "max_size": (1.0, "max_size", keep_value),
        },
    ),
    "AUC": Spec("auc", order=True),
    "RelevanceMassAccuracy": Spec("relevance-mass"),
    "RelevanceRankAccuracy": Spec("relevance-rank", order=True),
    "TopKIntersection": Spec(
        "top-k",
        order=True,
        options={
            "k": (1000, "k", keep_value),
            "concept_influence": (False, "concept_influence", keep_value),
        },
    ),
    "MPRT": Spec("mprt", True, options=_SEED),
    "EfficientMPRT": Spec("emprt", options=_SEED),
    "SmoothMPRT": Spec(
        "smprt",
        True,
        options={
            **_SEED,
            "nr_samples": (50, "samples", keep_value),
            "noise_magnitude": (0.1, "noise", keep_value),
        },
    ),
    "RandomLogit": Spec("random-logit", options=_SEED),
    "AvgSensitivity": Spec("avg-sensitivity", options=_NOISY),
    "MaxSensitivity": Spec("max-sensitivity", options=_NOISY),
    "Consistency": Spec("consistency", True),
    "Continuity": Spec("continuity", True, options={"nr_steps": (28, "steps", keep_value)}),
    "LocalLipschitzEstimate": Spec("local-lipschitz", options=_SAMPLES),
    "RelativeInputStability": Spec("ris", options=_STABLE),
    "RelativeOutputStability": Spec("ros", options=_STABLE),
    "RelativeRepresentationStability": Spec("rrs", options=_STABLE),
}
"""The classes that are a metric of the library under another name."""

CURVES = (PixelFlipping, RegionPerturbation, PointingGame, Focus)

METRICS: Mapping[str, type[Metric]] = {
    **{
        name: type(
            name,
            (Metric,),
            {
                "__doc__": f"Quantus' {name}: `{spec.metric}` of the library.",
                "__module__": __name__,
                "_spec": spec,
            },
        )
        for name, spec in _SPECS.items()
    },
    **{kind.__name__: kind for kind in CURVES},
}
"""Every class by its name in Quantus."""


def __getattr__(name: str) -> type[Metric]:
    """Return the class that has Quantus' name.

    Raises:
        AttributeError: there is none.
    """
    if name in METRICS:
        return METRICS[name]
    if name.endswith("_func"):
        raise AttributeError(
            f"quantus.{name} has functions that take a part of a metric's place, and metrics have "
            "no such parts here; leave the option out."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def evaluate(  # noqa: PLR0913, PLR0917 (Quantus' arguments)
    metrics: Mapping[str, Metric],
    xai_methods: Mapping[str, Any],
    model: nn.Module,
    x_batch: Any,
    y_batch: Any,
    s_batch: Any = None,
    agg_func: Callable[[Any], Any] = lambda scores: scores,
    explain_func_kwargs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    return_as_df: bool = False,
    verbose: bool = False,
) -> Any:
    """Return what each metric gives of each method's maps: {method: {metric: scores}}.

    Args:
        metrics: by label.
        xai_methods: by label: a function, as `explain_func`; options of `explain`; or maps.
        model: the network.
        x_batch: images (N, C, *size).
        y_batch: a class of each.
        s_batch: masks of the objects.
        agg_func: of each list of scores.
        explain_func_kwargs: for functions; each is also told its label as `method`.
        call_kwargs: sets of arguments of the metrics, by label; of several, each has a result.
        return_as_df: whether a pandas.DataFrame is returned.
        verbose: nothing is printed.

    Raises:
        OptionError: a method is none of these. A metric that fails raises its own error, where
            Quantus prints it and leaves the metric out.
    """
    del verbose
    calls = {"": {}} if call_kwargs is None else dict(call_kwargs)
    results: dict[str, dict[str, Any]] = {}
    for label, given in xai_methods.items():
        function, arguments, maps = _read_method(label, given, explain_func_kwargs)
        if maps is None:
            maps = function(model=model, inputs=x_batch, targets=y_batch, **arguments)
        results[label] = {}
        for name, metric in metrics.items():
            found = {
                call: agg_func(
                    metric(
                        model=model,
                        x_batch=x_batch,
                        y_batch=y_batch,
                        a_batch=maps,
                        s_batch=s_batch,
                        explain_func=function,
                        explain_func_kwargs=arguments,
                        **more,
                    )
                )
                for call, more in calls.items()
            }
            results[label][name] = found if len(calls) > 1 else next(iter(found.values()))
    if not return_as_df:
        return results
    import pandas as pd  # noqa: PLC0415 (at first use)

    return pd.DataFrame.from_dict(results)


def _read_method(
    label: str, given: Any, arguments: Mapping[str, Any] | None
) -> tuple[Any, dict[str, Any], Any]:
    """Return the function that explains, its arguments, and maps that are known."""
    if callable(given):
        return given, {**(arguments or {}), "method": label}, None
    if isinstance(given, Mapping):
        return explain, {"method": label, **given}, None
    if isinstance(given, np.ndarray | Tensor | Sequence):
        return None, {}, given
    raise OptionError(
        f"xai_methods[{label!r}] is a {type(given).__name__}; give a function, options of explain, "
        "or maps."
    )
