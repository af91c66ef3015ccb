"""`torchsaliency report`: one HTML file of photographs with their maps, or of an evaluation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from torchsaliency.cli.console import print_line
from torchsaliency.cli.options import ExplainCommandOptions
from torchsaliency.cli.progress import show_progress
from torchsaliency.errors import OptionError
from torchsaliency.options import WRITTEN, ExplainOptions, option

if TYPE_CHECKING:
    from torchsaliency.cli.answers import Answer, Photo
    from torchsaliency.cli.run import Run
    from torchsaliency.core.explanation import Explanation
    from torchsaliency.pages import PhotoView

_RUN = "run.json"


class ReportOptions(ExplainOptions):
    """What the report shows, and where it is written."""

    what: tuple[str, ...] = option(
        ...,
        "",
        "What `torchsaliency evaluate --output` wrote; or photographs, folders of them, scans, "
        "videos or samples, as of `explain`.",
        metavar="RUN|PHOTO...",
    )
    images: int = option(
        12, WRITTEN, "Of an evaluation: images that are shown with their maps.", ge=0, le=200
    )
    output: Path = option(Path("report.html"), WRITTEN, "The file.", metavar="FILE")


def report(options: ReportOptions) -> int:
    """Write one HTML file that shows everything and loads nothing: open it from the disk."""
    from torchsaliency.core.files import OutputFolder

    if options.output.suffix.lower() not in {".html", ".htm"}:
        raise OptionError(f"--output {options.output} was given; give a file that ends in .html.")
    runs = [word for word in options.what if _is_run(word)]
    if runs and len(options.what) > 1:
        raise OptionError(
            f"{runs[0]} is an evaluation, and {len(options.what)} names were given; give it alone."
        )
    folder = OutputFolder(options.output.expanduser().absolute().parent)
    with folder.lock():
        folder.require_own([options.output.name])
        html, code = _report_evaluation(options) if runs else _report_photos(options)
        folder.write(options.output.name, html.encode(errors="replace"))
    size = len(html.encode(errors="replace")) / 1e6
    print_line(f"{options.output} has {size:.1f} MB and loads nothing; open it in a browser.")
    return code


def _is_run(word: str) -> bool:
    if "://" not in word:
        return (Path(word) / _RUN).is_file()
    from torchsaliency.evaluation import Store

    return Store(word).facts is not None


def _report_evaluation(options: ReportOptions) -> tuple[str, int]:
    if given := options.model_fields_set - {"what", "images", "output"}:
        raise OptionError(
            f"--{min(given).replace('_', '-')} was given with an evaluation, which has its own "
            "plan; leave it out."
        )
    from torchsaliency.pages.evaluations import evaluation_report

    with show_progress("making maps again", "images") as meter:
        html = evaluation_report(
            options.what[0],
            images=options.images,
            watch=lambda done, total: meter.update(done=done, total=total),
        )
    return html, 0


def _report_photos(options: ReportOptions) -> tuple[str, int]:
    from torchsaliency.cli.photographs import prepare_run
    from torchsaliency.core.acceleration import accelerated
    from torchsaliency.pages.report import About, photos_report

    given = options.model_dump(
        include=options.model_fields_set & ExplainOptions.model_fields.keys()
    )
    if options.grid:
        raise OptionError("--grid was given; a report is a grid itself: leave it out.")
    with tempfile.TemporaryDirectory() as folder:
        asked = ExplainCommandOptions(photos=options.what, output=Path(folder, "maps"), **given)
        run = prepare_run(asked)
        gathered = Gathered(run)
        run.view = gathered.add
        with accelerated(options.accelerate):
            manifest = run.explain_all()
    failures = {one["path"]: one["reason"] for one in manifest["skipped_photos"]}
    failures |= manifest["skipped_methods"]
    html = photos_report(
        gathered.views, About(_describe(manifest), failures), colormap=options.colormap
    )
    return html, 1 if manifest["skipped_photos"] else 0


def _describe(manifest: Mapping[str, Any]) -> dict[str, str]:
    network = manifest["network"]
    return {
        "Command": " ".join(manifest["command"]),
        "Network": str(network["name"]),
        "Weights": str(network.get("sha256", "")),
        "Methods": json.dumps({name: one["options"] for name, one in manifest["methods"].items()}),
        "Layers": "; ".join(
            dict.fromkeys(", ".join(one["layers"]) for p in manifest["photos"] for one in p["maps"])
        ),
        "Masking": json.dumps(manifest["masking"]),
        "Preprocessing": json.dumps(manifest["preprocessing"]),
        "Versions": ", ".join(f"{name} {text}" for name, text in manifest["versions"].items()),
        "Photographs": ", ".join(f"{p['name']} {p['sha256'][:12]}" for p in manifest["photos"]),
    }


@final
class Gathered:
    """Takes the maps of a run as the viewer shows them."""

    def __init__(self, run: Run) -> None:
        self.views: list[PhotoView] = []
        self._run = run

    def add(self, photo: Photo, picture: Any, answers: Sequence[Answer], row: int) -> None:
        """Take the maps of one photograph: all targets beside each other."""
        from torchsaliency.cli.media import Photographs
        from torchsaliency.pages import view_photo, view_volume

        run = self._run
        explanations, facts, names = {}, {}, []
        for answer in answers:
            for method, explanation in answer.maps.items():
                label = method if len(answers) == 1 else f"{method} · {answer.target}"
                explanations[label] = explanation
                names.append(method)
                facts[label] = self._facts(answer, method, explanation, row)
        if isinstance(run._medium, Photographs):
            view = view_photo(
                picture,
                explanations,
                model=run.preprocessing,
                classes=run.network.classes,
                index=row,
                title=photo.name,
                signed=run.options.signed,
                facts=facts,
            )
            maps = zip(view.maps, names, strict=True)  # what is explained stands below
            named = tuple(replace(one, title=name, group=name) for one, name in maps)
            self.views.append(replace(view, maps=named))
        else:
            self.views += view_volume(
                picture,
                explanations,
                run._medium.preprocessing,
                classes=run.network.classes,
                index=row,
                title=photo.name,
                facts=facts,
            )

    def _facts(
        self, answer: Answer, method: str, explanation: Explanation, row: int
    ) -> tuple[str, ...]:
        from torchsaliency.pages.masked import describe_masked

        masked = describe_masked(self._run.network, explanation[row], self._run.masking)
        scores = {name: column[row][0] for name, column in answer.scores[method].items()}
        known = {"ad", "ag"} if masked else set()  # the words on masking have these two
        units = {name: metric.entry.unit for name, metric in self._run.metrics.items()}
        words = [
            f"{name} {value:.3g} {units[name]}".rstrip()
            for name, value in scores.items()
            if value is not None and name not in known
        ]
        return (*masked, *([", ".join(words)] if words else []))
