"""Write docs/metrics/: one page a metric and an index, from the registry."""

import sys
from pathlib import Path

from torchsaliency.metrics import MetricEntry, metrics

FOLDER = Path(__file__).parents[1] / "docs" / "metrics"

MEASURES = {
    "maps": "Nothing runs: the maps alone are read.",
    "masked_scores": "`masked_scores`: one masked pass an image, shared by all that need it.",
    "masked_maps": "`masked_maps`: the method explains the masked image once more.",
    "masked_embeddings": "`masked_embeddings`: one masked pass an image.",
    "perturbation_curve": "`perturbation_curve`: as many passes as the image has rows (224).",
    "region_curve": "`region_curve`: a pass a region (10).",
    "removal_curves": "`removal_curves`: two passes a percentage (18).",
    "square_removals": "`square_removals`: a pass a square (100), shared by all methods.",
    "crop_scores": "`crop_scores`: one pass an image.",
    "predictions": "The judge's prediction on the clean image, which is known.",
    "noisy_maps": "`noisy_maps`: the method explains ten noisy copies.",
    "randomised_maps": "`randomised_maps`: the method explains with five randomised networks.",
}
"""What each measure costs for one image, beyond the clean pass that all share."""

INDEX = """# Metrics

Made by `scripts/metric_pages.py` from the registry; `torchsaliency metrics` prints the same list.

```console
torchsaliency explain cat.jpg --method gradcam,opticam --score ad,ai,ag,insertion,deletion
```

```python
from torchsaliency.evaluation import score

found = score(net, made["gradcam"], ["ad", "ag", "insertion"])  # measures run once each
found["ad"].summary()  # value, bootstrap 95 % interval, images, undefined images
found["ad"].per_image  # one number an image
```

A *measure* (`torchsaliency.measures`) runs the network; a *metric* (`torchsaliency.metrics`) only
makes numbers of what measures found: each is a pure function in `torchsaliency.metrics.functional`
and a `torchmetrics.Metric`. Two methods are compared image by image with
`torchsaliency.metrics.compare` (Wilcoxon, effect size), two metrics' rankings with
`rank_agreement` (Kendall). Studies of masked scores (selectivity, boxes, other classes, no input
normalisation) are in `torchsaliency.evaluation.studies`. What the papers print and what is followed
here: [errata](../errata.md).

Numbers of different maskings cannot be compared; every result names its masking.
"""


def page(entry: MetricEntry) -> str:
    """Return one metric's page."""
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
        ("Runs", " ".join(MEASURES[name] for name in entry.requires)),
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
        lines += ["", "Options:", ""]
        lines += [f"- `{key}` (default `{value!r}`)" for key, value in entry.options.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def index() -> str:
    """Return the page that lists all metrics by group."""
    lines = [INDEX]
    groups = dict.fromkeys(entry.group for entry in metrics().values())
    for group in groups:
        lines += [f"## {group.capitalize()}", "", "| metric | better | unit | in short |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [
            f"| [{one.name}]({one.name}.md) | {one.direction} | {one.unit} | "
            f"{_cell(one.summary.partition(': ')[2] or one.summary)} |"
            for one in metrics().values()
            if one.group == group
        ]
        lines.append("")
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Return every page by file name."""
    made = {f"{name}.md": page(entry) for name, entry in metrics().items()}
    return {"index.md": index(), **made}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for stale in set(FOLDER.glob("*.md")):
        stale.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{FOLDER}\n")
