"""The skill for coding agents, followed to the letter in a repository whose network has one cue."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
SKILL = (ROOT / "docs" / "skill" / "SKILL.md").read_text(encoding="utf-8")
FILES = re.findall(r"```python\n(# \S+\n.*?)```", SKILL, re.DOTALL)

INFER = '''
import torch
from torch import nn


class Net(nn.Module):
    """Calls an image a crack as far as pixels are brighter than any metal."""

    def __init__(self):
        super().__init__()
        self.bright = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Softplus(beta=4))
        self.head = nn.Linear(4, 3)
        nn.init.constant_(self.bright[0].weight, 1 / 9)
        nn.init.constant_(self.bright[0].bias, -1.5)
        rows = torch.tensor([-12.0, 75.0, -2.0])
        self.head.weight.data = rows[:, None].repeat(1, 4)
        self.head.bias.data = torch.tensor([2.0, 0.0, -2.0])

    def forward(self, x):
        return {"logits": self.head(self.bright(x).mean((2, 3)))}


def load(path):
    return Net().eval()
'''
BAR = (slice(70, 75), slice(50, 74))


def save(path, seed, *, bar):
    draw = np.random.default_rng(seed)
    pixels = draw.normal(118, 15, (80, 80))
    if bar:
        pixels[BAR] = 250
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository that is laid out as the skill's example."""
    (tmp_path / "weldnet").mkdir()
    (tmp_path / "data" / "img").mkdir(parents=True)
    (tmp_path / "weldnet" / "loader.py").write_text('DEFECTS = ["none", "crack", "pore"]\n')
    (tmp_path / "infer.py").write_text(INFER)
    save(tmp_path / "complaint.png", 0, bar=True)
    for number in range(1, 11):
        save(tmp_path / "data" / "img" / f"{number}.png", number, bar=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def infer(repository):
    """Return the logits that the repository's own code gives."""
    pixels = np.asarray(Image.open("complaint.png"), np.float32)
    x = torch.from_numpy((pixels - 118) / 52)[None, None]
    with torch.no_grad():
        run = runpy.run_path(str(repository / "infer.py"))["load"]("best.ckpt")
        return run(x)["logits"][0].tolist()


def fill(script, logits):
    """Fill in the first lines; fewer methods, as they are tested elsewhere."""
    script = re.sub(r"REPOSITORY_LOGITS = \[.*?\]", f"REPOSITORY_LOGITS = {logits}", script)
    return re.sub(r"METHODS = \[.*?\]", 'METHODS = ["gradcam", "randomcam"]', script)


def test_following_the_skill_finds_the_cue(repository):
    files = dict(
        reversed(found)
        for found in re.findall(r"```python\n((?:# (\S+)\n).*?)```", SKILL, re.DOTALL)
    )
    assert list(files) == ["saliency_net.py", "saliency_debug.py"]
    logits = infer(repository)
    assert np.argmax(logits) == 1
    filled = re.sub(
        r"REPOSITORY_LOGITS = \[.*?\]", f"REPOSITORY_LOGITS = {logits}", files["saliency_debug.py"]
    )
    (repository / "saliency_net.py").write_text(files["saliency_net.py"])
    (repository / "saliency_debug.py").write_text(filled)
    runpy.run_path("saliency_debug.py")
    bundle = repository / "saliency-bundle"
    found = json.loads((bundle / "findings.json").read_text())
    rows, columns = found["region"]["rows"], found["region"]["columns"]
    assert rows[0] >= 65
    assert columns[0] >= 45
    for hidden in found["hidden"].values():
        assert hidden["region"] < 0.2
        assert min(hidden["elsewhere"]) > 0.5
    assert found["pasted into others"]["difference"][1] > 0.5
    assert found["pasted into others"]["images"] == 10
    assert (bundle / "difference-crack-none.png").is_file()
    assert (bundle / "saliency_net.py").is_file()


def test_a_wrong_adapter_stops_it(repository):
    files = re.findall(r"```python\n(# \S+\n.*?)```", SKILL, re.DOTALL)
    (repository / "saliency_net.py").write_text(files[0].replace("mean=(118", "mean=(90"))
    filled = re.sub(
        r"REPOSITORY_LOGITS = \[.*?\]", f"REPOSITORY_LOGITS = {infer(repository)}", files[1]
    )
    (repository / "saliency_debug.py").write_text(filled)
    with pytest.raises(AssertionError, match="mend it"):
        runpy.run_path("saliency_debug.py")


def test_the_head_and_the_template():
    head = yaml.safe_load(SKILL.split("---\n")[1])
    assert re.fullmatch(r"[a-z0-9-]{1,64}", head["name"])
    assert len(head["description"]) < 1024
    for word in ("gap", "share", "before", "region", "elsewhere", "mean change", "version"):
        assert word in SKILL.partition("## 7.")[2], word


def test_the_contents_for_language_models_are_those_of_the_menu():
    script = runpy.run_path(str(ROOT / "scripts" / "llms_txt.py"))
    written = (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")
    assert script["page"]() == written, "run: uv run python scripts/llms_txt.py"
    for line in written.splitlines():
        if line.startswith("- ["):
            assert re.fullmatch(r"- \[[^]]+\]\(https://\S+\): \S.{10,}", line), line


def test_the_first_sentence_of_a_page():
    first = runpy.run_path(str(ROOT / "scripts" / "llms_txt.py"))["first_sentence"]
    assert first("# A\n\n```console\nx\n```\n\nA [b](c.md) **d** e. F? G.\n") == "A b d e. F?"
    assert first("---\nname: x\n---\n\n# A\n\n| a |\n\nB\nc: d:\n") == "B c: d."
    assert first(f"# A\n\nStatus: old.\n\n{'a ' * 40}b. C.") == f"{'a ' * 40}b."
    with pytest.raises(ValueError, match="needs a sentence"):
        first("# A\n\n| a |\n")
