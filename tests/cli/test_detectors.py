"""`explain` with detectors and segmenters: words for targets, boxes in the manifest and drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from nets import tiny_detector
from torchsaliency import Preprocessing, load_model, preprocess

NETWORKS = """
from nets import TinySegmenter, tiny_detector
from torchsaliency import Preprocessing

def detector():
    return tiny_detector("fasterrcnn")

def segmenter():
    return TinySegmenter()

plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
detector.preprocessing = Preprocessing(size=None, resize=None, **plain)
segmenter.preprocessing = Preprocessing(size=None, resize=(32, 32), **plain)
detector.classes = segmenter.classes = ["nothing", "cat", "dog", "tripod", "rocket"]
"""


@pytest.fixture
def networks(place):
    (place / "found.py").write_text(NETWORKS)


@pytest.fixture
def clean(place, photo):
    """What the detector finds in a photograph of 40 x 60 pixels, that is the first of two."""
    photo("a.png")
    x = preprocess(place / "a.png", Preprocessing(None, None, mean=(0.0,) * 3, std=(1.0,) * 3))
    with torch.no_grad():
        return tiny_detector("fasterrcnn")(x)[0]


DETECTOR = ("--model", "found.py:detector", "--json")
SEGMENTER = ("--model", "found.py:segmenter", "--json")


@pytest.mark.usefixtures("networks")
def test_a_box_is_explained_drawn_and_recorded(explain, place, clean):
    words = (*DETECTOR, "--target", "box:0,least=0.1", "--method", "gradcam", "--no-colour-bar")
    ran = explain("a.png", *words)
    assert ran.code == 0, ran.err
    (facts,) = ran.json["photos"][0]["maps"]
    (box,) = facts["target"]["boxes"]
    assert box["box"] == pytest.approx(clean["boxes"][0].tolist(), abs=0.01)
    assert (box["class"], box["name"]) == (4, "rocket")
    assert box["score"] == facts["score"] == pytest.approx(float(clean["scores"][0]), abs=1e-5)
    assert facts["target"]["name"] == f"rocket {box['score']:.2f}"
    assert ran.json["preprocessing"]["size"] is None
    assert ran.json["masking"]["baseline"] == "image"  # the mean colour, which is not zero here
    drawn = np.array(Image.open(place / "saliency" / facts["files"]["overlay"]))
    assert drawn.shape == (40, 60, 3)
    assert (drawn == 255).all(2).sum() > 20  # the box and its label, on a photograph without white


@pytest.mark.usefixtures("networks", "clean")
def test_a_box_of_a_class_and_photographs_of_two_sizes(explain, photo):
    photo("b.png", size=(70, 50))
    words = ("box:rocket,least=0.05", "box:all,least=0.05")
    ran = explain("a.png", "b.png", *DETECTOR, "--target", *words[:1], "--target", words[1])
    assert ran.code == 0, ran.err
    photos = ran.json["photos"]
    assert [photo["size"] for photo in photos] == [[40, 60], [50, 70]]
    for one in photos:
        first, every = one["maps"]
        assert [box["name"] for box in first["target"]["boxes"]] == ["rocket"]
        assert len(every["target"]["boxes"]) > 1


@pytest.mark.usefixtures("networks")
def test_a_photograph_without_the_object_is_left_out(explain, clean):
    Image.new("RGB", (60, 40)).save("black.png")
    with torch.no_grad():
        black = tiny_detector("fasterrcnn")(torch.zeros(1, 3, 40, 60))[0]
    surest = {"a": float(clean["scores"][0]), "black": float(black["scores"][0])}
    low, high = sorted(surest, key=surest.__getitem__)
    least = (surest[low] + surest[high]) / 2
    ran = explain("a.png", "black.png", *DETECTOR, "--target", f"box:0,least={least}")
    assert ran.code == 1
    (skipped,) = ran.json["skipped_photos"]
    assert "The detector finds no object with a score of at least" in skipped["reason"]
    assert skipped["path"] == f"{low}.png"
    assert [photo["name"] for photo in ran.json["photos"]] == [high]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", "box:horse"), "There is no class 'horse'"),
        (("--target", "box:0,colour=red"), "box has no option 'colour'"),
        (("--target", "cat"), "give Box"),
        (("--target", "segment:cat"), "segment explains a dense output"),
        (("--target", "box:0,mask=a.png"), "segment:CLASS,mask=FILE"),
        (("--method", "d-rise", "--model", "net.py:factory"), "use rise"),
    ],
)
@pytest.mark.usefixtures("networks", "clean")
def test_mistakes(words, said, explain):
    model = () if "--model" in words else DETECTOR[:2]
    ran = explain("a.png", *model, *words)
    assert ran.code == 2
    assert said in " ".join(ran.err.split())
    assert ran.err.count("\n") == 1


@pytest.mark.usefixtures("networks")
def test_segments_by_class_box_and_mask(explain, photo, place):
    photo("a.png")
    words = ["segment", "segment:dog,box=0,0,0.5,1", "segment:dog,mask=mask.png"]
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :30] = 255
    Image.fromarray(mask).save(place / "mask.png")
    targets = [part for word in words for part in ("--target", word)]
    ran = explain("a.png", *SEGMENTER, *targets, "--method", "gradcam")
    assert ran.code == 0, ran.err
    own, box, file = (facts["target"] for facts in ran.json["photos"][0]["maps"])
    assert own["kind"] == box["kind"] == file["kind"] == "MaskScore"
    assert own["name"].endswith(f"over {own['area']:.1%}")
    assert box["class"] == file["class"] == 2
    assert box["area"] == file["area"] == 0.5
    assert box["logit"] == pytest.approx(file["logit"], abs=1e-5)
    Image.fromarray(mask[:, :20]).save(place / "mask.png")
    ran = explain("a.png", *SEGMENTER[:2], "--target", words[2])
    assert ran.code == 2
    assert "The mask mask.png has 20x40 pixels and a.png has 60x40" in ran.err


@pytest.mark.usefixtures("place")
def test_a_segmenter_of_torchvision_from_a_file(explain, photo):
    name = "torchvision/lraspp_mobilenet_v3_large"
    network = load_model(name, pretrained=False)
    assert (network.preprocessing.size, network.preprocessing.resize) == (None, (520, 520))
    assert network.class_index("cat") == 8
    torch.save(network.module.state_dict(), "weights.pt")
    photo("a.png")
    small = Preprocessing(size=None, resize=(64, 64))
    assert small(Image.open("a.png")).shape == (3, 64, 96)
    model = ("--model", name, "--weights", "weights.pt")
    ran = explain("a.png", "--json", *model, "--target", "segment")
    assert ran.code == 0, ran.err
    (facts,) = ran.json["photos"][0]["maps"]
    assert facts["layers"] == ["backbone.16"]
    assert facts["status"] == "ok"


@pytest.mark.usefixtures("networks", "clean")
def test_a_shared_scale_keeps_the_boxes(explain, place):
    words = (*DETECTOR, "--target", "box:0,least=0.1", "--method", "gradcam", "--no-colour-bar")
    ran = explain("a.png", *words, "--scale", "shared")
    assert ran.code == 0, ran.err
    assert len(ran.json["colour_limits"]) == 2
    (facts,) = ran.json["photos"][0]["maps"]
    drawn = np.array(Image.open(place / "saliency" / facts["files"]["overlay"]))
    assert drawn.shape == (40, 60, 3)
    assert (drawn == 255).all(2).sum() > 20
