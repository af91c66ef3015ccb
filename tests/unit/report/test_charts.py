"""Charts of results and studies against the metrics' own curves."""

import numpy as np
import pandas as pd
import pytest
import torch

from nets import convnet, images
from torchsaliency.errors import InputError
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.studies import power_variants, score_variants, study_metrics
from torchsaliency.metrics.base import create_metric
from torchsaliency.report.charts import metric_charts, selectivity_charts, sweep_chart

COUNT = 6


def results(metrics, methods=("a", "b")):
    draw = np.random.default_rng(0)
    frame = [
        {
            "sample": f"s{sample}",
            "method": method,
            "metric": label,
            "value": 0.0,
            "row": draw.uniform(size=metric.width).tolist(),
            "seconds": 1.0,
            "passes": 1,
        }
        for sample in range(COUNT)
        for method in methods
        for label, metric in metrics.items()
    ]
    return Results(pd.DataFrame(frame), metrics, (*methods, "never run"))


def restored(found, method, label, name):
    metric = create_metric(name)
    metric.restore(found.rows(method, label))
    return metric


def test_curves_are_the_metrics_own():
    names = {"ins": "insertion", "iou": "miou-sweep", "sane": "spearman", "ad": "ad"}
    found = results({label: create_metric(name) for label, name in names.items()})
    made = metric_charts(found)
    assert list(made) == ["ins", "iou", "sane"]  # an average drop has no curve
    assert [one.label for one in made["ins"].series] == ["a", "b"]
    second = made["ins"].series[1]
    own = restored(found, "b", "ins", "insertion")
    assert second.x == pytest.approx(list(range(101)))
    assert second.y == pytest.approx((100 * own.curve).tolist())
    own = restored(found, "a", "iou", "miou-sweep").curve
    assert dict(zip(made["iou"].series[0].x, made["iou"].series[0].y, strict=True)) == (
        pytest.approx(own)
    )
    assert made["sane"].series[0].y == pytest.approx(
        restored(found, "a", "sane", "spearman").curve.tolist()
    )


def test_bands_are_students_interval_of_the_mean():
    found = results({"iou": create_metric("miou-sweep")})
    one = metric_charts(found)["iou"].series[0]
    rows = found.rows("a", "iou").numpy()
    assert COUNT == 6
    half = 2.570582 * rows.std(0, ddof=1) / COUNT**0.5
    np.testing.assert_allclose(one.high, rows.mean(0) + half, rtol=1e-6)
    np.testing.assert_allclose(one.low, rows.mean(0) - half, rtol=1e-6)


def summaries(study):
    return {label: metric.summary() for label, metric in study.items()}


def test_selectivity_by_power():
    x = images(4, 12, 16)
    maps = torch.rand(4, 12, 16, generator=torch.Generator().manual_seed(0))
    variants = power_variants(maps, [10, 0.1, 1])
    study = score_variants(convnet(), x, variants, torch.tensor([0, 3, 1, 2]))
    made = selectivity_charts({"gradcam": summaries(study)})
    assert list(made) == ["ad", "ag", "ai"]
    chart = made["ad"]
    assert chart.log_x
    (one,) = chart.series
    assert one.x == [0.1, 1, 10]
    expected = [float(study[f"ad, α = {alpha}"].compute()) for alpha in ("0.1", "1", "10")]
    assert one.y == pytest.approx(expected)
    assert chart.y == "ad ↓ (%)"


def test_another_study_is_no_selectivity():
    with pytest.raises(InputError, match="'ground truth'"):
        selectivity_charts({"gradcam": summaries(study_metrics("classes"))})


def test_undefined_points_of_a_sweep_are_gaps():
    full, empty = create_metric("ad"), create_metric("ad")
    full.restore(torch.tensor([[1.0], [3.0]]))
    made = sweep_chart({"lr 0.1": {20: empty.summary(), 10: full.summary()}}, x="iterations")
    assert made.series[0].x == [10, 20]
    assert made.series[0].y[0] == 2
    assert np.isnan(made.series[0].y[1])
    with pytest.raises(InputError, match="without summaries"):
        sweep_chart({"a": {}}, x="x")
