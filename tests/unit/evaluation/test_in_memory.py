"""Data sets from Python in plans, evaluations and fine-tunings."""

import json

import pytest

from torchsaliency.data import as_dataset, open_data
from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation import evaluate, make_plan, read_plan
from torchsaliency.training import finetune, make_finetuning

FACTS = {
    "model": "builtin/shapes_cnn",
    "methods": "gradcam",
    "metrics": "ad,ep",
    "batch_size": 4,
    "workers": 0,
}


def pairs(count=6, seed=5):
    """Return drawn shapes as a user's torch data set: images, labels and boxes."""
    data = open_data(f"shapes:{count}?seed={seed}")
    opened = map(data.picture, range(count))
    return [(item.image, item.sample.label, item.boxes) for item in opened], data.classes


def mine(**options):
    items, classes = pairs(**options)
    return as_dataset(items, classes=classes, name="mine", boxes=lambda item: item[2])


def test_a_plan_takes_a_data_set(tmp_path):
    plan = make_plan({**FACTS, "data": mine(), "count": 4})
    assert plan.data == "in memory: mine"
    found = evaluate(plan, tmp_path / "run")
    named = evaluate(make_plan({**FACTS, "data": "shapes:6?seed=5"}), tmp_path / "named")
    names = [sample.replace("mine", "shapes") for sample in found.frame["sample"]]
    values = named.frame.set_index(["sample", "metric"])["value"]
    assert len({*names}) == 4
    for name, row in zip(names, found.frame.itertuples(), strict=True):
        assert row.value == pytest.approx(values[name, row.metric], abs=1e-4)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["plan"]["data"] == "in memory: mine"
    kept = plan.open_data().subset(count=4)
    assert facts["identity"]["fingerprint of the data"] == kept.fingerprint()


def test_its_yaml_says_that_it_cannot_be_run_by_name(tmp_path):
    plan = make_plan({**FACTS, "data": mine()})
    evaluate(plan, tmp_path / "run")
    text = (tmp_path / "run" / "plan.yaml").read_text()
    assert text.startswith("# The data set mine is in memory: this plan cannot be run by name.\n")
    again = read_plan(tmp_path / "run" / "plan.yaml")
    with pytest.raises(
        DataError, match=r"^data: The data set mine was given from Python .* give it again as data="
    ):
        evaluate(again, tmp_path / "run")
    evaluate(again, tmp_path / "run", data=mine())  # nothing is left to do
    with pytest.raises(OptionError):
        evaluate(again, tmp_path / "run", data=mine(seed=6))


def test_any_torch_data_set_is_taken(tmp_path):
    items, _ = pairs()
    plan = make_plan({**FACTS, "data": items, "metrics": "ad"})
    assert plan.data == "in memory: list"
    found = evaluate(plan, tmp_path / "run", data=items)
    assert len(found.frame) == 6
    with pytest.raises(DataError, match=r"^data: .*an empty list"):
        make_plan({**FACTS, "data": []})
    with pytest.raises(DataError, match="an empty list"):
        evaluate(plan, tmp_path / "other", data=[])


def test_finetune_takes_a_data_set(tmp_path):
    items, classes = pairs(count=64)

    def learn(data, folder):
        facts = {"arch": "builtin/shapes_cnn", "head_epochs": 1, "epochs": 0, "workers": 0}
        return finetune(make_finetuning({**facts, "data": data}), tmp_path / folder)

    data = as_dataset(items, classes=classes, name="mine")
    report = learn(data, "run")
    assert (report.data, report.classes) == ("mine", classes)
    assert report.settings.data == "in memory: mine"
    assert set(report.accuracy) == {"train", "val", "test"}
    assert learn(data, "run").before == 1
    with pytest.raises(OptionError):
        learn(as_dataset(items[::-1], classes=classes, name="mine"), "run")
    parts = {"train": data, "test": as_dataset(items[:9], classes=classes)}
    assert set(learn(parts, "parts").accuracy) == {"train", "test"}
    with pytest.raises(OptionError, match="no part 'exam' of the data"):
        learn({"exam": data}, "exam")
    with pytest.raises(DataError, match="was given from Python"):
        learn("in memory: mine", "other")
