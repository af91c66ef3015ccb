"""Recipes: each is whole, its plans work, and what the paper printed has a place in its table."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from torchsaliency.core.method import methods
from torchsaliency.errors import OptionError
from torchsaliency.evaluation.studies import study_metrics
from torchsaliency.papers.claims import _is_best
from torchsaliency.papers.plans import Planner, Reproduction, read_methods, slug
from torchsaliency.papers.recipes import Recipe, get_recipe, load_recipes
from torchsaliency.papers.reproduce import MAKERS, reproduce

TABLES = [
    *(f"opticam-table{number}" for number in (1, 2, 3, 4, 5, "5-published", 6)),
    *(f"opticam-tableA{number}" for number in (7, 8, 9, 10, 11, 12, 13, 14)),
    *(f"opticam-figA{number}" for number in (4, 5, 6, 7)),
    "opticam-appendixG",
    *(f"tmlr-table{number}" for number in (1, 2, 3)),
    *(f"tmlr-fig{number}" for number in (2, 3, 7)),
]
"""Every table and every figure with numbers of both papers."""

KINDS = ("imagenet", "voc", "chest-xray", "kvasir")
FINETUNED = ("torchvision/resnet50=r.pt", "torchvision/vgg16_bn=v.pt")


def kinds(one: Recipe) -> set[str]:
    version = one.paper_version
    return {part.get("data", version.data) for part in version.parts.values()}


def plan_of(one: Recipe, data=(), models=(), limit=None, **changes) -> Reproduction:
    return Planner(one, tuple(data), tuple(models), limit, changes).plan(Path("made"))


@cache
def at_home(name: str) -> Reproduction:
    return plan_of(get_recipe(name))


@cache
def of_the_paper(name: str) -> Reproduction:
    one = get_recipe(name)
    data = [f"{kind}:folder" for kind in KINDS if kind in kinds(one)]
    return plan_of(one, data, FINETUNED if "kvasir" in kinds(one) else ())


def labels(job: Reproduction) -> tuple[set[str], set[str]]:
    """Return the methods and the metrics of all parts."""
    plans = [part.plan for part in job.experiments]
    named = {label for plan in plans for label in plan.create_methods()}
    counted = {
        label for plan in plans for label in (*plan.create_metrics(), *study_metrics(plan.study))
    }
    return named, counted


def test_every_kind_has_a_maker():
    assert {one.kind for one in load_recipes().values()} == set(MAKERS)


def test_every_table_and_figure_has_a_recipe():
    assert set(TABLES) <= load_recipes().keys()
    assert [name for name in load_recipes() if name in TABLES] == TABLES  # the papers' order


@pytest.mark.parametrize("name", TABLES)
def test_both_versions_can_be_planned(name):
    one = get_recipe(name)
    home, away = at_home(name), of_the_paper(name)
    assert len(home.experiments) == len(one.builtin.parts)
    assert len(away.experiments) == len(one.paper_version.parts)
    assert kinds(one) <= set(KINDS)
    assert {part.plan.data.partition(":")[0] for part in away.experiments} == kinds(one)
    assert all(part.plan.data.startswith(("samples", "shapes")) for part in home.experiments)
    assert all(part.plan.model.startswith("builtin/") for part in home.experiments)
    # the paper's own settings are never made cheaper
    assert one.paper_version.options == {}
    assert set(one.builtin.options) <= labels(home)[0]
    assert {choice.label for choice in read_methods(one.plan["methods"])} == labels(home)[
        0
    ] or name == "tmlr-table3"
    folders = [part.folder for part in (*home.experiments, *away.experiments)]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("name", TABLES)
def test_published_numbers_have_a_place(name):
    one = get_recipe(name)
    away = of_the_paper(name)
    rows = {part.row for part in away.experiments} | {part.label for part in away.experiments}
    assert set(one.published) <= rows
    for part in away.experiments:
        named, counted = labels(Reproduction(one, (part,), Path()))
        counted |= {"T"}
        if one.options.get("groups") == "methods":  # a row has the metrics of several parts
            counted |= labels(away)[1]
        assert part.published_label in (part.label, part.row, "")
        for row, numbers in part.published.items():
            assert row in named or row.startswith("S := "), row
            assert set(numbers) <= counted, row
    home = at_home(name)
    assert {part.published_label for part in home.experiments} <= {*one.published, ""}
    if one.published:
        assert any(part.published for part in home.experiments)


@pytest.mark.parametrize("name", TABLES)
def test_claims_are_about_what_is_there(name):
    one = get_recipe(name)
    for job in (at_home(name), of_the_paper(name)):
        named, counted = labels(job)
        for claim in one.claims:
            assert {claim.method, claim.other or claim.method} <= named, claim.says
            assert {claim.metric, claim.than or claim.metric} <= counted, claim.says
            assert claim.kind != "before" or claim.other or claim.than, claim.says


@pytest.mark.parametrize("name", TABLES)
def test_the_printed_numbers_bear_the_claims_out(name):
    """A claim that even the paper's own table contradicts must be told as such in a note."""
    one = get_recipe(name)
    lower = {"AD", "MSE", "MS", "OM", "LE", "SM", "D"}
    for claim in one.claims:
        found = []
        for rows in one.published.values():
            own = rows.get(claim.method, {}).get(claim.metric)
            if own is None:
                continue
            rivals = [
                row[claim.metric]
                for label, row in rows.items()
                if claim.metric in row and label not in ("fakecam", claim.method)
            ]
            if claim.kind == "before":
                rivals = [rows[claim.other or claim.method][claim.than or claim.metric]]
            down = claim.metric in lower or claim.metric.startswith("ad,")
            if claim.kind == "below":
                found.append(own < claim.value)
            else:
                found.append(all(own <= one if down else own >= one for one in rivals))
        contradicted = not all(found)
        told = any("printed numbers" in note or "own numbers" in note for note in one.notes)
        assert not contradicted or told, claim.says


@pytest.mark.parametrize("name", TABLES)
def test_words_are_sentences(name):
    one = get_recipe(name)
    assert one.builtin.summary.startswith("Here: ")
    for sentence in (one.builtin.summary, *one.notes, *one.builtin.notes):
        assert sentence.endswith("."), sentence
        assert sentence[0].isupper() or sentence[0] in "`m", sentence
    assert not one.paper_version.summary.endswith(".")
    assert not one.title.endswith(".")
    assert "masking" not in one.plan or one.plan["masking"] == "black"
    assert (one.plan.get("masking") == "black") == (one.paper == "Opti-CAM")


@pytest.mark.parametrize("name", TABLES)
def test_shapes_serve_every_recipe(name):
    job = plan_of(get_recipe(name), ["shapes:6"], limit=3)
    assert {part.plan.data for part in job.experiments} == {"shapes:6"}
    assert all(part.plan.model.startswith("builtin/shapes") for part in job.experiments)
    assert all(part.plan.count in (2, 3) for part in job.experiments)
    said = " ".join(job.differs)
    assert "on shapes:6." in said
    assert "At most 3 images." in said
    assert "photograph" not in said.replace(get_recipe(name).paper_version.summary, "")


@pytest.mark.parametrize("name", TABLES)
def test_another_network_serves_every_recipe(name):
    one = get_recipe(name)
    model = "builtin/shapes_ssl" if "ssl/" in str(one.paper_version.parts) else "builtin/shapes_cnn"
    job = plan_of(one, ["shapes:6"], [model])
    assert {part.plan.model for part in job.experiments} == {model}
    assert one.options.get("corner") != "layer" or [part.label for part in job.experiments] == [
        f"block{number}" for number in (5, 4, 3, 2, 1)
    ]
    if name == "opticam-table3":
        (part,) = job.experiments
        assert not {"tibav", "raw-attention"} & part.plan.create_methods().keys()


# --- what is asked for, and what becomes of it ---------------------------------------------------


def test_a_network_of_the_paper_keeps_its_numbers_and_layers():
    (part,) = plan_of(get_recipe("opticam-table1"), models=["torchvision/resnet50"]).experiments
    assert (part.label, part.published_label, part.plan.data) == ("ResNet50", "ResNet50", "samples")
    assert part.published["opticam"]["AD"] == 1.5
    layers = plan_of(get_recipe("opticam-tableA13"), models=["torchvision/vgg16_bn"]).experiments
    assert [part.label for part in layers][:2] == ["42", "36"]
    assert layers[1].plan.layers == ("features.36",)
    (other,) = plan_of(get_recipe("opticam-table1"), models=["torchvision/resnet18"]).experiments
    assert (other.label, other.published_label) == ("torchvision/resnet18", "ResNet50")
    (known,) = plan_of(
        get_recipe("opticam-table3"), models=["timm/vit_base_patch16_224"]
    ).experiments
    assert "tibav" in known.plan.create_methods()


def test_two_kinds_of_data_go_where_they_belong():
    one = get_recipe("tmlr-table2")
    both = plan_of(one, ["voc:v", "imagenet:i"])
    assert {part.plan.data for part in both.experiments if part.piece == "masks"} == {"voc:v"}
    assert {part.plan.data for part in both.experiments if part.piece == "photographs"} == {
        "imagenet:i"
    }
    assert not any("left out" in said for said in both.differs)
    single = plan_of(one, ["imagenet:i"])
    assert {part.piece for part in single.experiments} == {"photographs"}
    assert "MoCo v2 / masks is left out, for no voc data was given." in single.differs
    unannotated = plan_of(one, ["samples"], ["encoder/builtin/efficientnet_lite0"])
    assert {part.piece for part in unannotated.experiments} == {"photographs"}
    assert any("samples has no masks of the objects" in said for said in unannotated.differs)
    with pytest.raises(OptionError, match="--data imagenet:i and --data imagenet:j"):
        plan_of(one, ["imagenet:i", "imagenet:j"])
    with pytest.raises(OptionError, match="--data shapes:6 and --data samples"):
        plan_of(one, ["shapes:6", "samples"])


def test_parts_of_the_same_data_are_one_named_after_it(tmp_path):
    folder = tmp_path / "mine" / "cats"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    one, given = get_recipe("opticam-fig2"), str(tmp_path / "mine")
    for models, row in (((), "VGG16"), (["net.py:make"], "net.py:make")):
        made = plan_of(one, [given], models)
        (part,) = made.experiments
        assert (part.label, part.plan.data) == (f"{row} / mine", given)
        assert part.plan.target is None
        assert f"{row} / mine stands for {row} / ImageNet, {row} / Chest X-ray" in made.differs[-1]
    (part,) = plan_of(one, models=["torchvision/vgg16_bn"]).experiments
    assert part.label == "VGG16 / samples"
    (part,) = plan_of(one, ["kvasir:k"], ["net.py:make"]).experiments
    assert part.label == "net.py:make / Kvasir"


@pytest.mark.parametrize(
    ("leads", "best"),
    [([1.0, 2.0], True), ([0.0, 2.0], True), ([-1.0, 1.0], False), ([0.0, 0.0], None), ([], None)],
)
def test_nobody_is_best_where_all_tie(leads, best):
    assert _is_best(leads) is best


@pytest.mark.parametrize("name", ["opticam-tableA7", "opticam-tableA8"])
def test_both_boxes_are_shown(name):
    metrics = {one.label: one.options for one in at_home(name).experiments[0].plan.metrics}
    for metric in ("OM", "LE", "SM"):
        assert metrics[metric] == {}
        assert metrics[f"{metric}, short box"] == {"short": True}


def test_medical_recipes_want_finetuned_networks():
    one = get_recipe("opticam-tableA10")
    with pytest.raises(
        OptionError, match=r"torchsaliency finetune --data kvasir:k --arch resnet50"
    ):
        plan_of(one, ["kvasir:k"])
    job = plan_of(one, ["kvasir:k"], FINETUNED)
    assert [part.label for part in job.experiments] == ["ResNet50 / Kvasir", "VGG16 / Kvasir"]
    assert [str(part.plan.weights) for part in job.experiments] == ["r.pt", "v.pt"]
    assert job.experiments[0].published["opticam"]["AG"] == 91.1
    assert sum("left out" in said for said in job.differs) == 2
    own = plan_of(one, ["kvasir:k"], ["net.py:factory"]).experiments
    assert [(part.label, part.plan.weights) for part in own] == [("net.py:factory / Kvasir", None)]


def test_photographs_are_not_shown_to_a_network_of_shapes():
    (part,) = plan_of(get_recipe("opticam-table6"), ["samples"]).experiments
    assert part.plan.model == "builtin/efficientnet_lite0"
    with pytest.raises(OptionError, match=r"builtin/shapes_vit, which knows drawn shapes"):
        plan_of(get_recipe("opticam-table2"), ["samples"])


def test_masking_may_be_changed():
    job = plan_of(get_recipe("opticam-table1"), masking="mean")
    assert job.experiments[0].plan.masking == "mean"
    assert "What is hidden becomes mean." in job.differs


def test_the_paper_settings_that_matter():
    def plan(name, part=0):
        return of_the_paper(name).experiments[part].plan

    assert plan("opticam-tableA14").normalise is False
    assert plan("opticam-tableA7").fit == "fill"
    assert plan("tmlr-table1").fit == "squash"
    assert {one.options["iterations"] for one in plan("opticam-tableA12").methods[-4:]} == {50}
    assert plan("opticam-table5").study == "boxes"
    assert plan("opticam-table5-published").study == "boxes-published"
    assert plan("opticam-table6").count == 1000
    assert plan("tmlr-table1", 2).layers == ("features",)
    assert plan("opticam-table3").target == "predicted"
    assert plan("opticam-table1").create_methods()["extremal-perturbation"].iterations == 800
    assert plan("tmlr-table2", 8).judge == "torchvision/convnext_small"


def test_an_unknown_recipe_lists_near_ones(tmp_path):
    with pytest.raises(
        OptionError, match=r"no recipe 'opticam-tabel1'; close names are opticam-table1"
    ):
        reproduce("opticam-tabel1", tmp_path)


def test_methods_of_recipes_are_spelt_as_registered():
    used = {one.name for name in TABLES for one in of_the_paper(name).experiments[0].plan.methods}
    assert used <= set(methods())


def test_labels_become_names_of_files():
    assert slug("MoCo v2 / masks") == "MoCo-v2-masks"
    assert slug("builtin/shapes_cnn") == "builtin-shapes_cnn"
    assert re.fullmatch(r"[\w.-]+", slug("torchvision/resnet50.imagenet1k_v1, α = 2"))
