"""`torchsaliency choose` on photographs: what is printed, written and refused."""

from PIL import Image

from commands import photographs


def test_methods_are_tried_on_photographs(command, tmp_path):
    photos = photographs(tmp_path / "photos", 3, size=(64, 64))
    (photos / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ("--model", "builtin/shapes_cnn", "--method", "gradcam,eigencam")
    ran = command("choose", photos, *words, "--output", tmp_path / "out", "--json")
    assert ran.code == 1  # one photograph could not be read
    assert "torn.png" in ran.err
    assert ran.json["images"] == 3
    assert ran.json["verdict"] == "too little evidence"
    assert len(ran.json["values"]["ad"]["gradcam"]) == 3
    with Image.open(tmp_path / "out" / "consensus.png") as picture:
        assert picture.width > 500
    shown = command(
        "choose", photos / "000.png", photos / "001.png", *words, "--output", tmp_path / "out"
    )
    assert shown.code == 0
    assert "Is what the map shows enough for the network?" in shown.out
    assert "Undecided: " in shown.out


def test_a_method_that_does_not_fit_is_refused(command, tmp_path):
    photos = photographs(tmp_path / "photos", 2, size=(64, 64))
    words = ("--model", "builtin/shapes_cnn", "--method", "attention-rollout")
    ran = command("choose", photos, *words, "--output", tmp_path / "out")
    assert ran.code == 2
    assert "attention" in ran.err
