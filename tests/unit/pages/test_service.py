"""What the app does, without a page."""

import itertools
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import torchsaliency
from torchsaliency.errors import DataError, InputError, OptionError
from torchsaliency.pages.jobs import Choice, Job, Limits, Stopped
from torchsaliency.pages.service import Service
from torchsaliency.zoo import InputFacts


@pytest.fixture(scope="module")
def service():
    network = torchsaliency.load_model("builtin/shapes_cnn")
    return Service(network, limits=Limits(megabytes=1, pixels=10_000, maps=3))


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 70, 3), dtype=np.uint8))


def test_maps_come_one_after_the_other_and_are_those_of_explain(service, photo):
    names = ("gradcam", "mtsm")
    steps = list(service.explain(photo, Choice(names, 3)))
    assert [len(step.explanations) for step in steps] == [1, 2]
    x = torchsaliency.preprocess(photo, service.network, fit="whole")
    masking = service.medium.baseline(photo, "mean")
    wanted = torchsaliency.explain(service.network, x, names, 3, masking=masking)
    for name in names:
        assert torch.equal(steps[-1].explanations[name].map, wanted[name].map)
    assert steps[-1].left == 0
    again = next(service.explain(photo, Choice(names, 3)))
    assert again.left > 0
    assert len(service.network.module._forward_pre_hooks) == 0


def test_classes_are_sorted(service, photo):
    found = service.classify(photo)
    assert [share for *_, share in found] == sorted((share for *_, share in found), reverse=True)
    assert [service.network.class_name(place) for _, place, _ in found] == [n for n, *_ in found]


def test_limits(service, tmp_path, photo):
    photo.save(tmp_path / "good.png")
    assert service.read(tmp_path / "good.png").size == (70, 50)
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    (tmp_path / "long.png").write_bytes(bytes(1_000_001))
    (tmp_path / "wrong.png").write_bytes(b"text")
    for name, said in (
        ("wide.png", "pixels"),
        ("long.png", "1 MB"),
        ("wrong.png", "no image"),
        ("gone.png", "file"),
    ):
        with pytest.raises(DataError, match=said) as raised:
            service.read(tmp_path / name)
        assert str(tmp_path) not in str(raised.value)
    with pytest.raises(OptionError, match="choose 1 to 3"):
        next(service.explain(photo, Choice(())))
    with pytest.raises(OptionError, match="choose 1 to 3"):
        next(service.explain(photo, Choice(("gradcam",) * 4)))


def test_a_job_stops_before_its_next_pass(service, photo):
    job = Job(60.0)
    maps = service.explain(photo, Choice(("gradcam", "rise")), job)
    next(maps)
    threading.Timer(0.05, job.stop).start()
    begun = time.monotonic()
    with pytest.raises(Stopped):
        next(maps)
    assert time.monotonic() - begun < 10
    assert not job.over
    assert next(service.explain(photo, Choice())).explanations  # the network is free, and unchanged


def test_a_job_ends_with_its_time(service, photo):
    job = Job(0.0)
    with pytest.raises(Stopped):
        next(service.explain(photo, Choice(), job))
    assert job.over


def test_stopping_passes_through_what_catches_every_exception():
    assert not issubclass(Stopped, Exception)


def test_what_speaks_for_the_expected_class(service, photo):
    predicted = service.classify(photo, 1)[0][1]
    expected = (predicted + 1) % 8
    (view,) = service.contrast(photo, expected, Choice(("gradcam",)))
    named = service.network.class_name
    assert [one.title for one in view.maps] == [
        f"predicted: {named(predicted)}",
        f"expected: {named(expected)}",
        f"{named(expected)} rather than {named(predicted)}",
        f"{named(predicted)} rather than {named(expected)}",
    ]
    with pytest.raises(OptionError, match="choose another"):
        service.contrast(photo, predicted, Choice())


def test_scores_and_files(service, photo, tmp_path, monkeypatch):
    *_, shown = service.explain(photo, Choice(("gradcam", "mtsm"), 2, masking="black"))
    scored = service.score(shown)
    assert all(
        "insertion" in lines[-1] and "deletion" in lines[-1] for lines in scored.facts.values()
    )
    with zipfile.ZipFile(service.write(scored, tmp_path.parent / "new")) as archive:
        archive.extractall(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    pairs = itertools.product(("gradcam", "mtsm"), ("npy", "png"))
    stems = [f"photo.{name}.{suffix}" for name, suffix in pairs]
    assert {*stems, "manifest.json", "again.py", "photo.png", "photo.gradcam.signed.npy"} == names
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(compile((tmp_path / "again.py").read_text(), "again.py", "exec"), space)
    for name, explanation in space["found"].items():
        assert np.array_equal(np.load(f"photo.{name}.npy"), explanation.raw[0].numpy())


@pytest.mark.parametrize("names", [("gradcam", "mtsm"), ("mtsm", "gradcam")])
def test_signs_are_of_methods_that_have_them(service, photo, names):
    for shown in service.explain(photo, Choice(names, signed=True)):
        maps = service.view(shown)[0].maps
        assert [one.title for one in maps] == [*shown.explanations]
        for one in maps:
            assert one.signed == (one.title == "gradcam")
            assert ("gives no signed values" in one.facts) == (one.title == "mtsm")
    with pytest.raises(OptionError, match="mtsm gives no signed values"):
        next(service.explain(photo, Choice(("mtsm",), signed=True)))


def repeat(service, shown, folder, monkeypatch):
    """Run the lines of Python of the archive, and return what they explain."""
    with zipfile.ZipFile(service.write(shown, folder / "new")) as archive:
        archive.extractall(folder)
    monkeypatch.chdir(folder)
    space = {}
    exec(compile((folder / "again.py").read_text(), "again.py", "exec"), space)
    return space["found"]


def test_another_photo(service, photo, tmp_path, monkeypatch):
    photo.rotate(90, expand=True).save(tmp_path / "other.png")
    choice = Choice(("gradcam", "mtsm"), similar_to=str(tmp_path / "other.png"), signed=True)
    *_, shown = service.explain(photo, choice)
    gradcam = shown.explanations["gradcam"]
    assert gradcam.target.describe()["kind"] == "EmbeddingSimilarity(cosine)"
    again = repeat(service, shown, tmp_path / "again", monkeypatch)
    assert torch.equal(again["gradcam"].raw, gradcam.raw)
    with Image.open("gradcam.png") as picture:
        wanted = torchsaliency.overlay(photo, gradcam, service.network, fit="whole", signed=True)
        assert np.array_equal(picture, wanted)
    with pytest.raises(OptionError, match="leave one of the two out"):
        next(service.explain(photo, Choice(text="a cat", similar_to="other.png")))


def test_the_lines_load_the_same_network(photo, tmp_path, monkeypatch):
    other = torchsaliency.load_model("builtin/shapes_cnn")
    for parameter in other.parameters():
        parameter.data.mul_(-1)
    torch.save(other.module.state_dict(), tmp_path / "other.pth")
    loading = {
        "weights": str(tmp_path / "other.pth"),
        "dtype": torch.float64,
        "given": InputFacts(size=(48, 48)),
    }
    served = Service(torchsaliency.load_model("builtin/shapes_cnn", **loading), loading=loading)
    (shown,) = served.explain(photo, Choice(target=1))
    assert served.score(served.score(shown)).facts == served.score(shown).facts
    again = repeat(served, shown, tmp_path / "again", monkeypatch)
    assert torch.equal(again["gradcam"].raw, shown.explanations["gradcam"].raw)


def test_the_first_maps_have_their_time(photo):
    served = Service(torchsaliency.load_model("builtin/shapes_cnn"), limits=Limits(seconds=1e-9))
    served.warm_up()
    with pytest.raises(Stopped):
        served.classify(photo)


@pytest.mark.parametrize("name", ["builtin/shapes_ssl", "builtin/shapes_vit"])
def test_encoders_and_transformers(name, photo):
    network = torchsaliency.load_model(name)
    served = Service(network)
    served.warm_up()
    assert bool(served.classify(photo)) == bool(network.classes)
    *_, shown = served.explain(photo, Choice(("gradcam", "mtsm")))
    (view,) = served.view(shown)
    assert [one.title for one in view.maps] == ["gradcam", "mtsm"]
    assert len(view.classes) == (5 if network.classes else 0)
    if not network.classes:
        with pytest.raises(OptionError, match="is an encoder"):
            served.score(shown)


def test_a_detector(photo):
    torch.manual_seed(0)
    network = torchsaliency.load_model(
        "torchvision/ssdlite320_mobilenet_v3_large", pretrained=False
    )
    served = Service(network)
    served.warm_up()  # finds nothing in a grey photo, and goes on
    with pytest.raises(InputError, match="finds no object"):
        served.classify(photo)
    head = network.module.head.classification_head
    for name, parameter in head.named_parameters():
        torch.nn.init.zeros_(parameter)
        if name.endswith("1.bias"):  # of all anchors, class 7 is sure
            parameter.data[7::91] = 9.0
    assert served.classify(photo) == []
    (shown,) = served.explain(photo, Choice(("gradcam",)))
    (one,) = served.view(shown)[0].maps
    assert len(one.boxes) >= 1
    assert all(0 <= part <= 1 for box in one.boxes for part in box.corners)


def test_methods_of_detectors_are_listed_for_detectors_alone(service):
    served = Service(
        torchsaliency.load_model("torchvision/ssdlite320_mobilenet_v3_large", pretrained=False)
    )
    assert {*served.list_methods()} - {*service.list_methods()} == {"d-rise"}
    assert not Service(torchsaliency.load_model("builtin/shapes_ssl")).detects


@pytest.mark.parametrize("method", ["ablationcam", "scorecam", "iba", "opticam"])
def test_every_pass_of_a_method_can_be_stopped(service, photo, method):
    passes = []
    *_, last = service.network.module.modules()
    hook = last.register_forward_pre_hook(lambda *_: passes.append(1))
    job = Job(60.0)
    stopping = service.network.module.register_forward_hook(lambda *_: job.stop())
    with pytest.raises(Stopped):
        list(service.explain(photo, Choice((method,)), job))
    hook.remove()
    stopping.remove()
    assert len(passes) == 1


def test_the_comparison_with_another_photo_stops(service, photo, tmp_path):
    photo.save(tmp_path / "other.png")
    job = Job(60.0)
    hook = service.network.module.register_forward_hook(lambda *_: job.stop())
    with pytest.raises(Stopped):  # after the pass of the second photo
        list(service.explain(photo, Choice(similar_to=str(tmp_path / "other.png")), job))
    hook.remove()
    assert len(service.line) == 0
    assert service.classify(photo)


def test_classifying_has_its_time(service, photo):
    job = Job(0.0)
    with pytest.raises(Stopped):
        service.classify(photo, job=job)
    assert job.over


def test_encoders_and_detectors_predict_no_class(photo):
    served = Service(torchsaliency.load_model("builtin/shapes_ssl"))
    with pytest.raises(OptionError, match="predicts no class"):
        served.contrast(photo, 1, Choice())
