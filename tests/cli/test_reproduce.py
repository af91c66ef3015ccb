"""`recipes` and `reproduce`: one recipe of each kind, and everything that it writes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from torchsaliency.cli import reproduce as reproducing
from torchsaliency.errors import OptionError
from torchsaliency.evaluation import load_results
from torchsaliency.papers import plans as planning
from torchsaliency.papers.plans import Reproduction
from torchsaliency.papers.recipes import get_recipe
from torchsaliency.report import Table

QUICK = {
    "opticam-tableA11": 2,  # kind table, with charts
    "tmlr-table2": 6,  # parts, in groups
    "opticam-tableA13": 2,  # parts
    "opticam-table5": 1,  # study: boxes
    "opticam-tableA9": 3,  # study: classes
    "opticam-figA4": 2,  # study: powers
    "opticam-figA5": 1,  # sweep
    "opticam-figA7": 1,  # sanity, with a picture
    "tmlr-table3": 1,  # timing
    "tmlr-fig3": 4,  # variance
}
"""A recipe of each kind that counts, and how many images are enough."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Let iterative methods take a few steps only: what is written is the same."""
    full = planning._add_options

    def few(methods, options):
        return [
            one.model_copy(
                update={
                    "options": {
                        key: min(value, 3) if key in ("iterations", "passes") else value
                        for key, value in {**_SHORT.get(one.name, {}), **one.options}.items()
                    }
                }
            )
            for one in full(methods, options)
        ]

    monkeypatch.setattr(planning, "_add_options", few)


_SHORT = {"opticam": {"iterations": 3}, "extremal-perturbation": {"iterations": 3}}


@pytest.fixture
def reproduce(command):
    def run(name, *words):
        return command("reproduce", name, "--data", "shapes:6", "--workers", 0, *words)

    return run


@pytest.mark.parametrize("name", QUICK)
def test_everything_is_written_and_can_be_read(reproduce, place, name):
    ran = reproduce(name, "--limit", QUICK[name], "--output", "made")
    assert ran.code == 0, ran.err
    folder = place / "made"
    facts = json.loads((folder / "reproduction.json").read_text())
    assert facts["recipe"] == name
    assert "table" in {stem.partition("-")[0] for stem in facts["tables"]}
    for stem, table in facts["tables"].items():
        written = pd.read_csv(folder / f"{stem}.csv")
        assert len(written) == len(table["rows"]) * len(table["columns"])
        assert written["value"].notna().any()
        assert (folder / f"{stem}.txt").read_text() in ran.out
        assert "| --: |" in (folder / f"{stem}.md").read_text()
        assert r"\begin{tabular}" in (folder / f"{stem}.tex").read_text()
        assert "<table" in (folder / f"{stem}.html").read_text()
        for sentence in facts["differs"]:
            assert sentence in table["notes"]
    for stem in facts["figures"]:
        with Image.open(folder / f"{stem}.png") as drawn:
            assert min(drawn.size) > 200
        ElementTree.parse(folder / f"{stem}.svg")
    for page in facts["pages"]:
        with Image.open(folder / page) as drawn:
            drawn.load()
    assert f"Tables, figures and rows are in {Path('made')}/" in ran.out
    assert f"At most {QUICK[name]} image" in ran.out
    verdicts = {True: "holds", False: "does not hold", None: "cannot be told"}
    for claim in facts["claims"]:
        assert f"{claim['says']}: {verdicts[claim['holds']]} here" in ran.out


def test_all_recipes_become_one_table_of_claims(command, place, monkeypatch):
    """Three of them: one with claims, one with pictures alone, one that cannot be made here."""
    names = ("tmlr-fig7", "tmlr-fig8", "tmlr-table2")
    recipes = {name: get_recipe(name) for name in names}
    monkeypatch.setattr("torchsaliency.papers.reproduce.load_recipes", lambda: recipes)

    def plan(self, folder, watch):
        if self.recipe.name == "tmlr-table2":
            raise OptionError("There is no such data.")
        return made(self, folder, watch)

    made = planning.Planner.plan
    monkeypatch.setattr(planning.Planner, "plan", plan)
    ran = command("reproduce", "all", "--limit", 2, "--workers", 0, "--output", "made")
    assert ran.code == 0, ran.err
    rows = pd.read_csv(place / "made" / "claims.csv")
    says = [f"tmlr-fig7: {claim.says}" for claim in recipes["tmlr-fig7"].claims]
    assert says
    assert set(says) <= set(rows["recipe: claim"])
    assert "tmlr-table2 was not made: There is no such data." in ran.out
    assert "without claims about numbers: tmlr-fig8" in ran.out
    assert {path.name for path in (place / "made").iterdir()} >= {"tmlr-fig7", "claims.md"}
    again = command("reproduce", "all", "--data", "shapes:6")
    assert again.code == 2
    assert "name one recipe" in again.err


def test_a_second_run_goes_on_from_the_first(reproduce, place):
    words = ("tmlr-fig7", "--limit", 3, "--output", "made")
    first = reproduce(*words)
    part = next(path for path in (place / "made").iterdir() if path.is_dir())
    before = load_results(part).frame
    again = reproduce(*words)
    assert again.out == first.out
    pd.testing.assert_frame_equal(load_results(part).frame, before)


def test_csv_and_json_are_all_that_is_on_stdout(reproduce):
    ran = reproduce("tmlr-fig7", "--limit", 3, "--format", "csv")
    assert list(pd.read_csv(io.StringIO(ran.out))["column"].unique()) == ["mIoU"]
    assert reproduce("tmlr-fig7", "--limit", 3, "--format", "json").json["rows"]


def test_several_tables_are_one_csv_and_one_json(capsys):
    found = Reproduction(get_recipe("opticam-tableA7"), (), Path())
    for name, value in (("table-ResNet50", 1.0), ("table-VGG16", 3.0)):
        values = {"gradcam": value, "tsm": 2.0}
        cells = [{"row": row, "column": "AD", "value": number} for row, number in values.items()]
        found.tables[name] = Table.of(cells)
    reproducing.print_reproduction(found, "csv")
    written = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert written.groupby("table")["value"].sum().to_dict() == {
        "table-ResNet50": 3.0,
        "table-VGG16": 5.0,
    }
    reproducing.print_reproduction(found, "json")
    assert json.loads(capsys.readouterr().out).keys() == found.tables.keys()


def test_published_numbers_stand_beside_and_say_whose_they_are(reproduce, place):
    ran = reproduce("opticam-tableA13", "--limit", 1, "--model", "builtin/shapes_cnn")
    assert "(92.5)" in ran.out  # of block5, the layer that corresponds to layer 42
    assert "(78.0)" not in ran.out
    ran = reproduce("tmlr-table2", "--limit", 2, "--output", "made")
    assert "(28.82)" in ran.out
    assert "are those of MoCo v2." in ran.out
    cells = pd.read_csv(place / "made" / "table.csv")
    values = cells.pivot_table(index="group", columns="column", values="value")
    for says, metric, sign in (
        ("TSM drops less than EigenCAM", "AD", -1),
        ("TSM increases more often than EigenCAM", "AI", 1),
        ("TSM moves the embedding less than EigenCAM", "MSE", -1),
    ):
        better = sign * values.loc["tsm", metric] > sign * values.loc["eigencam", metric]
        assert f"{says}: {'holds' if better else 'does not hold'} here (2 images).\n" in ran.out


def test_masking_and_network_are_told(reproduce):
    ran = reproduce("tmlr-table1", "--limit", 1, "--masking", "black")
    assert "What is hidden becomes black." in ran.out
    assert "Here: builtin/shapes_cnn on shapes:6." in ran.out


def test_maps_are_compared_with_those_of_permuted_labels(reproduce, place):
    ran = reproduce("opticam-appendixG", "--limit", 1, "--output", "made")
    assert "(0.013)" in ran.out
    assert (place / "made" / "maps.png").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["opticam-tabel1"], "no recipe 'opticam-tabel1'; close names are opticam-table1"),
        (["opticam-table1", "--format", "pdf"], "no format 'pdf'; known are csv"),
        (["opticam-table1", "--data", "nowhere"], "nowhere does not exist"),
        (["opticam-table2", "--data", "samples"], "knows drawn shapes and no photographs"),
        (["opticam-table5", "--data", "samples"], "study: boxes needs boxes of the objects"),
        (["opticam-table1", "--model", "builtin/nonesuch"], "nonesuch"),
        (["opticam-appendixG", "--model", "builtin/shapes_vit"], "give it by --permuted"),
        (["opticam-appendixG", "--permuted", "builtin/shapes_cnn"], "weights of the explained one"),
        (["opticam-table6", "--permuted", "builtin/shapes_cnn"], "no metric compares with it"),
        (["all", "--permuted", "builtin/shapes_cnn"], "name one recipe to give it its own"),
    ],
)
def test_mistakes_are_told_in_a_sentence(command, words, sentence):
    ran = command("reproduce", *words)
    assert ran.code == 2
    assert sentence in ran.err
    assert ran.err.strip().count("\n") == 0
    assert ran.out == ""


def test_medical_recipes_tell_what_to_do_first(command, place):
    (place / "kvasir").mkdir()
    ran = command("reproduce", "opticam-tableA10", "--data", "kvasir:kvasir")
    assert ran.code == 2
    assert "torchsaliency finetune --data kvasir:kvasir --arch resnet50" in ran.err


def test_the_list_of_recipes(command):
    rows = command("recipes", "--json").json
    assert [row["name"] for row in rows][:3] == [f"opticam-table{n}" for n in (1, 2, 3)]
    assert all(row["title"] and row["builtin"] for row in rows)
    shown = command("recipes").out
    assert "opticam-table1" in shown
    assert "tmlr-fig7" in shown
