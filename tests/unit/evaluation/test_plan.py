"""Plans: what is accepted, what is refused, and what decides the numbers."""

from __future__ import annotations

import pytest
import yaml

from torchsaliency.errors import DataError, OptionError, TorchSaliencyError
from torchsaliency.evaluation import make_plan, read_plan
from torchsaliency.evaluation.setting import make_setting

LEAST = {"methods": "gradcam", "metrics": "ad"}


def test_methods_and_metrics_in_every_spelling():
    plan = make_plan(
        {
            "methods": [
                "gradcam",
                {"opticam": {"iterations": 5}},
                {"name": "opticam", "label": "fast", "options": {"iterations": 2}},
                {"name": "gradcam", "label": "smooth", "augmented": True},
            ],
            "metrics": {"insertion": {"step": 8}, "ad": None},
        }
    )
    made = plan.create_methods()
    assert list(made) == ["gradcam", "opticam", "fast", "smooth"]
    assert (made["opticam"].iterations, made["fast"].iterations) == (5, 2)
    assert "gradcam" in made["smooth"].name
    assert made["smooth"].name != "gradcam"
    assert plan.create_metrics()["insertion"].step == 8
    assert make_plan({**LEAST, "methods": "gradcam, tsm"}).create_methods().keys() == {
        "gradcam",
        "tsm",
    }


def test_yaml_and_back(tmp_path):
    plan = make_plan(
        {
            **LEAST,
            "data": "shapes:5",
            "methods": ["tsm", {"opticam": {"iterations": 5}}],
            "count": 3,
            "classes": ["circle", 1],
        }
    )
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    assert read_plan(tmp_path / "plan.yaml") == plan
    assert read_plan(tmp_path / "plan.yaml", {"count": 4}).count == 4
    assert yaml.safe_load(plan.to_yaml())["methods"] == ["tsm", {"opticam": {"iterations": 5}}]


@pytest.mark.parametrize(
    ("change", "field", "near"),
    [
        ({"methods": "gradcma"}, "methods[0]", "gradcam"),
        ({"methods": [{"opticam": {"iteration": 3}}]}, "methods[0]", "iterations"),
        ({"metrics": ["ad", "insertoin"]}, "metrics[1]", "insertion"),
        ({"metric": "ad"}, "metric", "metrics"),
        ({"keep": "corect"}, "keep", "correct"),
        ({"masking": "grey"}, "masking", "mean"),
        ({"count": 0}, "count", "1"),
        ({"methods": ["tsm", "tsm"]}, "methods", "label"),
        ({"methods": []}, "methods", "1"),
    ],
)
def test_a_mistake_is_named_with_what_is_close(change, field, near):
    with pytest.raises(OptionError) as caught:
        make_plan({**LEAST, **change})
    assert field in str(caught.value)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "field", "near"),
    [
        ({"data": "/no/such/folder"}, "data", "/no/such/folder"),
        ({"data": "shapes:8", "classes": "circel"}, "classes", "circle"),
        ({"model": "builtin/shapes_cn"}, "model", "builtin/shapes_cnn"),
        ({"judge": "builtin/nothing"}, "judge", "builtin/"),
        ({"layers": "block55"}, "layers", "block5"),
        ({"target": "circel"}, "target", "circle"),
        ({"target": 8}, "target", "7"),
        ({"data": "samples", "metrics": "ba"}, "metrics[0]", "boxes"),
        ({"data": "samples", "target": "label"}, "target", "predicted"),
    ],
)
def test_what_does_not_exist_is_found_before_any_pass(change, field, near):
    plan = make_plan({**LEAST, "data": "shapes:8", "model": "builtin/shapes_cnn", **change})
    with pytest.raises(TorchSaliencyError) as caught:
        make_setting(plan)
    assert str(caught.value).startswith(field)
    assert near in str(caught.value)


def test_what_decides_the_numbers():
    plan = make_plan(LEAST)
    for free in ({"batch_size": 3}, {"chunk": 2}, {"workers": 1}, {"maps": True}):
        assert make_plan({**LEAST, **free}).identity() == plan.identity()
    assert make_plan({**LEAST, "device": "cuda:1"}).identity() == (
        make_plan({**LEAST, "device": "cuda:0"}).identity()
    )
    for other in ({"seed": 1}, {"masking": "black"}, {"device": "cuda"}, {"normalise": False}):
        assert make_plan({**LEAST, **other}).identity() != plan.identity()


def test_no_plan(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_plan(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(DataError, match="mapping"):
        read_plan(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(DataError, match="YAML"):
        read_plan(tmp_path / "broken.yaml")
