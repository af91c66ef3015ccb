"""Write docs/metrics/ from the registry: one page per metric, and an index."""

import sys
from pathlib import Path

from torchsaliency.evaluation.bench import MEASURES
from torchsaliency.metrics import MetricEntry, metrics

FOLDER = Path(__file__).parents[1] / "docs" / "metrics"

INDEX = """# Metrics

This section describes every metric: what it rewards, and where it misleads.
`scripts/metric_pages.py` generates it from the registry; `torchsaliency metrics` prints the same
list.

```console
torchsaliency explain cat.jpg --method gradcam,opticam --score ad,ai,ag,insertion,deletion
```

```python
import torchsaliency
from torchsaliency.evaluation import score

net = torchsaliency.load_model("builtin/shapes_cnn")
x = torchsaliency.preprocess(torchsaliency.data.sample_photo("chelsea").path, net)
explanations = torchsaliency.explain(net, x, ["gradcam"])
scores = score(net, explanations["gradcam"], ["ad", "ag", "insertion"])  # each measure runs once
scores["ad"].summary()  # value, bootstrap 95 % interval, images, undefined images
scores["ad"].per_image  # one number per image
```

A *measure* (`torchsaliency.measures`) runs the network. A *metric* (`torchsaliency.metrics`)
computes numbers from measures; it is a pure function in `torchsaliency.metrics.functional` and a
`torchmetrics.Metric`. `torchsaliency.metrics.compare` compares two methods image by image
(Wilcoxon, effect size), and `rank_agreement` compares the rankings of two metrics (Kendall).
`torchsaliency.evaluation.studies` has studies of masked scores (selectivity, boxes, other
classes). The [errata](../errata.md) list where the papers and their code disagree.

Numbers of different maskings cannot be compared; every result names its masking.
"""


def _cost(measure: str) -> str:
    """Return what a measure costs for one image, without the clean pass that all share."""
    text = MEASURES.get(measure).summary
    return text if text.startswith("Nothing") else f"`{measure}`: {text[0].lower()}{text[1:]}"


def page(entry: MetricEntry) -> str:
    """Return the page of one metric."""
    known = entry.to_dict()
    arrow = {"higher": "higher is better", "lower": "lower is better", "neither": "no direction"}
    bounds = [
        f"{word} {value:g}"
        for word, value in (("perfect", entry.best), ("worst", entry.worst))
        if value is not None
    ]
    facts = [
        ("Direction", arrow[entry.direction]),
        ("Unit", ", ".join([entry.unit, *bounds])),
        ("Runs", " ".join(map(_cost, entry.requires))),
        ("Needs", f"{entry.annotations} of the objects" if entry.annotations else "no annotations"),
        ("`update` takes", ", ".join(f"`{name}`" for name in entry.inputs)),
        ("Class", f"`torchsaliency.metrics.{entry.factory.__name__}`"),
        ("Source", f"{known['source']} Key `{entry.cite}`."),
    ]
    lines = [f"# {entry.name}", "", entry.summary, "", known["formula"], ""]
    for title in ("rewards", "misleads", "undefined", "differs"):
        if known[title]:
            lines += [f"**{title.capitalize()}:** {known[title]}", ""]
    lines += ["| | |", "| --- | --- |", *(f"| {key} | {_cell(value)} |" for key, value in facts)]
    if entry.options:
        told = entry.describe_options()
        lines += ["", "Options:", ""]
        lines += [
            f"- `{key}` (default `{value!r}`): {told[key]}" for key, value in entry.options.items()
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def index() -> str:
    """Return the page that lists all metrics by group."""
    lines = [INDEX]
    groups = dict.fromkeys(entry.group for entry in metrics().values())
    for group in groups:
        lines += [f"## {group.capitalize()}", "", "| metric | better | unit | description |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [
            f"| [{entry.name}]({entry.name}.md) | {entry.direction} | {entry.unit} | "
            f"{_cell(entry.summary.partition(': ')[2] or entry.summary)} |"
            for entry in metrics().values()
            if entry.group == group
        ]
        lines.append("")
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Return every page by file name."""
    return {"index.md": index()} | {f"{name}.md": page(entry) for name, entry in metrics().items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for stale in set(FOLDER.glob("*.md")):
        stale.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{FOLDER}\n")
