"""Recipes that show: grids with the right maps, numbers and names, and the survey's images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import torchsaliency
import trees
from torchsaliency.cli.main import app
from torchsaliency.core.method import create
from torchsaliency.data import Picture, Sample, open_data
from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation.callbacks import Progress
from torchsaliency.evaluation.scoring import MetricValues, score_metrics
from torchsaliency.evaluation.setting import make_setting
from torchsaliency.metrics.segmentation import iou_at
from torchsaliency.papers import pictures
from torchsaliency.papers.plans import Planner, Reproduction
from torchsaliency.papers.recipes import get_recipe, load_recipes
from torchsaliency.papers.reproduce import reproduce
from torchsaliency.papers.survey import KEY, PAGE, read_key
from torchsaliency.viz import Row
from torchsaliency.zoo import load_model
from torchsaliency.zoo.placement import Placement

NUMBERS = (4, 5, 6, *range(8, 21))
GRIDS = ["opticam-fig2", "opticam-fig3", *(f"tmlr-fig{number}" for number in NUMBERS)]
ENCODERS = {
    "SwAV": (5, 6, 12, 20),
    "VICRegL ResNet50": (8, 16),
    "VICRegL ConvNeXt": (9, 17),
    "Barlow Twins": (10, 18),
    "MoCo v2": (11, 19),
}


def plan(name, folder, *, data="", models=(), limit=None, **changes) -> Reproduction:
    sources = (data,) if data else ()
    return Planner(get_recipe(name), sources, tuple(models), limit, changes).plan(folder)


def rows(name, folder, **asked) -> list[Row]:
    """Return what a grid recipe draws of its first part."""
    made = plan(name, folder, **asked)
    setting = make_setting(made.experiments[0].plan)
    shown = made.options.get("show", ("map",))
    explained = pictures._explain(made, setting)
    return [
        row
        for batch, benches in explained
        for row in pictures._rows(
            setting,
            batch,
            benches,
            {label: score_metrics(setting, bench) for label, bench in benches.items()},
            shown,
        )
    ]


@pytest.fixture
def drawn(monkeypatch) -> list[list[Row]]:
    """Collect the rows of every grid."""
    found: list[list[Row]] = []
    draw: Callable[..., Image.Image] = pictures.grid

    def collect(given, **options):
        found.append(list(given))
        return draw(given, **options)

    monkeypatch.setattr(pictures, "grid", collect)
    return found


# --- recipes -------------------------------------------------------------------------------------


def test_every_qualitative_figure_has_a_recipe():
    assert [name for name, one in load_recipes().items() if one.kind == "grid"] == GRIDS


@pytest.mark.parametrize("name", [*GRIDS, "opticam-appendixD"])
def test_plans_of_both_versions_work(name, tmp_path):
    away = f"imagenet:{tmp_path}" if name == "opticam-fig2" else str(tmp_path)
    for data in (None, away):
        made = plan(name, tmp_path / "out", data=data)
        assert len(made.experiments) == (2 if name == "opticam-appendixD" else 1)
        assert all(part.plan.create_methods() for part in made.experiments)
        assert all(part.plan.count or data is None for part in made.experiments)


@pytest.mark.parametrize("net", ENCODERS)
def test_figures_show_the_networks_of_their_captions(net):
    for number in ENCODERS[net]:
        (label,) = get_recipe(f"tmlr-fig{number}").paper_version.parts
        assert label == net


def test_masks_belong_to_figures_of_pascal_voc():
    for number in NUMBERS:
        one = get_recipe(f"tmlr-fig{number}")
        masked = number == 6 or number >= 16
        assert (one.paper_version.data == "voc") == masked
        assert ("cut" in one.options.get("show", ())) == masked


def test_the_paper_s_medical_images_want_fine_tuned_networks(tmp_path):
    data = ["imagenet:i", "chest-xray:c", "kvasir:k"]
    with pytest.raises(OptionError, match="fine-tuned"):
        Planner(get_recipe("opticam-fig2"), tuple(data)).plan(tmp_path)
    made = Planner(get_recipe("opticam-fig2"), tuple(data), ("torchvision/vgg16_bn=v.pt",)).plan(
        tmp_path
    )
    assert [part.label for part in made.experiments] == [
        f"VGG16 / {kind}" for kind in ("ImageNet", "Chest X-ray", "Kvasir")
    ]
    assert [part.plan.count for part in made.experiments] == [2, 1, 1]


def test_misses_are_summed_over_the_paper_s_conditions():
    wanted = get_recipe("opticam-fig3").options["where"]
    numbers = {  # the first image meets all four, the second misses two, the third is undefined
        "scorecam": {"I": [95, 80, float("nan")], "D": [5, 12.5, 5]},
        "opticam": {"I": [60, 60, 60], "D": [20, 20, 20]},
    }
    scored = {
        method: [
            MetricValues(label, values := torch.tensor(found).double(), values[:, None])
            for label, found in metrics.items()
        ]
        for method, metrics in numbers.items()
    }
    assert pictures._sum_misses(scored, wanted) == [0, 12.5, float("inf")]


def test_images_that_miss_least_come_first(tmp_path, drawn):
    found = reproduce("opticam-fig3", tmp_path, limit=4, changes={"chunk": 32})
    ((*sheet,),) = drawn
    said = [row.photo.subtitle.rpartition("\n")[2] for row in sheet]
    misses = [0.0 if words == "meets the conditions" else float(words.split()[2]) for words in said]
    assert len(sheet) == 4
    assert misses == sorted(misses)
    assert found.pages == [tmp_path / "figure.png"]


# --- grids ---------------------------------------------------------------------------------------


def test_a_grid_is_one_picture_without_tables(tmp_path):
    seen = []
    found = reproduce("tmlr-fig5", tmp_path, limit=2, watch=seen.append)
    assert not found.tables
    assert not found.figures
    assert found.pages == [tmp_path / "figure.png"]
    with Image.open(found.pages[0]) as picture:
        assert picture.mode == "RGB"
        assert picture.width == 2 * 28 + 6 * 256 + 5 * 18
    facts = json.loads((tmp_path / "reproduction.json").read_text())
    assert facts["pages"] == ["figure.png"]
    assert facts["tables"] == {}
    assert (seen[-1].done, seen[-1].total) == (2, 2)


def test_a_picture_that_would_be_the_same_is_kept(tmp_path, drawn):
    seen = []

    def make(folder=tmp_path, limit=1, **changes) -> int:
        """Return how many grids are drawn."""
        before = len(drawn)
        asked = {"limit": limit, "changes": {"methods": ["tsm"], **changes}}
        found = reproduce("tmlr-fig5", folder, watch=seen.append, **asked)
        assert [path.name for path in found.pages] == ["figure.png"]
        return len(drawn) - before

    figure = tmp_path / "figure.png"
    assert make() == 1
    content, written = figure.read_bytes(), figure.stat().st_mtime_ns
    assert make(batch_size=3) == 0  # how it runs, and not what it finds
    assert figure.stat().st_mtime_ns == written
    assert seen[-1] == Progress(0, 0, before=1)
    assert make(methods=["mtsm"]) == 1
    assert make(methods=["mtsm"]) == 0
    assert make() == 1
    assert figure.read_bytes() == content
    assert make(limit=2) == 1
    figure.unlink()
    assert make(limit=2) == 1
    copied = tmp_path.with_name("copied")  # without the private record
    shutil.copytree(tmp_path, copied)
    assert make(copied, limit=2) == 0


def test_a_picture_of_another_version_of_the_recipe_is_drawn_anew(tmp_path, drawn, monkeypatch):
    one = get_recipe("tmlr-fig5")
    for title, count in ((one.title, 1), (one.title, 1), ("Another title", 2)):
        made = one.model_copy(update={"title": title})
        monkeypatch.setattr("torchsaliency.papers.reproduce.get_recipe", lambda _, made=made: made)
        reproduce("tmlr-fig5", tmp_path, limit=1, changes={"methods": ["tsm"]})
        assert len(drawn) == count


def test_pictures_survive_a_kill_and_none_is_kept_that_lacks_images(tmp_path, drawn, monkeypatch):
    folder = tmp_path / "data" / "circle"
    folder.mkdir(parents=True)
    for number in range(2):
        open_data("shapes:2").picture(number).image.save(folder / f"{number}.png")
    asked = {"data": str(tmp_path / "data"), "changes": {"methods": ["tsm"]}}
    asked |= {"models": ["builtin/shapes_ssl"]}

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("torchsaliency.papers.reproduce._write", fail)
        with pytest.raises(KeyboardInterrupt):
            reproduce("tmlr-fig8", tmp_path / "out", **asked)
    reproduce("tmlr-fig8", tmp_path / "out", **asked)
    assert len(drawn) == 1
    (folder / "1.png").write_bytes(b"no picture")
    for _ in range(2):
        reproduce("tmlr-fig8", tmp_path / "other", **asked)
    assert len(drawn) == 3


def test_a_grid_for_every_network(tmp_path, drawn):
    nets = ["builtin/shapes_cnn", "builtin/shapes_ssl"]
    found = reproduce("tmlr-fig8", tmp_path, models=nets, limit=1, changes={"methods": ["tsm"]})
    assert [path.name for path in found.pages] == [
        "figure-builtin-shapes_cnn.png",
        "figure-builtin-shapes_ssl.png",
    ]
    classifier, encoder = (sheet[0].photo.subtitle for sheet in drawn)
    assert classifier.endswith(f"%\n{encoder}")
    assert encoder.startswith("shapes/")


def test_classes_and_probabilities_are_the_networks(tmp_path):
    (row,) = rows(
        "tmlr-fig4", tmp_path, data="shapes:1", methods=["gradcam", "tsm"], target="label"
    )
    network = load_model("builtin/shapes_cnn")
    picture = open_data("shapes:1").picture(0)
    logits = network(network.preprocessing(picture.image)[None])[0].detach()
    label = picture.sample.label
    share = float(logits.softmax(0)[label])
    assert row.photo.subtitle == f"{network.class_name(label)}  {share:.1%}\nshapes/0"
    assert [panel.title for panel in row.overlays] == ["gradcam", "tsm"]
    assert all(panel.subtitle.startswith("AD ") for panel in row.overlays)


def test_numbers_are_those_of_the_metric(tmp_path):
    made = rows("tmlr-fig6", tmp_path, limit=2)
    network = load_model("builtin/shapes_ssl")
    data = open_data("shapes:6").subset(count=2)
    for place, row in enumerate(made):
        picture = data.picture(place)
        x = network.preprocessing(picture.image)[None]
        mask = network.preprocessing.mask(picture.mask)[None]
        titles = [panel.title for panel in row.overlays]
        assert titles[:3] == ["ground truth", "eigencam", "eigencam ≥ 0.5"]
        methods = {
            "eigencam": create("eigencam", {"sign": "raw"}),
            "eigencam, upright": create("eigencam"),
            "tsm": create("tsm"),
            "multivec-eigencam": create("multivec-eigencam"),
            "mtsm": create("mtsm"),
        }
        for label, made in torchsaliency.explain(network, x, methods).items():
            panel = next(one for one in row.overlays if one.title == f"{label} ≥ 0.5")
            assert panel.subtitle == f"IoU {float(iou_at(made.map, mask)):.1f} %"
            plain = next(one for one in row.overlays if one.title == label)
            assert plain.subtitle == ""


def test_maps_without_evidence_are_said_to_be(tmp_path):
    made = plan("tmlr-fig4", tmp_path, data="shapes:1", methods=["gradcam"], target=0)
    setting = make_setting(made.experiments[0].plan)
    setting.network.module.fc.weight.data.zero_()
    ((batch, benches),) = pictures._explain(made, setting)
    scored = {label: score_metrics(setting, bench) for label, bench in benches.items()}
    (row,) = pictures._rows(setting, batch, benches, scored, ("map",))
    assert row.overlays[0].subtitle == "no positive evidence"


def test_segmentations_are_cut_out_of_the_photograph():
    photo = Image.new("RGB", (4, 4), (200, 40, 0))
    inside = torch.tensor([[True, False], [False, True]])
    void = torch.tensor([[False, True], [False, False]])
    found = pictures._cut(photo, inside, void)
    assert found.getpixel((0, 0)) == found.getpixel((3, 3)) == (200, 40, 0)
    assert found.getpixel((3, 0)) == (128, 128, 128)
    assert min(found.getpixel((0, 3))) > 210


def test_unreadable_images_are_left_out(tmp_path):
    folder = tmp_path / "data" / "circle"
    folder.mkdir(parents=True)
    (folder / "broken.png").write_bytes(b"no picture")
    asked = {"data": str(tmp_path / "data"), "models": ["builtin/shapes_ssl"]}
    with pytest.raises(DataError, match="None of the 1 images of builtin/shapes_ssl can be used"):
        reproduce("tmlr-fig5", tmp_path / "out", **asked)
    open_data("shapes:1").picture(0).image.save(folder / "good.png")
    reproduce("tmlr-fig5", tmp_path / "out", **asked)


def test_masks_are_needed_where_they_are_shown(tmp_path):
    (tmp_path / "circle").mkdir()
    open_data("shapes:1").picture(0).image.save(tmp_path / "circle" / "good.png")
    with pytest.raises(
        OptionError, match=r"needs masks of the objects, and the data .* has labels"
    ):
        reproduce("tmlr-fig16", tmp_path, data=str(tmp_path), models=["builtin/shapes_ssl"])


def test_pascal_voc(tmp_path, drawn):
    """Its objects, and the void pixels around them in grey."""
    trees.voc(tmp_path / "data")
    asked = {"data": str(tmp_path / "data"), "models": ["builtin/shapes_ssl"]}
    reproduce("tmlr-fig16", tmp_path / "out", **asked)
    truths = [row.overlays[0] for row in drawn[0]]
    assert {one.title for one in truths} == {"ground truth"}
    for one in truths:
        colours = [colour for _, colour in one.image.getcolors(256 * 256)]
        assert (128, 128, 128) in colours


# --- the survey ----------------------------------------------------------------------------------


def test_survey_of_images_that_both_classify_correctly(tmp_path):
    changes = {"methods": ["gradcam"], "batch_size": 4}
    found = reproduce("opticam-appendixD", tmp_path, limit=5, changes=changes)
    assert found.pages == [tmp_path / PAGE, tmp_path / KEY]
    key = read_key(tmp_path / KEY)
    assert key.method == "gradcam"
    assert key.networks == ("Shapes CNN", "Shapes ViT")
    assert len(key.items) == 5
    assert not key.published
    assert any("drawn shapes" in one for one in key.notes)
    data = open_data("shapes:200")
    for net in ("builtin/shapes_cnn", "builtin/shapes_vit"):
        network = load_model(net)
        for item in key.items:
            picture = data.picture(int(item.sample.partition("/")[2]))
            logits = network(network.preprocessing(picture.image)[None])
            assert int(logits.argmax()) == picture.sample.label
    told = (tmp_path / PAGE).read_text(encoding="utf-8").partition("<script>")[2]
    assert "shapes" not in told.lower()
    before = [path.stat().st_mtime_ns for path in found.pages]
    kept = reproduce("opticam-appendixD", tmp_path, limit=5, changes=changes)
    assert [path.stat().st_mtime_ns for path in kept.pages] == before


def test_the_paper_s_numbers_go_into_the_key(tmp_path):
    one = get_recipe("opticam-appendixD")
    assert one.published["VGG16"]["opticam"]["preferred"] == 58.15
    made = plan("opticam-appendixD", tmp_path, limit=1)
    for label, part in zip(one.paper_version.parts, made.experiments, strict=True):
        object.__setattr__(part, "label", label)
    pictures.make_survey_page(made)
    assert read_key(tmp_path / KEY).published == {"VGG16": 58.15, "ResNet50": 41.85}


def test_a_survey_that_is_shorter_than_asked_for_says_so(tmp_path):
    nets = {"models": ["builtin/shapes_cnn", "builtin/shapes_vit"]}
    changes = {"methods": ["gradcam"], "keep": "all"}
    reproduce("opticam-appendixD", tmp_path, data="shapes:3", changes=changes, **nets)
    key = read_key(tmp_path / KEY)
    assert len(key.items) == 3
    assert key.notes[-1] == "20 photographs were requested, and 3 can be used."


def test_commands_say_what_they_made(tmp_path):
    def run(*words):
        done = CliRunner().invoke(app, ["reproduce", *words, "--output", str(tmp_path / "out")])
        assert done.exit_code == 0
        return done.stdout

    said = run("tmlr-fig16", "--limit", "1")
    assert "TMLR, Figure 16" in said
    assert "erratum T4" in said
    assert f"Look at {tmp_path / 'out' / 'figure.png'}.\n" in said
    said = run("opticam-appendixD", "--limit", "1")
    assert "1 photograph is in the survey. Send" in said
    assert f"torchsaliency survey-score {tmp_path / 'out' / KEY}" in said


def test_survey_of_misclassified_images(tmp_path):
    net = {"models": ["builtin/shapes_cnn", "builtin/shapes_vit"]}
    changes = {"methods": ["gradcam"], "keep": "misclassified"}
    with pytest.raises(DataError, match="None of the 4 images is misclassified by both networks"):
        reproduce("opticam-appendixD", tmp_path, data="shapes:4", changes=changes, **net)


def test_surveys_need_two_networks_and_one_method(tmp_path):
    with pytest.raises(OptionError, match="builtin/shapes_cnn was given; give --model twice"):
        reproduce("opticam-appendixD", tmp_path, models=["builtin/shapes_cnn"])
    with pytest.raises(OptionError, match="one method, and tsm, mtsm were given"):
        reproduce("opticam-appendixD", tmp_path, changes={"methods": ["tsm", "mtsm"]})


def test_survey_shows_only_what_both_networks_saw():
    photo = Image.new("RGB", (120, 100))
    photo.paste((255, 0, 0), (20, 10, 100, 90))
    wide = Placement((100, 120), top=0.0, left=10.0, height=100.0, width=100.0)
    narrow = Placement((100, 120), top=10.0, left=20.0, height=80.0, width=80.0)
    peak = torch.zeros(5, 5)
    peak[0, 0] = 1  # the wide network's corner lies outside what the narrow one saw
    corner = torch.zeros(4, 4)
    corner[0, 0] = 1
    picture = Picture(Sample("x", 0), photo)
    case = pictures._case(picture, [wide, narrow], {"wide": peak, "narrow": corner})
    assert case.photo.size == (80, 80)
    assert case.photo.resize((1, 1)).getpixel((0, 0)) == (255, 0, 0)
    assert case.maps["wide"].shape == case.maps["narrow"].shape == (80, 80)
    assert case.maps["narrow"][0, 0] == 1
    assert 0 < case.maps["wide"][0, 0] < 1
    assert case.maps["wide"][40:].max() == 0


def test_large_photographs_are_shown_smaller():
    picture = Picture(Sample("x", 0), Image.new("RGB", (4000, 3000)))
    whole = Placement((3000, 4000), top=0.0, left=500.0, height=3e3, width=3e3)
    case = pictures._case(picture, [whole, whole], {"a": torch.eye(7), "b": torch.eye(7)})
    assert case.photo.size == (768, 768)
    assert case.maps["a"].shape == (768, 768)
