"""The command line, `torchsaliency`: commands and their exit codes.

What a command needs is imported inside it, so that `--help` and mistakes are answered at once.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import typer
from typer.core import TyperGroup

from torchsaliency.cli import options
from torchsaliency.cli.console import give_json, say, speak_plainly, stdout
from torchsaliency.cli.process import prepare

OK, PARTIAL, WRONG, INTERRUPTED = 0, 1, 2, 130

_EXIT_CODES = (
    "Exit codes: 0 done; 1 done but for photos that could not be used (each is reported); "
    "2 wrong input, told in one sentence; 130 interrupted."
)

# Typer carries click's errors under a private name, or uses click's own, by version.
_CommandLineError = cast("type[Exception]", typer.BadParameter.__mro__[2])


class Sentences(TyperGroup):
    """Ends each mistake of the user with one sentence on stderr and exit code 2."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and leave the process with the exit code."""
        run = functools.partial(super().main, *args, **{**extra, "standalone_mode": False})
        if not standalone_mode:
            return run()
        sys.exit(_exit_code(run))


def _exit_code(run: Callable[[], Any]) -> int:
    from torchsaliency.errors import TorchSaliencyError

    try:
        code = run()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED  # newer Typers return this themselves
    except TorchSaliencyError as error:
        say(str(error).replace("weights=FILE", "--weights FILE"))  # as it is spelled here
        return WRONG
    except OSError as error:
        say(f"{error.filename or 'A file'} cannot be used ({error.strerror or error}).")
        return WRONG
    except _CommandLineError as error:
        message: str = getattr(error, "format_message", error.__str__)()
        say(message)
        return WRONG
    if code == INTERRUPTED:
        say("Interrupted.")
    return code if isinstance(code, int) else OK


app = typer.Typer(
    cls=Sentences,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="What is this vision network looking at?",
    epilog=_EXIT_CODES,
)


@app.callback()
def program(*, version: options.Version = None) -> None:
    """What is this vision network looking at?"""
    del version  # answered before any command


@app.command(epilog=_EXIT_CODES)
def demo(output: options.Output = Path("demo")) -> None:
    """Explain six built-in photographs with the built-in network, offline."""
    from torchsaliency.cli import demo as show
    from torchsaliency.cli.tables import demo_table

    shown = show.run(output)
    stdout.print(demo_table(shown.rows))
    stdout.print(
        "[dim]masked: the probability of the same class when only what Opti-CAM's map marks is "
        "shown, on grey[/dim]\n"
    )
    say_where(f"Look at {shown.picture}, all photos and methods side by side")
    say_where(f"{shown.files} files are in {shown.picture.parent}/, described in its manifest.json")


@app.command(epilog=_EXIT_CODES)
def explain(  # noqa: PLR0913 (Typer reads the options off the signature)
    photos: options.Photos,
    *,
    method: options.Methods = [],  # noqa: B006 (Typer's way to a default; never changed)
    settings: options.Settings = [],  # noqa: B006
    score: options.Scores = [],  # noqa: B006
    target: options.Targets = [],  # noqa: B006
    similar_to: options.SimilarTo = None,
    text: options.MatchingText = None,
    layer: options.Layers = [],  # noqa: B006
    masking: options.Masked = options.Baseline.MEAN,
    aug_smooth: options.Augment = False,
    eigen_smooth: options.EigenSmooth = False,
    model: options.Model = "builtin/efficientnet_lite0",
    weights: options.Weights = None,
    device: options.Device = "cpu",
    precision: options.Numbers = options.Precision.FLOAT32,
    fit: options.Fit = None,
    batch_size: options.BatchSize = 8,
    chunk: options.Chunk = None,
    accelerate: options.Accelerate = "off",
    output: options.Output = Path("saliency"),
    alpha: options.Alpha = 0.5,
    colormap: options.Colormap = "turbo",
    raw: options.Raw = True,
    grid: options.Grid = False,
    json: options.Json = False,
) -> None:
    """Show where a network looks in photographs.

    Per photo and method an overlay (PNG, at the photo's size) and the raw map (.npy), and one
    manifest.json that says everything needed to repeat them.
    """
    given = dict(locals())
    given.pop("json")
    from torchsaliency.cli.explain import run
    from torchsaliency.cli.request import Request
    from torchsaliency.cli.tables import findings_table, scores_table

    outcome = run(Request(**given))
    if json:
        give_json(outcome.manifest)
    else:
        made = outcome.manifest
        stdout.print(findings_table(made["photos"]))
        if made["scores"]:
            stdout.print(scores_table(made["scores"]))
        for name in made["grids"]:
            say_where(f"Look at {output / name}")
        count = sum(len(photo["maps"]) for photo in made["photos"])
        maps = "1 map is" if count == 1 else f"{count} maps are"
        say_where(f"{maps} in {output}/, described in its manifest.json")
    raise typer.Exit(OK if outcome.complete else PARTIAL)


@app.command()
def methods(*, json: options.Json = False) -> None:
    """List the methods: what they need, their papers, their options and defaults."""
    from torchsaliency.cli.lists import method_rows
    from torchsaliency.cli.tables import methods_table

    rows = method_rows()
    if json:
        give_json(rows)
    else:
        stdout.print(methods_table(rows))


@app.command()
def metrics(*, json: options.Json = False) -> None:
    """List the metrics: direction, unit, what each rewards and where it misleads."""
    from torchsaliency.cli.lists import metric_rows
    from torchsaliency.cli.tables import metrics_table

    rows = metric_rows()
    if json:
        give_json(rows)
    else:
        stdout.print(metrics_table(rows))


@app.command()
def models(*, text: options.Filter = "", json: options.Json = False) -> None:
    """List the networks that can be loaded by name; hf/NAME and file.py:factory work, too."""
    from torchsaliency.cli.lists import model_rows
    from torchsaliency.cli.tables import models_table

    rows = model_rows(text)
    if json:
        give_json(rows)
    elif rows:
        stdout.print(models_table(rows))
    else:
        say(f"No network's name contains {text!r}.")


@app.command()
def layers(
    model: options.ModelArgument = "builtin/efficientnet_lite0",
    weights: options.Weights = None,
    *,
    json: options.Json = False,
) -> None:
    """List the layers of a network at which maps can be read, and the default one.

    Without --weights the network has random weights: shapes do not depend on them, and nothing is
    downloaded.
    """
    from torchsaliency.cli.layers import spatial_layers
    from torchsaliency.cli.tables import layers_table
    from torchsaliency.zoo import load_model

    network = load_model(model, weights=weights, pretrained=False)
    rows = [dataclasses.asdict(layer) for layer in spatial_layers(network)]
    if json:
        give_json(rows)
    else:
        stdout.print(layers_table(rows))


@app.command(epilog=_EXIT_CODES)
def evaluate(  # noqa: PLR0913 (Typer reads the options off the signature)
    plan: options.PlanFile = None,
    *,
    data: options.Data = None,
    split: options.Split = None,
    boxes: options.Boxes = None,
    labels: options.LabelFile = None,
    count: options.Count = None,
    subset_seed: options.SubsetSeed = None,
    classes: options.Classes = [],  # noqa: B006 (Typer's way to a default; never changed)
    keep: options.Keep = None,
    model: options.ModelOrPlan = None,
    weights: options.Weights = None,
    judge: options.Judge = None,
    judge_weights: options.JudgeWeights = None,
    methods: options.MethodNames = None,
    metrics: options.MetricNames = None,
    settings: options.Settings = [],  # noqa: B006
    target: options.Target = None,
    layers: options.Layers = [],  # noqa: B006
    masking: options.BaselineOrPlan = None,
    fit: options.Fit = None,
    normalise: options.Normalise = None,
    seed: options.Seed = None,
    precision: options.PrecisionOrPlan = None,
    device: options.DeviceOrPlan = None,
    batch_size: options.BatchOrPlan = None,
    chunk: options.ChunkOrPlan = None,
    accelerate: options.AccelerateOrPlan = None,
    workers: options.Workers = None,
    maps: options.KeepMaps = None,
    output: options.Output = Path("evaluation"),
    json: options.Json = False,
) -> None:
    """Score methods by metrics over a whole data set; continues where it was stopped."""
    given = dict(locals())
    for name in ("plan", "settings", "output", "json"):
        given.pop(name)
    from torchsaliency.cli import evaluate as evaluating
    from torchsaliency.cli.table import show

    results, complete = evaluating.run(evaluating.asked_plan(plan, given, settings), output)
    show(results, "json" if json else "text")
    if not json:
        say_where(f"The rows are in {output}/; see `torchsaliency table {output}`")
    raise typer.Exit(OK if complete else PARTIAL)


@app.command(epilog=_EXIT_CODES)
def finetune(  # noqa: PLR0913 (Typer reads the options off the signature)
    *,
    data: options.TrainData,
    arch: options.Arch = "resnet50",
    weights: options.Weights = None,
    pretrained: options.Pretrained = True,
    fit: options.Fit = None,
    head_epochs: options.HeadEpochs = 10,
    head_rate: options.HeadRate = None,
    epochs: options.Epochs = 50,
    rate: options.Rate = 1e-5,
    weight_decay: options.Decay = 0.0,
    batch_size: options.Step = 32,
    flip: options.Flip = True,
    seed: options.TrainSeed = 0,
    device: options.Device = "cpu",
    workers: options.Workers = None,
    output: options.Output = Path("finetuned"),
    json: options.Json = False,
) -> None:
    """Train a network for the classes of a data set; continues where it was stopped.

    First a new head on the frozen network, then everything, as Opti-CAM's appendix E.2 does for
    medical images.
    """
    given = dict(locals())
    for name in ("output", "json"):
        given.pop(name)
    from torchsaliency.cli import finetune as finetuning

    report = finetuning.run(finetuning.asked_settings(given), output)
    if json:
        give_json(report.to_dict())
    else:
        finetuning.show(report)
        use = f"--model {report.settings.model} --weights {output / 'model.safetensors'}"
        say_where(f"Use the network by `torchsaliency explain PHOTO {use}`")
    raise typer.Exit(PARTIAL if report.skipped else OK)


@app.command()
def table(
    run: options.RunFolder,
    *,
    form: options.Format = "text",
    confidence: options.Confidence = 0.95,
) -> None:
    """Show what an evaluation found: best bold, second best underlined, with intervals."""
    from torchsaliency.cli.table import show
    from torchsaliency.evaluation import load_results

    show(load_results(run), form, confidence=confidence)


@app.command()
def compare(
    run: options.RunFolder,
    first: options.MethodA,
    second: options.MethodB,
    *,
    form: options.Format = "text",
) -> None:
    """Compare two methods of an evaluation, image by image."""
    from torchsaliency.cli.table import show_comparison
    from torchsaliency.evaluation import load_results

    show_comparison(load_results(run), first, second, form)


@app.command()
def recipes(*, json: options.Json = False) -> None:
    """List the papers' tables and figures that `reproduce` makes."""
    from torchsaliency.cli.reproduce import recipe_rows
    from torchsaliency.cli.tables import recipes_table

    rows = recipe_rows()
    if json:
        give_json(rows)
    else:
        stdout.print(recipes_table(rows))


@app.command()
def reproduce(  # noqa: PLR0913 (Typer reads the options off the signature)
    name: options.RecipeName,
    *,
    data: options.RecipeData = [],  # noqa: B006 (Typer's way to a default; never changed)
    model: options.RecipeModels = [],  # noqa: B006
    limit: options.Limit = None,
    masking: options.BaselineOrPlan = None,
    device: options.DeviceOrPlan = None,
    batch_size: options.BatchOrPlan = None,
    workers: options.Workers = None,
    output: options.OutputOrName = None,
    form: options.Format = "text",
) -> None:
    """Make a table or figure of the papers again: offline on built-in data, or on the real data."""
    from torchsaliency.cli import reproduce as reproducing
    from torchsaliency.cli.table import checked

    checked(form)
    changes = {
        "masking": None if masking is None else masking.value,
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
    }
    folder = output or Path("reproduced") / name
    found, complete = reproducing.run(name, folder, data, model, limit, changes)
    reproducing.show(found, form)
    if form == "text":
        say_where(reproducing.where(found))
    raise typer.Exit(OK if complete else PARTIAL)


@app.command("survey-score", epilog=_EXIT_CODES)
def survey_score(
    key: options.SurveyKey,
    answers: options.AnswerFiles,
    *,
    by: options.By = options.SurveyRow.NETWORK,
    confidence: options.Confidence = 0.95,
    form: options.Format = "text",
) -> None:
    """Score the answers to a survey that `reproduce opticam-appendixD` made."""
    from torchsaliency.cli import survey as surveying

    complete = surveying.run(key, answers, by.value, confidence, form)
    raise typer.Exit(OK if complete else PARTIAL)


def say_where(sentence: str) -> None:
    """Tell on stdout where something was written, on one line that can be copied."""
    stdout.print(f"{sentence}.", markup=False, soft_wrap=True)


def _say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(str(message))


def main() -> None:
    """Run the command line."""
    prepare()
    speak_plainly()
    warnings.showwarning = _say_warning
    app(prog_name="torchsaliency")


if __name__ == "__main__":
    main()
