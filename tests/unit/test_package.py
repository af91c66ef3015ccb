"""What is installed, and what the package index shows of it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from torchsaliency.errors import MissingPackageError, require_extra

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def names(requirements):
    return [re.split(r"[<>=\[]", text)[0] for text in requirements]


def without(packages, code):
    """Run code in a process in which some packages are not installed."""
    hidden = f"import sys\nfor name in {packages!r}: sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", hidden + code], capture_output=True, check=False, text=True
    )


OPTIONAL = sorted({name for extra in EXTRAS.values() for name in names(extra)} - {"torch"})


def test_maps_and_overlays_need_no_extra(tmp_path):
    done = without(
        OPTIONAL,
        "import torchsaliency\n"
        "from torchsaliency.data.samples import sample_paths\n"
        "net = torchsaliency.load_model('builtin/shapes_cnn')\n"
        "photo = sample_paths()['chelsea']\n"
        "x = torchsaliency.preprocess(photo, net)\n"
        "made = torchsaliency.explain(net, x, ['opticam', 'tsm', 'lime'])\n"
        f"torchsaliency.overlay(photo, made['tsm'], net).save({str(tmp_path / 'map.png')!r})\n",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "map.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--data", "samples", "--methods", "gradcam", "--metrics", "ad"],
        ["table", "run"],
        ["compare", "run", "a", "b"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_names_the_extra_that_it_needs(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = f"from torchsaliency.cli.main import main\nsys.argv[1:] = {arguments!r}\nmain()\n"
    done = without(names(EXTRAS["eval"]), code)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert said.endswith("not installed; run pip install 'torchsaliency[eval]'."), said


def test_the_sentence():
    with pytest.raises(MissingPackageError, match=r"^no_such is not installed; run pip install"):
        require_extra("eval", "torch", "no_such")
    with pytest.raises(ImportError, match=r"a_b, c_d are not installed"):
        require_extra("eval", "a_b", "c_d")


def test_the_readme_of_the_package_index_stands_alone():
    """There, a relative address leads nowhere."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for rule in hook["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    addresses = re.findall(r"\]\(([^)]+)\)", text)
    assert len(addresses) > 5
    assert [one for one in addresses if not one.startswith("https://")] == []
    home = PROJECT["project"]["urls"]["Documentation"] + "/en/latest/"
    for address in addresses:
        if address.startswith(home):
            page = address.removeprefix(home).rstrip("/")
            pages = [f"docs/{page}", f"docs/{page}.md", f"docs/{page}/index.md"]
            assert any((ROOT / place).is_file() for place in pages), address
