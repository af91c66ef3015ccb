"""Whole data sets: shared passes, shards, killed processes, little memory, damaged files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import torchsaliency
from torchsaliency.data import open_data, shapes
from torchsaliency.errors import DataError, InputError, OptionError, TorchSaliencyError
from torchsaliency.evaluation import Store, evaluate, load_results, make_plan, score, setting
from torchsaliency.evaluation.setting import make_setting
from torchsaliency.evaluation.studies import (
    box_variants,
    class_variants,
    find_misclassified,
    score_variants,
)
from torchsaliency.zoo import load_model
from torchsaliency.zoo.code import code_sha256

CAMS = "gradcam,gradcam++,xgradcam,layercam,hirescam,cam,eigencam,multivec-eigencam,tsm,mtsm"


def plan(**changes):
    return make_plan(
        {
            "data": "shapes:20?seed=5",
            "model": "builtin/shapes_cnn",
            "methods": "gradcam,tsm",
            "metrics": "ad,ai,ag,ep",
            "batch_size": 8,
            "workers": 0,
            **changes,
        }
    )


def table(folder):
    """Return all that must not depend on how the run went; times do."""
    frame = load_results(folder).frame.drop(columns=["seconds"])
    return frame.assign(row=[tuple(row) for row in frame["row"]])


def test_the_numbers_are_those_of_one_call(tmp_path):
    results = evaluate(plan(), tmp_path / "run")
    drawn = shapes(20, seed=5)
    network = load_model("builtin/shapes_cnn")
    x = torch.stack([network.preprocessing(picture(one)) for one in drawn.images])
    made = torchsaliency.explain(network, x, ["gradcam", "tsm"], drawn.labels.tolist())
    for method, explanation in made.items():
        found = score(
            network,
            explanation,
            ["ad", "ai", "ag", "ep"],
            boxes=[torch.as_tensor(one) for one in drawn.boxes],
        )
        for name, metric in found.items():
            summary = results.summary(method, name)
            assert summary.value == pytest.approx(float(metric.compute()), rel=1e-4, abs=1e-4)
            assert summary.count == 20
    assert list(results.frame["method"].unique()) == ["gradcam", "tsm"]


def picture(image):
    """Return a drawn image as the reader gives it, in 8 bits."""
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())


def test_ten_methods_cost_one_pass_and_a_masked_one_each(tmp_path):
    network = load_model("builtin/shapes_cnn")
    seen = []
    handle = network.module.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    torchsaliency.explain(network, torch.rand(1, 3, 64, 64), "gradcam")  # finds the layer, once
    seen.clear()
    made = evaluate(plan(methods=CAMS, metrics="ad,ai,ag"), tmp_path / "run", model=network)
    handle.remove()
    images, methods = 20, len(CAMS.split(","))
    assert sum(seen) <= images * (1.5 + methods)
    assert made.frame["judge_passes"].sum() == images * methods
    cost = made.frame.groupby("method")["passes"].mean()
    assert cost.pop("cam") <= 1.5  # a few rows more, to see that the head is linear
    assert (cost == 1).all()


@pytest.mark.parametrize("changes", [{}, {"batch_size": 3}, {"workers": 2}, {"chunk": 1}])
def test_how_it_runs_changes_nothing(tmp_path, changes):
    evaluate(plan(), tmp_path / "one")
    evaluate(plan(**changes), tmp_path / "other")
    one, other = table(tmp_path / "one"), table(tmp_path / "other")
    keys = ["sample", "method", "metric"]
    assert one[keys].equals(other[keys])
    assert np.allclose(one["value"], other["value"], rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_finished_run_computes_nothing(tmp_path, monkeypatch):
    evaluate(plan(), tmp_path / "run")
    before = table(tmp_path / "run")
    monkeypatch.setattr(setting, "explain", None)
    told = []
    evaluate(plan(), tmp_path / "run", watch=told.append)
    assert (told[-1].before, told[-1].total) == (20, 0)
    pd.testing.assert_frame_equal(table(tmp_path / "run"), before)


def test_methods_may_be_added(tmp_path):
    evaluate(plan(), tmp_path / "run")
    added = evaluate(plan(methods="mtsm,gradcam"), tmp_path / "run")
    assert added.methods == ("gradcam", "tsm", "mtsm")
    evaluate(plan(methods="gradcam,tsm,mtsm"), tmp_path / "together")
    pd.testing.assert_frame_equal(table(tmp_path / "run"), table(tmp_path / "together"))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"masking": "black"}, "masking"),
        ({"metrics": "ad"}, "metrics"),
        ({"data": "shapes:20?seed=6"}, "data"),
        ({"count": 10}, "count"),
        ({"methods": [{"gradcam": {}}, {"name": "mtsm", "label": "tsm"}]}, "method tsm"),
        ({"target": "predicted"}, "target"),
    ],
)
def test_another_plan_is_refused(tmp_path, change, name):
    evaluate(plan(), tmp_path / "run")
    before = table(tmp_path / "run")
    with pytest.raises(OptionError, match=r"would be mixed") as caught:
        evaluate(plan(**change), tmp_path / "run")
    assert name in str(caught.value)
    pd.testing.assert_frame_equal(table(tmp_path / "run"), before)


def test_other_weights_are_refused(tmp_path):
    evaluate(plan(), tmp_path / "run")
    network = load_model("builtin/shapes_cnn")
    with torch.no_grad():
        network.module.fc.bias += 1
    with pytest.raises(OptionError, match="weights of the network"):
        evaluate(plan(), tmp_path / "run", model=network)


OWN = """
import torch
from torch import nn
from torchsaliency.zoo import imagenet

class Own(nn.Module):  # a comment
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return look(self.conv(x)).mean((2, 3))

def look(x):
    return x.ACT()

def build():
    torch.manual_seed(0)
    return Own()

build.preprocessing = imagenet(32)
"""


def test_other_code_with_the_same_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, file = plan(model="own.py:build", target="predicted"), tmp_path / "own.py"
    file.write_text(OWN.replace("ACT", "relu"))
    evaluate(own, tmp_path / "run")
    file.write_text(OWN.replace("ACT", "relu").replace("# a comment", "# another one"))
    evaluate(own, tmp_path / "run")
    file.write_text(OWN.replace("ACT", "sigmoid"))
    with pytest.raises(OptionError, match="code of the network"):
        evaluate(own, tmp_path / "run")


@pytest.mark.parametrize("act", [torch.nn.ReLU(), torch.nn.Softplus(beta=2)])
def test_modules_without_weights_count(act):
    network = load_model("builtin/shapes_cnn")
    before = code_sha256(network)
    network.module.extra = act
    assert code_sha256(network) != before


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OptionError, match="something else"):
        evaluate(plan(), tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match="no evaluation"):
        load_results(tmp_path)


def test_damaged_images_are_listed_and_skipped(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(shapes(6, seed=5).images):
        picture(image).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    told = []
    made = evaluate(plan(data=str(folder), metrics="ad"), tmp_path / "run", watch=told.append)
    assert len(made.samples) == 5
    assert told[-1].skipped == 1
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert list(facts["skipped"]) == ["3.png"]
    assert "3.png" in facts["skipped"]["3.png"]
    for one in folder.iterdir():
        one.write_bytes(b"")
    with pytest.raises(DataError, match="None of the 6"):
        evaluate(plan(data=str(folder), metrics="ad"), tmp_path / "nothing")


def test_little_memory_halves_the_batch(tmp_path, monkeypatch):
    evaluate(plan(), tmp_path / "roomy")
    real = setting.explain

    def tight(model, x, *rest, chunk, **options):
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, x, *rest, chunk=chunk, **options)

    monkeypatch.setattr(setting, "explain", tight)
    evaluate(plan(chunk=32), tmp_path / "tight")
    one, other = table(tmp_path / "roomy"), table(tmp_path / "tight")
    assert np.allclose(one["value"], other["value"], rtol=1e-4, atol=1e-4)

    def broken(*_, **__):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(setting, "explain", broken)
    with pytest.raises(InputError, match=r"one after another.*shape mismatch"):
        evaluate(plan(), tmp_path / "broken")


def test_correct_and_misclassified_make_up_the_whole(tmp_path):
    model = load_model("builtin/shapes_cnn")
    with torch.no_grad():
        model.module.fc.bias[2] += 6  # sees triangles everywhere
    ids = []
    for keep in ("correct", "misclassified"):
        made = evaluate(plan(keep=keep), tmp_path / keep, model=model)
        again = evaluate(plan(keep=keep), tmp_path / keep, model=model)
        assert made.samples == again.samples
        ids.append(set(made.samples))
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {one.id for one in open_data("shapes:20?seed=5").samples}
    assert all(ids)


def test_another_judge(tmp_path):
    own = evaluate(plan(metrics="ad,insertion,adcc"), tmp_path / "own")
    same = evaluate(
        plan(metrics="ad,insertion,adcc", judge="builtin/shapes_cnn"), tmp_path / "same"
    )
    for name in ("ad", "insertion", "adcc"):
        assert own.summary("tsm", name).value == pytest.approx(
            same.summary("tsm", name).value, rel=1e-4, abs=1e-4
        )
    other = evaluate(plan(metrics="ad", judge="builtin/shapes_vit"), tmp_path / "other")
    assert other.summary("tsm", "ad").value != own.summary("tsm", "ad").value
    # one pass of the judge on the clean images, however many methods there are
    assert other.frame["judge_passes"].sum() == 20 * (1 + 2)


def test_maps_are_kept(tmp_path):
    evaluate(plan(maps=True, data="shapes:3"), tmp_path / "run")
    kept = np.load(Store(tmp_path / "run").map_path("shapes/1", "tsm"))
    drawn, network = shapes(3, seed=2), load_model("builtin/shapes_cnn")
    x = torch.stack([network.preprocessing(picture(one)) for one in drawn.images])
    made = torchsaliency.explain(network, x, "tsm", drawn.labels.tolist())["tsm"]
    assert np.allclose(kept, made.map[1], atol=2e-3)


def test_time_and_passes_of_each_method(tmp_path):
    few = plan(methods="fakecam,gradcam,scorecam,opticam", metrics="ad", count=4)
    made = evaluate(few, tmp_path / "r")
    cost = made.frame.groupby("method")[["seconds", "passes"]].mean()
    assert cost.loc["gradcam", "passes"] == 1
    assert cost.loc["opticam", "passes"] > 90
    assert cost.loc["scorecam", "passes"] > 20
    assert cost.loc["opticam", "seconds"] > cost.loc["gradcam", "seconds"] > 0
    assert made.references == {"fakecam"}


def test_black_masking_follows_the_judge():
    made = make_setting(plan(masking="black", judge="builtin/shapes_vit"))
    assert made.masking == made.preprocessing.baseline("black")
    assert made.judge_masking == made.judge_preprocessing.baseline("black")


PERMUTED = {"metrics": [{"ssim": {"mode": "labels"}}], "data": "shapes:4?seed=5"}


def test_a_plan_names_the_network_of_permuted_labels(tmp_path):
    named = plan(**PERMUTED, permuted="builtin/shapes_cnn_permuted")
    found = evaluate(named, tmp_path / "named").summary("tsm", "ssim").value
    other = load_model("builtin/shapes_cnn_permuted")
    given = evaluate(plan(**PERMUTED), tmp_path / "given", permuted=other)
    assert given.summary("tsm", "ssim").value == found < 0.9
    torch.nn.init.zeros_(next(other.parameters()))
    with pytest.raises(OptionError, match="weights of permuted"):
        evaluate(plan(**PERMUTED), tmp_path / "given", permuted=other)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (PERMUTED, "ssim has mode=labels, and no network trained on permuted labels was given"),
        ({"permuted": "builtin/shapes_cnn_permuted"}, "no metric compares with it"),
        ({**PERMUTED, "permuted": "builtin/efficientnet_lite0"}, "in another normalisation"),
        ({**PERMUTED, "permuted": "builtin/none"}, "permuted: "),
        ({**PERMUTED, "permuted": "builtin/shapes_cnn"}, "permuted: .* weights of the explained"),
    ],
)
def test_networks_of_permuted_labels_that_do_not_fit(tmp_path, changes, sentence):
    with pytest.raises(TorchSaliencyError, match=sentence):
        evaluate(plan(**changes), tmp_path / "run")


def test_without_normalisation_the_network_sees_zero_to_one(tmp_path):
    seen = []
    network = load_model("builtin/shapes_cnn")
    handle = network.module.register_forward_pre_hook(lambda m, i: seen.append(i[0].clone()))
    evaluate(plan(normalise=False, metrics="ad"), tmp_path / "run", model=network)
    handle.remove()
    together = torch.cat(seen)
    assert together.min() >= 0
    assert together.max() <= 1


@pytest.mark.parametrize("published", [False, True])
def test_the_box_study(tmp_path, published):
    name = "boxes-published" if published else "boxes"
    made = evaluate(plan(metrics=[], study=name, data="shapes:8?seed=5"), tmp_path / "run")
    drawn, network = shapes(8, seed=5), load_model("builtin/shapes_cnn")
    x = torch.stack([network.preprocessing(picture(one)) for one in drawn.images])
    maps = torchsaliency.explain(network, x, "tsm", drawn.labels.tolist())["tsm"].map
    boxes = [torch.as_tensor(one) for one in drawn.boxes]
    variants = box_variants(maps, boxes, published=published)
    study = score_variants(network, x, variants, drawn.labels.tolist())
    for label, metric in study.items():
        found = made.summary("tsm", label).value
        assert found == pytest.approx(float(metric.compute()), rel=1e-4, abs=1e-4)


def test_the_study_of_other_classes(tmp_path):
    network = load_model("builtin/shapes_cnn")
    with torch.no_grad():
        network.module.fc.bias[2] += 6  # sees triangles where there are none
    made = evaluate(
        plan(metrics=[], study="classes", methods="gradcam"), tmp_path / "run", model=network
    )
    drawn = shapes(20, seed=5)
    x = torch.stack([network.preprocessing(picture(one)) for one in drawn.images])

    def explain_classes(classes):
        return torchsaliency.explain(network, x, "gradcam", classes)

    truth = explain_classes(drawn.labels)
    variants = class_variants(truth, explain_classes)["gradcam"]
    study = score_variants(network, x, variants, drawn.labels)
    study |= find_misclassified(study, truth["gradcam"].output, drawn.labels)
    for label, metric in study.items():
        found = made.summary("gradcam", label)
        assert found.value == pytest.approx(float(metric.compute()), rel=1e-4, abs=1e-4)
        assert found.count == metric.summary().count
    assert 0 < made.summary("gradcam", "ad, most, misclassified").count < 20


def test_selectivity_at_power_one_is_the_metric_itself(tmp_path):
    made = evaluate(plan(metrics="ad", study="selectivity"), tmp_path / "run")
    for method in ("gradcam", "tsm"):
        assert made.summary(method, "ad, α = 1").value == pytest.approx(
            made.summary(method, "ad").value, rel=1e-6
        )
        powers = [made.summary(method, f"ad, α = {a}").value for a in ("0.01", "1", "10")]
        assert powers == sorted(powers)  # the less is shown, the more the probability drops


def test_a_study_needs_its_annotations():
    with pytest.raises(OptionError, match=r"study: boxes needs boxes"):
        make_setting(plan(metrics=[], study="boxes", data="samples"))
