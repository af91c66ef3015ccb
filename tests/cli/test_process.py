"""The program as the shell starts it, and the demo."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from torchsaliency.data import sample_photos


def start(*words: object, cwd: Path, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torchsaliency", *map(str, words)],
        cwd=cwd,
        **options,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_module_and_streams(place, photo):
    photo("cat.png")
    process = start(
        "explain", "cat.png", "--model", "net.py:factory", "--method", "mtsm", "--json", cwd=place
    )
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["command"][:3] == ["torchsaliency", "explain", "cat.png"]


def test_a_mistake(place):
    process = start("explain", "missing.png", cwd=place)
    out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)


def test_help(command):
    ran = command("explain", "--help")
    assert ran.code == 0
    assert "Exit codes" in ran.out


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_an_interruption(place, photo):
    photo("cat.png")
    (place / "slow.py").write_text(
        (place / "net.py").read_text() + "\nclass Slow(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        import pathlib, time\n"
        "        pathlib.Path('started').touch()\n"
        "        time.sleep(60)\n"
        "def slow():\n"
        "    return Slow(*factory())\n"
        "slow.preprocessing = factory.preprocessing\n"
    )
    # a shell that put the tests in the background lets its children ignore the signal
    hearing = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = start("explain", "cat.png", "--model", "slow.py:slow", cwd=place, preexec_fn=hearing)
    while not (place / "started").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.strip() == "Interrupted."


def test_demo(command, place):
    ran = command("demo", "--output", "shown")
    assert ran.code == 0
    assert not ran.err
    with Image.open(place / "shown" / "demo.png") as picture:
        assert picture.width > 6 * 256
    run = json.loads((place / "shown" / "manifest.json").read_text())["runs"][0]
    assert [entry["name"] for entry in run["photos"]] == list(sample_photos())
    # the whole photographs show more than their crops: the towers beside the rocket, say
    seen = {"chelsea": "Egyptian cat", "rocket": "drilling platform", "china": "bell cote"}
    for entry, photo in zip(run["photos"], sample_photos().values(), strict=True):
        expected = seen.get(entry["name"], photo.class_name)
        assert entry["predicted"]["name"] == expected
        assert expected in ran.out
        for one in entry["maps"]:
            assert one["status"] == "ok"
            with Image.open(place / "shown" / one["files"]["overlay"]) as overlay:
                assert overlay.height == photo.open().height
                assert overlay.width > photo.open().width, "the colour scale is beside the photo"


def test_the_builtin_network_is_the_default(command):
    words = ["chelsea", "--method", "gradcam,cam", "--target", "tiger cat", "--json"]
    ran = command("explain", *words, "--fit", "own")
    assert ran.code == 0
    (entry,) = ran.json["photos"]
    assert entry["predicted"]["name"] == "tiger cat"
    assert [one["target"]["index"] for one in entry["maps"]] == [282, 282]


def test_maps_need_none_of_the_heavy_libraries():
    """Loading them takes most of the time in which a command starts."""
    code = (
        "import sys; from torchsaliency.cli import main, photographs; "
        "print(*{'torchmetrics', 'torchvision', 'pandas', 'scipy', 'tensorly'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
