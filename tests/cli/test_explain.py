"""What `torchsaliency explain` writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import torchsaliency
from nets import ATTENTION_NAMES, DETECTION_NAMES, NAMES, few_passes
from torchsaliency.core.method import create
from torchsaliency.data import open_photo
from torchsaliency.zoo import Fit


def runs(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text())["runs"]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_overlay_a_raw_map_and_a_manifest(explain, photo, place):
    photo("cat.png", size=(61, 40))
    ran = explain("cat.png", "--method", "gradcam,mtsm", "--no-colour-bar")
    assert ran.code == 0
    assert not ran.err
    assert names(place / "saliency") == {
        "cat.gradcam.png", "cat.gradcam.npy", "cat.mtsm.png", "cat.mtsm.npy", "manifest.json"
    }  # fmt: skip
    assert size_of(place / "saliency" / "cat.mtsm.png") == (61, 40)
    assert np.load(place / "saliency" / "cat.mtsm.npy").shape == (8, 12)
    assert "2 maps are in saliency/" in ran.out


def test_the_manifest_suffices_to_repeat(explain, photo, place):
    path = photo("cat.png")
    torch.save(torchsaliency.load_model("net.py:factory").module.state_dict(), "weights.pt")
    explain(
        path, "--method", "opticam,scorecam", "--set", "opticam.iterations=4", "--target", "dog",
        "--masking", "black", "--fit", "squash", "--weights", "weights.pt", "--layer", "2",
    )  # fmt: skip
    (run,) = runs(place / "saliency")
    (entry,) = run["photos"]
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert run["network"]["sha256"] == hashlib.sha256(Path("weights.pt").read_bytes()).hexdigest()
    assert {"torch", "torchsaliency", "python"} <= set(run["versions"])
    assert run["arguments"]["settings"] == ["opticam.iterations=4"]

    network = torchsaliency.load_model(run["network"]["name"], weights=run["network"]["weights"])
    facts = run["preprocessing"]
    preparation = torchsaliency.Preprocessing(
        size=tuple(facts["size"]),
        resize=tuple(facts["resize"]),
        fit=Fit(facts["fit"]),
        interpolation=Image.Resampling[facts["interpolation"].upper()],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )
    black = torchsaliency.BlackPixel(*(tuple(run["masking"][key]) for key in ("mean", "std")))
    x = preparation(open_photo(entry["path"]))[None]
    for one in entry["maps"]:
        method = create(one["method"], run["methods"][one["method"]]["options"])
        black = torchsaliency.BlackPixel(*(tuple(run["masking"][key]) for key in ("mean", "std")))
        made = method(network, x, one["target"]["index"], one["layers"], masking=black)
        raw = np.load(place / "saliency" / one["files"]["raw"])
        assert np.allclose(made.raw[0].numpy(), raw, atol=1e-6)
        assert one["score"] == pytest.approx(float(made.score), abs=1e-5)
        assert one["target"]["logit"] == pytest.approx(float(made.output[0, 1]), abs=1e-5)
        probability = float(made.output.softmax(1)[0, 1])
        assert one["target"]["probability"] == pytest.approx(probability, abs=1e-5)
        assert one["target"]["name"] == "dog"
        assert one["status"] == made.status[0]
    assert entry["maps"][0]["details"]["iterations"] == 4


def test_json_is_all_there_is_on_stdout(explain, photo, place):
    photo("good.png")
    (place / "bad.png").write_text("no image")
    ran = explain("good.png", "bad.png", "--json")
    assert ran.code == 1
    assert ran.json == runs(place / "saliency")[0]
    assert ran.json["skipped_photos"][0]["path"] == "bad.png"
    assert "bad.png" in ran.err


def test_a_folder_with_a_bad_file(explain, photo, place):
    for name in ("a.png", "b.jpg", "deep/er/c.png"):
        photo(f"folder/{name}")
    whole = (place / "folder" / "b.jpg").read_bytes()
    (place / "folder" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (place / "folder" / "notes.txt").write_text("not a photo")
    ran = explain("folder")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "torn.jpg" in ran.err
    assert {"a.gradcam.png", "b.gradcam.png", "c.gradcam.png"} <= names(place / "saliency")


def test_batches_change_nothing(explain, photo, place):
    for number in range(5):
        photo(f"folder/{number}.png", size=(40 + 7 * number, 50))
    words = ("folder", "--method", "all", *few_passes())
    explain(*words, "--batch-size", "2", "--output", "two", "--chunk", "3")
    explain(*words, "--batch-size", "5", "--output", "five")
    for path in sorted((place / "two").glob("*.npy")):
        assert np.allclose(np.load(path), np.load(place / "five" / path.name), atol=1e-4), path


def test_photos_that_share_a_stem_have_files_of_their_own(explain, photo, place):
    for name in ("a/cat.png", "b/cat.png", "b/CAT.jpg", "b/cat-2.png"):
        photo(name)
    ran = explain("a", "b", "--json", "--no-raw")
    stems = [entry["name"] for entry in ran.json["photos"]]
    assert len({stem.casefold() for stem in stems}) == 4
    assert len(list((place / "saliency").glob("*.png"))) == 4


def test_one_photo_given_twice_is_explained_once(explain, photo):
    path = photo("folder/cat.png")
    assert len(explain("folder", path, "--json").json["photos"]) == 1


def test_a_very_long_name(explain, photo, place):
    photo("ü" * 120 + ".png")
    assert explain(place / ("ü" * 120 + ".png")).code == 0


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "I;16"])
def test_kinds_of_photo(mode, explain, photo, place):
    suffix = "tiff" if mode == "CMYK" else "png"
    photo(f"photo.{suffix}", mode=mode)
    assert explain(f"photo.{suffix}", "--no-colour-bar").code == 0
    assert size_of(place / "saliency" / "photo.gradcam.png") == (60, 40)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (300, 2)])
def test_sizes_of_photo(size, explain, photo, place):
    photo("photo.png", size=size)
    assert explain("photo.png", "--grid", "--no-colour-bar").code == 0
    assert size_of(place / "saliency" / "photo.gradcam.png") == size


def test_a_rotated_photo_is_drawn_upright(explain, photo, place):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo("photo.jpg", size=(60, 40), exif=exif)
    explain("photo.jpg", "--no-colour-bar")
    assert size_of(place / "saliency" / "photo.gradcam.png") == (40, 60)


def test_samples_by_name(explain, photo):
    assert explain("coffee", "--json").json["photos"][0]["path"].endswith("coffee.png")
    photo("coffee", format="PNG")
    assert explain("coffee", "--json").json["photos"][0]["size"] == [40, 60]
    assert explain("sample:coffee", "--json").json["photos"][0]["size"] == [400, 600]


def test_every_method(explain, photo, place):
    photo("cat.png")
    ran = explain("cat.png", "--method", "all", "--json", *few_passes())
    assert ran.code == 0
    assert set(ran.json["methods"]) == set(NAMES)
    assert set(ran.json["skipped_methods"]) == {*ATTENTION_NAMES, *DETECTION_NAMES}
    assert all((place / "saliency" / f"cat.{name}.npy").exists() for name in NAMES)


def test_a_method_that_does_not_fit_is_left_out_of_all(explain, photo):
    photo("cat.png")
    ran = explain("cat.png", "--method", "all", "--model", "net.py:deep", *few_passes())
    assert ran.code == 0
    assert "Left out cam: CAM needs a layer followed by" in ran.err
    assert ran.err.count("\n") == 1 + len(ATTENTION_NAMES) + len(DETECTION_NAMES)


def test_a_method_that_does_not_fit_is_an_error_when_named(explain, photo, place):
    photo("cat.png")
    ran = explain("cat.png", "--method", "gradcam,cam", "--model", "net.py:deep")
    assert ran.code == 2
    assert ran.err.startswith("CAM needs a layer followed by")
    assert names(place / "saliency") == set()


def test_several_targets(explain, photo, place):
    photo("cat.png")
    ran = explain("cat.png", "--target", "tripod", "--target", "1", "--target", "dog", "--json")
    (entry,) = ran.json["photos"]
    assert [one["target"]["index"] for one in entry["maps"]] == [3, 1]
    assert {"cat.3.gradcam.png", "cat.1.gradcam.png"} <= names(place / "saliency")
    first, second = (np.load(place / "saliency" / f"cat.{i}.gradcam.npy") for i in (3, 1))
    assert not np.allclose(first, second)


def test_targets_beside_classes(explain, photo):
    photo("cat.png")
    words = ("--target", "margin:dog", "--target", "regression:index=2", "--target", "predicted")
    ran = explain("cat.png", *words, "--json", "--grid")
    assert ran.code == 0, ran.err
    margin, regression, predicted = (one["target"] for one in ran.json["photos"][0]["maps"])
    assert (margin["kind"], margin["index"], margin["name"]) == ("Margin", 1, "margin of dog")
    assert (regression["kind"], regression["index"]) == ("Regression", None)
    assert regression["name"] == "regression:index=2"
    assert predicted["index"] == ran.json["photos"][0]["predicted"]["index"]
    files = {one["files"]["overlay"] for one in ran.json["photos"][0]["maps"]}
    assert files == {
        "cat.margin%3Adog.gradcam.png",
        "cat.regression%3Aindex=2.gradcam.png",
        "cat.predicted.gradcam.png",
    }
    assert explain("cat.png", "--target", "margin:wolf").code == 2
    assert explain("cat.png", "--target", "regression:indx=2").code == 2


def test_several_layers_are_fused(explain, photo):
    photo("cat.png")
    ran = explain(
        "cat.png", "--layer", "2", "--layer", "4", "--json", "--method", "gradcam,opticam"
    )
    assert [one["layers"] for one in ran.json["photos"][0]["maps"]] == [["2", "4"]] * 2


def test_smoothing(explain, photo, place):
    photo("cat.png")
    ran = explain("cat.png", "--aug-smooth", "--eigen-smooth", "--json")
    (name,) = ran.json["methods"]
    assert name == "gradcam+eigen+augmented"
    inner = ran.json["methods"][name]["options"]["method"]
    assert inner["method"] == "gradcam+eigen"
    assert f"cat.{name}.npy" in names(place / "saliency")
    assert list(explain("cat.png", "--eigen-smooth", "--json").json["methods"]) == ["gradcam+eigen"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision(precision, explain, photo, place):
    photo("cat.png")
    explain("cat.png", "--output", "full")
    assert explain("cat.png", "--precision", precision).code == 0
    half, full = (np.load(place / where / "cat.gradcam.npy") for where in ("saliency", "full"))
    assert half.dtype == np.float32
    assert np.abs(half - full).max() < 0.1 * np.abs(full).max()


def test_masking_and_fit_reach_the_method(explain, photo):
    photo("cat.png")
    found = {
        masking: explain("cat.png", "--method", "scorecam", "--masking", masking, "--json").json
        for masking in ("mean", "black", "blur")
    }
    assert {name: run["masking"]["baseline"] for name, run in found.items()} == {
        name: name for name in found
    }
    fits = [
        explain("cat.png", *fit, "--json").json["preprocessing"]["fit"]
        for fit in ([], ["--fit", "own"], ["--fit", "crop"], ["--fit", "squash"])
    ]
    assert fits == ["aspect", "cover", "cover", "squash"]


def test_the_whole_photograph_is_seen_and_drawn_over(explain, photo, place):
    wide, tall = photo("wide.png", size=(120, 40)), photo("tall.png", size=(40, 64))
    words = ("--method", "fakecam", "--alpha", "1", "--no-colour-bar")
    whole = explain(wide, tall, *words, "--json")
    own = explain(wide, *words, "--fit", "own", "--output", "own")
    assert (whole.code, own.code) == (0, 0)
    assert whole.json["arguments"]["fit"] == "whole"
    assert whole.json["preprocessing"]["stride"] == 4
    assert [entry["input"] for entry in whole.json["photos"]] == [[32, 96], [52, 32]]
    for path in (wide, tall):
        changed = (pixels(place / "saliency" / f"{path.stem}.fakecam.png") != pixels(path)).any(-1)
        assert changed[:, -1].all()
        assert changed[-1].all()
        assert changed.mean() > 0.99
    cropped = pixels(place / "own" / "wide.fakecam.png") == pixels(wide)
    assert cropped[:, :20].all(), "the network's own way crops the middle"


def test_a_network_of_one_size_gets_letterboxed_photographs(explain, photo, place):
    photo("wide.png", size=(120, 40))
    ran = explain(
        "wide.png", "--model", "builtin/shapes_vit", "--method", "mtsm", "--json", "--no-colour-bar"
    )
    assert ran.code == 0
    side = ran.json["preprocessing"]["size"]
    assert ran.json["photos"][0]["input"] == side == ran.json["preprocessing"]["resize"]
    assert ran.json["preprocessing"]["fit"] == "contain"
    assert size_of(place / "saliency" / "wide.mtsm.png") == (120, 40)


def test_alpha_and_colormap_change_the_overlay(explain, photo, place):
    path = photo("cat.png")

    def drawn(*options: str) -> np.ndarray:
        assert explain("cat.png", "--no-colour-bar", *options).code == 0
        return pixels(place / "saliency" / "cat.gradcam.png")

    assert (drawn("--alpha", "0") == pixels(path)).all()
    assert (drawn("--colormap", "viridis") != drawn()).any()


def test_signed_values_are_drawn_written_and_told(explain, photo, place):
    photo("cat.png")
    plain = explain("cat.png", "--method", "gradcam", "--output", "plain")
    ran = explain("cat.png", "--method", "gradcam,occlusion", "--signed", "--grid", "--json")
    assert (plain.code, ran.code) == (0, 0)
    assert ran.json["arguments"]["signed"]
    cam, drops = ran.json["photos"][0]["maps"]
    for facts in (cam, drops):
        values = np.load(place / "saliency" / facts["files"]["signed"])
        assert values.shape == (32, 48)
        signed = facts["signed"]
        assert signed["largest"] == pytest.approx(np.abs(values).max())
        assert signed["for"] + signed["against"] == pytest.approx(values.sum(), rel=1e-4)
        assert signed["for"] >= 0 >= signed["against"]
    raw = [place / folder / "cat.gradcam.npy" for folder in ("plain", "saliency")]
    assert np.array_equal(*map(np.load, raw))
    assert (
        pixels(place / "plain/cat.gradcam.png")[:40, :60]
        != pixels(raw[1].with_suffix(".png"))[:40, :60]
    ).any()
    assert "signed" not in json.loads((place / "plain/manifest.json").read_text())["runs"][0][
        "photos"][0]["maps"][0]  # fmt: skip


def test_signs_are_asked_of_methods_that_have_them(explain, photo):
    photo("cat.png")
    for words in (["--method", "opticam"], ["--method", "gradcam", "--eigen-smooth"]):
        ran = explain("cat.png", "--signed", *words)
        assert ran.code == 2
        assert "gives no signed values; these methods do: " in ran.err.replace("\n", " ")
    quick = [("--set", f"{name}.passes=40") for name in ("lime", "kernelshap")]
    ran = explain("cat.png", "--signed", "--method", "all", *sum(quick, ()), "--json")
    found = {facts["method"] for facts in ran.json["photos"][0]["maps"]}
    assert {"gradcam", "lrp", "occlusion", "deeplift"} <= found
    assert not {"opticam", "mtsm", "rise"} & found


def test_the_grid(explain, photo, place):
    for number in range(23):
        photo(f"folder/{number}.png", size=(32, 32))
    ran = explain("folder", "--grid", "--method", "gradcam,mtsm")
    (width, first), (_, second) = (
        size_of(place / "saliency" / name) for name in ("grid.png", "grid-2.png")
    )
    assert first > 20 * 256 > 5 * 256 > second > 3 * 256  # 20 photos, then 3
    assert width > 3 * 256
    assert "grid-2.png" in ran.out
    assert runs(place / "saliency")[0]["grids"] == ["grid.png", "grid-2.png"]


# --- what is there already ----------------------------------------------------------------------


def test_earlier_runs_are_remembered_and_replaced(explain, photo, place):
    photo("cat.png")
    photo("dog.png")
    explain("cat.png")
    explain("dog.png", "--method", "gradcam,mtsm")
    explain("dog.png", "--method", "mtsm")
    told = [
        [one["files"]["overlay"] for entry in run["photos"] for one in entry["maps"]]
        for run in runs(place / "saliency")
    ]
    assert told == [["cat.gradcam.png"], ["dog.gradcam.png"], ["dog.mtsm.png"]]


@pytest.mark.parametrize("name", ["cat.gradcam.png", "cat.gradcam.npy", "grid.png"])
def test_other_peoples_files_are_not_replaced(name, explain, photo, place):
    photo("cat.png")
    (place / "saliency").mkdir()
    (place / "saliency" / name).write_text("precious")
    ran = explain("cat.png", "--grid")
    assert ran.code == 2
    assert "no earlier run wrote it" in ran.err
    assert (place / "saliency" / name).read_text() == "precious"


@pytest.mark.parametrize("content", ["{}", "[1]", "nonsense", '{"program": "other", "schema": 1}'])
def test_another_programs_manifest_is_not_replaced(content, explain, photo, place):
    photo("cat.png")
    (place / "saliency").mkdir()
    (place / "saliency" / "manifest.json").write_text(content)
    assert explain("cat.png").code == 2
    assert (place / "saliency" / "manifest.json").read_text() == content


def test_own_pictures_in_a_folder_are_not_explained(explain, photo):
    photo("cat.png")
    assert explain(".").code == 0
    assert [entry["name"] for entry in explain(".", "--json").json["photos"]] == ["cat"]


def test_photos_are_never_written_over(explain, photo, place):
    photo("cat.png")
    explain("cat.png", "--output", ".")
    photo("other/cat.png")
    before = (place / "cat.gradcam.png").read_bytes()
    ran = explain("other/cat.png", "cat.gradcam.png", "--output", ".")
    assert ran.code == 2
    assert "would be written over" in ran.err
    assert (place / "cat.gradcam.png").read_bytes() == before


def test_a_shared_scale_is_one_for_all_maps(explain, photo, place):
    for name in ("one.png", "two.png"):
        photo(name, size=(40, 40))
    words = ("one.png", "two.png", "--method", "gradcam,hirescam", "--grid")
    explain(*words, "--output", "own")
    ran = explain(*words, "--output", "shared", "--scale", "shared")
    assert ran.code == 0
    (run,) = runs(place / "shared")
    raws = [np.load(file) for file in (place / "shared").glob("*.npy")]
    assert len(raws) == 4
    assert run["colour_limits"] == [min(map(np.min, raws)), max(map(np.max, raws))]
    changed = [
        not np.array_equal(pixels(place / "own" / name), pixels(place / "shared" / name))
        for name in sorted(names(place / "own"))
        if name.endswith(".png")
    ]
    assert sum(changed) >= 4, "at most one map has the range of all"
    refused = explain(*words, "--scale", "shared", "--no-raw", "--output", "none")
    assert refused.code == 2
    assert "--no-raw" in refused.err


def test_an_overlay_has_its_scale_beside_it(explain, photo, place):
    photo("cat.png", size=(61, 40))
    words = ("cat.png", "--method", "gradcam")
    explain(*words, "--output", "with")
    explain(*words, "--output", "without", "--no-colour-bar")
    with_scale, without = (
        pixels(place / folder / "cat.gradcam.png") for folder in ("with", "without")
    )
    assert without.shape == (40, 61, 3)
    np.testing.assert_array_equal(with_scale[:40, :61], without)
    assert with_scale.shape[1] > 61
