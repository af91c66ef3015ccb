"""`torchsaliency demo`: six real photographs, a real network and both papers' methods, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape

from torchsaliency.cli.console import grid_of, print_line, stdout
from torchsaliency.options import WRITTEN, ExplainOptions, Options, option

_SHEET, _JUDGED = "demo", "opticam"
_METHODS: dict[str, dict[str, Any]] = {
    "gradcam": {},
    "layercam": {},
    "eigencam": {},
    "tsm": {},
    "mtsm": {},
    # the paper's 100 iterations of Adam take ten seconds a photo on two cores
    "opticam": {"solver": "trust-region", "iterations": 20},
}


class DemoOptions(Options):
    """Where the demo is written."""

    output: Path = option(Path("demo"), WRITTEN, "Made if it does not exist.", metavar="FOLDER")


def demo(options: DemoOptions) -> None:
    """Explain six built-in photographs with the built-in network, offline."""
    from torchsaliency.cli.folder import Folder
    from torchsaliency.cli.grid import Grid
    from torchsaliency.cli.run import Run
    from torchsaliency.core.method import create
    from torchsaliency.data import sample_paths
    from torchsaliency.zoo import load_model

    photos, folder = sample_paths(), Folder(options.output)
    settings = ExplainOptions(batch_size=len(photos), raw=False, grid=True)
    methods = {name: create(name, given) for name, given in _METHODS.items()}
    network = load_model(settings.model)
    pictures = Grid(folder, settings.colormap, _SHEET)
    run = Run(settings, folder, photos, network, methods, masked=True, pictures=pictures)
    manifest = run.explain_all()
    table = grid_of("photo", "class", "probability", "masked", right=("probability", "masked"))
    for photo in manifest["photos"]:
        judged = next(facts for facts in photo["maps"] if facts["method"] == _JUDGED)
        target = judged["target"]
        shares = f"{target['probability']:.1%}", f"{judged['masked']:.1%}"
        table.add_row(photo["name"], escape(target["name"]), *shares)
    stdout.print(table)
    stdout.print(
        "[dim]masked: the probability of the same class when only what Opti-CAM's map marks is "
        "shown, on grey[/dim]\n"
    )
    picture = folder.path / pictures.written[0]
    print_line(f"Look at {picture}, all photos and methods side by side.")
    print_line(
        f"{len(run.files) + 2} files are in {picture.parent}/, described in its manifest.json."
    )
