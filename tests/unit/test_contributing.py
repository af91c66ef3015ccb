"""The examples of CONTRIBUTING.md work, each in a copy of the package, and touch few files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

USES = {
    "method": (
        2,
        """
        from torchsaliency.core.method import methods
        from nets import convnet, images
        found = torchsaliency.explain(convnet(), images(2), "peakcam", 1, "relu3")["peakcam"]
        assert found.status == ("ok", "ok"), found.status
        assert "peakcam" in run("methods").stdout
        """,
    ),
    "metric": (
        2,
        """
        from torchsaliency.metrics import create_metric, metric_entry
        metric = create_metric("half-area")
        metric.update(torch.tensor([[[1.0, 0.5], [0.4, 0.0]]]))
        assert float(metric.compute()) == 50
        assert (metric_entry("half-area").best, metric_entry("half-area").worst) == (0, 100)
        assert "half-area" in run("metrics").stdout
        """,
    ),
    "target": (
        2,
        """
        from nets import convnet, images
        from torchsaliency.core.target import parse_target
        target = parse_target("confidence", int)
        net, x = convnet(), images(2)
        found = torchsaliency.explain(net, x, "gradcam", target, "relu3")["gradcam"]
        entropy = torch.distributions.Categorical(logits=net(x)).entropy()
        torch.testing.assert_close(found.score, -entropy)
        words = ["explain", "chelsea", "--method", "gradcam", "--target", "confidence", "--json"]
        assert '"kind": "Confidence"' in run(*words, "--output", "maps").stdout
        """,
    ),
    "data set": (
        1,
        """
        from pathlib import Path
        from PIL import Image
        from torchsaliency.data import open_data
        (folder := Path("wards")).mkdir()
        Image.new("RGB", (8, 8)).save(folder / "1.png")
        (folder / "findings.txt").write_text("1.png,1")
        for data in (open_data(folder), open_data(f"wards:{folder}", list_name="findings.txt")):
            assert data.name == "wards" and data[0][1] == 1, data
        """,
    ),
    "source of networks": (
        1,
        """
        network = torchsaliency.load_model("lab/small", num_classes=3, pretrained=False)
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3)
        assert "lab/small" in run("models", "--filter", "lab").stdout
        """,
    ),
    "table format": (
        1,
        """
        from torchsaliency.report import Table, render
        cells = [{"row": row, "column": "AD", "value": 3.0} for row in ("a_b", "c")]
        assert render(Table.of(cells), "jira").startswith("||method||AD||\\n|a_b|3.00|")
        """,
    ),
}
"""How many files an example may touch, and what it must do."""

PREAMBLE = """
import torch, torchsaliency
from typer.testing import CliRunner
from torchsaliency.cli.main import app

def run(*words):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result
"""


def example(kind: str) -> dict[str, str]:
    """Return the files of an example: their paths and what is written into them."""
    section = TEXT.partition(f"\n### A {kind}\n")[2].partition("\n##")[0]
    blocks = re.findall(r'```python title="([^"]+)"\n(.*?)```', section, re.DOTALL)
    assert blocks, f"CONTRIBUTING.md has no example of a {kind}"
    return dict(blocks)


@pytest.mark.parametrize("kind", USES)
def test_the_example_works_in_a_copy_of_the_package(kind: str, tmp_path: Path) -> None:
    most, code = USES[kind]
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    files = example(kind)
    for name, text in files.items():
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write(text)
    assert len(files) <= most
    code = PREAMBLE + re.sub(r"^ {8}", "", code, flags=re.MULTILINE)
    paths = f"import sys; sys.path[:0] = [{str(copy / 'src')!r}, {str(ROOT / 'tests')!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", paths + code],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_example_is_tested() -> None:
    assert set(re.findall(r"^### An? (.+)$", TEXT, re.MULTILINE)) == set(USES)
