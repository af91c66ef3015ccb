"""Kinds of data set: a registry that the command line, errors and documentation read."""

import json
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from typer.testing import CliRunner

from torchsaliency import registry
from torchsaliency.cli.main import app
from torchsaliency.data import DataSet, Picture, Sample, image_folder, open_data, register_dataset
from torchsaliency.data.opening import DATASETS
from torchsaliency.errors import DataError, OptionError

DOCS = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


pytestmark = pytest.mark.usefixtures("registries")


@dataclass(frozen=True, eq=False, kw_only=True)
class Greys(DataSet):
    width: int

    def picture(self, index):
        size = (self.width, 4)
        return Picture(self.samples[index], Image.new("RGB", size, (index,) * 3))

    def mark(self, sample):
        return f"{sample.source} {self.width}"


def greys(count: int = 3, *, width: int = 8) -> Greys:
    """Grey images."""
    samples = tuple(Sample(f"greys/{n}", n) for n in range(count))
    return Greys(name="greys", samples=samples, width=width)


def test_the_built_in_kinds():
    kinds = ["chest-xray", "folder", "hf", "imagenet", "kvasir", "samples", "shapes", "tar"]
    kinds += ["voc", "voc-classes"]
    assert DATASETS.names() == kinds
    for name, entry in DATASETS.entries().items():
        assert entry.summary.endswith("."), name
        assert bool(entry.layout) is (entry.finds is not None)
        assert f"`{name}" in DOCS
        for line in entry.layout.strip().splitlines():
            assert line == "or" or line.startswith("(") or re.split("  | … ", line)[0] in DOCS, line


def test_a_new_kind_without_files():
    register_dataset("greys")(greys)
    assert len(open_data("greys")) == 3
    data = open_data("greys:2?width=5")
    assert (len(data), data[1][0].size) == (2, (5, 4))
    assert open_data("greys", width=6)[0][0].size == (6, 4)
    result = CliRunner().invoke(app, ["datasets", "--json"])
    (row,) = [row for row in json.loads(result.stdout) if row["name"] == "greys"]
    assert (row["summary"], row["options"]) == ("Grey images.", {"count": 3, "width": 8})
    assert "kvasir:FOLDER" in CliRunner().invoke(app, ["datasets"]).stdout
    with pytest.raises(OptionError, match=r"greys\.width='wide' does not fit"):
        open_data("greys?width=wide")
    with pytest.raises(OptionError, match="greys has no option 'split'; it has count, width"):
        open_data("greys", split="test")
    with pytest.raises(DataError, match="give samples, shapes, hf, greys, a folder"):
        open_data("/nowhere")


def test_a_new_layout_is_tried_before_plain_folders(tmp_path):
    layout = "scans/\n├── scans.txt\n└── 1.png …"

    @register_dataset("scans", layout=layout, finds=lambda path: (path / "scans.txt").exists())
    def scans(path: Path, *, side: str = "left") -> DataSet:
        """Scans."""
        del side
        return image_folder(path)

    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    (tmp_path / "scans.txt").write_text("x")
    assert DATASETS.get("scans").options == {"side": "left"}
    assert len(open_data(tmp_path, side="right")) == 1
    assert len(open_data(f"scans:{tmp_path}")) == 1
    with pytest.raises(OptionError, match="scans has no option 'seed'; it has side"):
        open_data(tmp_path, seed=1)
    with pytest.raises(DataError, match=r"one of the kinds .*scans"):
        open_data("scans:/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="known layout; expected is one of") as error:
        open_data(tmp_path / "empty")
    assert layout in str(error.value)


def test_a_kind_may_come_from_another_package(monkeypatch):
    class Point(EntryPoint):
        def load(self):
            register_dataset("greys")(greys)
            return ModuleType("greys_package")

    def entry_points(group):
        return [Point("greys", "greys_package", group)] if group == "torchsaliency.datasets" else []

    monkeypatch.setattr(registry.metadata, "entry_points", entry_points)
    monkeypatch.setattr(DATASETS, "_loaded", False)
    assert len(open_data("greys:4")) == 4
