"""Recipes that show instead of counting: grids of photographs and methods, and the survey."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from torchsaliency.core.explanation import Explanation
from torchsaliency.core.target import ClassTarget
from torchsaliency.data.dataset import VOID, Picture
from torchsaliency.data.fingerprints import draw_key
from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation.batches import Batch, batches, cut
from torchsaliency.evaluation.bench import Bench
from torchsaliency.evaluation.callbacks import Progress
from torchsaliency.evaluation.scoring import MetricValues, explain_batch, score_metrics
from torchsaliency.evaluation.setting import Setting, make_setting
from torchsaliency.measures import judging, network_stages, randomised_maps
from torchsaliency.metrics.segmentation import MeanIoU
from torchsaliency.papers.drawn import draw_once
from torchsaliency.papers.plans import Reproduction
from torchsaliency.papers.survey import KEY, PAGE, Case, make_survey
from torchsaliency.report.tables import Column
from torchsaliency.viz import Panel, Row, grid, overlay
from torchsaliency.viz.overlay import png
from torchsaliency.zoo import Network
from torchsaliency.zoo.placement import Placement

_COLORMAP, _ALPHA = "turbo", 0.5
"""The papers' figures have a rainbow, jet; turbo has its colours without its false edges."""

_CELL = 256
"""Pixels of a grid's cell."""

_COLUMNS = 10
"""Cells side by side; longer rows wrap."""

_RANDOM_CELL, _STAGES = 160, 5
"""Pixels of a map in the picture of random networks, and the stages that become random there."""

_SURVEY_SIDE = 768
"""The longer side of a survey's photograph, at most."""

_PALE = 0.15
"""What remains of the photograph outside a segmentation."""

_GREY = 128
"""The level of void pixels."""


def make_grid(run: Reproduction) -> None:
    """Opti-CAM's Figures 2 and 3, TMLR's 4 to 6 and 8 to 20: a row a photograph, a column a method.

    Under each map stand the plan's metrics of that image. Where one of them is mIoU, the object's
    mask is a column, too. The recipe's option `show` lists what is drawn of each method: "map",
    and "cut", the photograph where the map reaches the threshold of mIoU. Its option `where` lists
    conditions on the numbers of an image (method, metric, kind "above" or "below", value); then
    only the `images` that miss them by least are drawn, and how far each does is said.
    """
    for part in run.experiments:
        setting, name = make_setting(part.plan), f"{run.name_file('figure', part.label)}.png"
        write = partial(_write_grid, run, name, setting, part.label)
        if not draw_once(run, [name], [setting], write):
            run.report_progress(Progress(0, 0, before=len(setting.data)))


def make_survey_page(run: Reproduction) -> None:
    """Opti-CAM's appendix D: a page that asks which of two hidden networks did better, and a key.

    The plan's `count` images are taken of those that it keeps, drawn by its seed.
    """
    names = [part.label for part in run.experiments]
    plan = run.experiments[0].plan
    methods = [choice.label for choice in plan.methods]
    if len(names) != 2:  # noqa: PLR2004
        raise OptionError(
            f"A survey compares two different networks, and {', '.join(names)} was given; give "
            "--model twice."
        )
    if len(methods) != 1:
        raise OptionError(
            f"A survey shows the maps of one method, and {', '.join(methods)} were given."
        )
    published = {name: run.recipe.published.get(name, {}).get(methods[0], {}) for name in names}
    # the plan's count is of the images that are used, and it is not known yet which are kept
    settings = {
        part.label: make_setting(part.plan.model_copy(update={"count": None}))
        for part in run.experiments
    }

    def write_survey() -> None:
        cases = _cases(run, settings)
        notes = [*run.differs, *run.recipe.notes]
        if len(cases) < (wanted := plan.count or 0):
            notes.append(f"{wanted} photographs were requested, and {len(cases)} can be used.")
        survey = make_survey(
            cases,
            (names[0], names[1]),
            methods[0],
            seed=plan.subset_seed,
            published={name: share["preferred"] for name, share in published.items() if share},
            notes=notes,
        )
        run.pages += survey.write(run.output)

    if not draw_once(run, [PAGE, KEY], list(settings.values()), write_survey):
        run.report_progress(Progress(0, 0, before=plan.count or 0))


# --- maps of random networks ----------------------------------------------------------------------


def draw_random_maps(setting: Setting, count: int) -> bytes:
    """Draw the first images' maps by the trained network and by ever more random ones.

    Where the plan has a network of permuted labels, its maps are drawn instead, by every method.
    """
    batch = read_images(setting, count)
    labels = [*setting.methods] if setting.permuted is not None else [next(iter(setting.methods))]
    rows: list[dict[str, Tensor]] = [{} for _ in range(len(batch))]
    for label, bench in explain_batch(setting, batch, labels).items():
        titles, found = _explain_randomly(setting, bench.explanation)
        if len(labels) > 1:
            titles = [f"{label}, {title}" for title in titles]
        for row, maps in zip(rows, found.cpu(), strict=True):
            row |= dict(zip(titles, maps, strict=True))
    photos = [_photo(setting, image, _RANDOM_CELL) for image in batch.images]
    pairs = zip(photos, rows, strict=True)
    return png(grid([Row.of(photo, row) for photo, row in pairs], columns=1 + len(rows[0])))


def _explain_randomly(setting: Setting, explanation: Explanation) -> tuple[list[str], Tensor]:
    """Return the maps (N, 1 + L, H, W) of the trained network and of L others, and their titles."""
    if setting.permuted is not None:
        titles = ["permuted labels"]
        how: dict[str, Any] = {"mode": "labels", "permuted": setting.permuted}
    else:
        stages = network_stages(setting.network)[:_STAGES]
        titles = [f"+ {name}" if place else f"random {name}" for place, name in enumerate(stages)]
        how = {"stages": stages, "seed": setting.plan.seed}
    found = randomised_maps(setting.network, explanation, chunk=setting.plan.chunk, **how)
    return ["trained", *titles], torch.cat([found.maps[:, None], found.random_maps], 1)


def read_images(setting: Setting, count: int) -> Batch:
    """Return the first images that can be read."""
    found: list[Batch] = []
    for batch, _ in batches(setting, cut(len(setting.data), 1), workers=0):
        if batch is not None:
            found.append(batch)
        if len(found) == count:
            break
    return Batch.join(found)


# --- grids ----------------------------------------------------------------------------------------


def _write_grid(run: Reproduction, name: str, setting: Setting, label: str) -> None:
    wanted = run.options.get("where", ())
    kinds = tuple(run.options.get("show", ("map",)))
    found: list[tuple[float, Row]] = []
    for batch, benches in _explain(run, setting):
        scored = {label: score_metrics(setting, bench) for label, bench in benches.items()}
        rows = _rows(setting, batch, benches, scored, kinds)
        if wanted:
            found += _tell_misses(rows, _sum_misses(scored, wanted))
            found = sorted(found, key=itemgetter(0))[: int(run.options["images"])]
        else:
            found += [(0.0, row) for row in rows]
    chosen = [row for _, row in found]
    if not chosen:
        raise DataError(f"None of the {len(setting.data)} images of {label} can be used.")
    picture = grid(
        chosen,
        width=_CELL,
        # a pair of map and cut must not be torn apart
        columns=max(_COLUMNS, 2 + len(kinds) * len(setting.methods) * (len(kinds) > 1)),
        colormap=_COLORMAP,
        colour_bar="map" in kinds,
    )
    run.write_page(name, png(picture))


def _explain(run: Reproduction, setting: Setting) -> Iterator[tuple[Batch, dict[str, Bench]]]:
    """Explain the images batch by batch."""
    count = len(setting.data)
    done = skipped = 0
    run.report_progress(Progress(done, count))
    for batch, failed in batches(setting):
        skipped += len(failed)
        if batch is not None:
            yield batch, explain_batch(setting, batch)
        done += len(failed) + (0 if batch is None else len(batch))
        run.report_progress(Progress(done, count, skipped=skipped))


def _sum_misses(
    scored: Mapping[str, Sequence[MetricValues]], wanted: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return by how many points each image misses conditions; infinite where one is undefined."""
    misses = []
    for condition in wanted:
        values = next(
            score.values
            for score in scored[condition["method"]]
            if score.metric == condition["metric"]
        )
        beyond = values.double().cpu() - float(condition["value"])
        short = beyond if condition["kind"] == "below" else -beyond
        misses.append(short.clamp_min(0).nan_to_num(nan=math.inf, posinf=math.inf))
    total: list[float] = torch.stack(misses).sum(0).tolist()
    return total


def _tell_misses(rows: Iterable[Row], misses: Sequence[float]) -> list[tuple[float, Row]]:
    """Write under each photograph by how much it misses the conditions."""
    told = []
    for row, miss in zip(rows, misses, strict=True):
        photo = cast("Panel", row.photo)
        words = f"misses by {miss:.1f} points" if miss else "meets the conditions"
        about = replace(photo, subtitle=f"{photo.subtitle}\n{words}")
        told.append((miss, replace(row, photo=about)))
    return told


def _rows(
    setting: Setting,
    batch: Batch,
    benches: Mapping[str, Bench],
    scored: Mapping[str, Sequence[MetricValues]],
    kinds: Sequence[str],
) -> Iterator[Row]:
    """Draw a row an image: the photograph, its mask if it has one, and every method."""
    masks = batch.masks
    thresholds = (
        metric.threshold for metric in setting.metrics.values() if isinstance(metric, MeanIoU)
    )
    threshold = next(thresholds, 0.5)
    first = next(iter(benches.values())).explanation
    for place, name in enumerate(batch.ids):
        photo = _photo(setting, batch.images[place])
        panels = []
        if masks is not None:
            mask = masks[place]
            panels.append(Panel(_cut(photo, mask != 0, mask == VOID), "ground truth"))
        for method, bench in benches.items():
            explanation = bench.explanation
            values = explanation.map[place].float().cpu()
            numbers = _numbers(setting, explanation, scored[method], place)
            for kind in kinds:
                cut = kind == "cut"
                picture = (
                    _cut(photo, values >= threshold)
                    if cut
                    else overlay(photo, values, alpha=_ALPHA, colormap=_COLORMAP)
                )
                title = f"{method} ≥ {threshold:g}" if cut else method
                panels.append(Panel(picture, title, numbers if kind == kinds[-1] else ""))
        subtitle = "\n".join(filter(None, (_class_of(setting.network, first, place), name)))
        yield Row(tuple(panels), Panel(photo, "photo", subtitle))


def _photo(setting: Setting, image: Tensor, side: int = _CELL) -> Image.Image:
    """Return what the network saw, at a cell's size: small inputs would show their pixels."""
    values = setting.photo_preprocessing.denormalise(image[None])[0].permute(1, 2, 0)
    picture = Image.fromarray(values.mul(255).round().byte().cpu().numpy())
    height, width = image.shape[1:]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _cut(photo: Image.Image, inside: Tensor, void: Tensor | None = None) -> Image.Image:
    """Return the photograph where `inside` (h, w) is true, paled elsewhere, grey where `void`."""
    shown = np.asarray(_stretch(inside, photo))
    pixels = np.asarray(photo, dtype=np.float32)
    pale = 255 - _PALE * (255 - pixels)
    found = np.where(shown[..., None], pixels, pale)
    if void is not None:
        found = np.where(np.asarray(_stretch(void, photo))[..., None], _GREY, found)
    return Image.fromarray(found.round().astype(np.uint8))


def _stretch(where: Tensor, photo: Image.Image) -> Image.Image:
    pixels = Image.fromarray(where.cpu().byte().mul(255).numpy())
    return pixels.resize(photo.size, Image.Resampling.NEAREST)


def _numbers(
    setting: Setting, explanation: Explanation, scored: Sequence[MetricValues], place: int
) -> str:
    """Return what stands under a map: what is wrong with it, or the image's own numbers."""
    if explanation.status[place] != "ok":
        return explanation.status[place]
    lines = []
    for score in scored:
        unit = setting.metrics[score.metric].entry.unit
        value = float(score.values[place])
        number = "undefined" if math.isnan(value) else Column("", unit).format_number(value)
        lines.append(f"{score.metric} {number}{' %' if unit == '%' else ''}")
    return "\n".join(lines)


def _class_of(network: Network, explanation: Explanation, place: int) -> str:
    """Return the explained class and its probability; nothing of an encoder."""
    target, output = explanation.target, explanation.output
    scores = explanation.scores
    if not (scores.classes and isinstance(target, ClassTarget) and isinstance(output, Tensor)):
        return ""
    label = int(target.labels[place])
    share = float(scores.probabilities(output[place].float())[label])
    return f"{network.class_name(label).partition(',')[0]}  {share:.1%}"


# --- the survey -----------------------------------------------------------------------------------


def _cases(run: Reproduction, settings: Mapping[str, Setting]) -> list[Case]:
    """Explain images by both networks, in the order drawn, until there are enough."""
    plan = run.experiments[0].plan
    data = next(iter(settings.values())).data
    wanted = min(plan.count or len(data), len(data))
    order = sorted(
        range(len(data)), key=lambda place: draw_key(plan.subset_seed, data.samples[place].id)
    )
    cases: list[Case] = []
    skipped = 0
    run.report_progress(Progress(0, wanted))
    for start in range(0, len(order), plan.batch_size):
        pictures = []
        for place in order[start : start + plan.batch_size]:
            try:
                pictures.append(data.picture(place))
            except DataError:
                skipped += 1
        kept = _keep(list(settings.values()), pictures)[: wanted - len(cases)]
        cases += _explain_cases(settings, kept) if kept else []
        run.report_progress(Progress(len(cases), wanted, skipped=skipped))
        if len(cases) == wanted:
            break
    if not cases:
        which = "readable" if plan.keep == "all" else f"{plan.keep} by both networks"
        raise DataError(f"None of the {len(data)} images is {which}; give other data or networks.")
    return cases


def _keep(settings: Sequence[Setting], pictures: list[Picture]) -> list[Picture]:
    """Return the pictures that both networks classify as the plan wants them to."""
    keep = settings[0].plan.keep
    if keep == "all" or not pictures:
        return pictures
    right = []
    for setting in settings:
        with judging(setting.network, _inputs(setting, pictures)) as judge:
            top = judge.clean_logits(None).argmax(1).tolist()
        right.append([a == b for a, b in zip(top, _labels(setting, pictures), strict=True)])
    wanted = keep == "correct"
    return [
        picture
        for picture, verdicts in zip(pictures, zip(*right, strict=True), strict=True)
        if all(verdict == wanted for verdict in verdicts)
    ]


def _explain_cases(settings: Mapping[str, Setting], pictures: list[Picture]) -> list[Case]:
    maps = {}
    for name, setting in settings.items():
        target = None
        if not setting.network.encoder:
            target = setting.target_of(_labels(setting, pictures))
        images = _inputs(setting, pictures).to(setting.plan.device)
        (explanation,) = setting.explain(images, target).values()
        maps[name] = explanation.map.float().cpu()
    return [
        _case(
            picture,
            [
                setting.photo_preprocessing.placement((picture.image.height, picture.image.width))
                for setting in settings.values()
            ],
            {name: values[place] for name, values in maps.items()},
        )
        for place, picture in enumerate(pictures)
    ]


def _case(picture: Picture, places: Sequence[Placement], maps: dict[str, Tensor]) -> Case:
    """Cut the photograph to what both networks saw: what one did not see would tell them apart."""
    photo = picture.image
    top = max(0, *(round(place.top) for place in places))
    left = max(0, *(round(place.left) for place in places))
    bottom = min(photo.height, *(round(place.top + place.height) for place in places))
    right = min(photo.width, *(round(place.left + place.width) for place in places))
    # a survey holds every case at once, and shows none of them larger
    scale = min(1.0, _SURVEY_SIDE / max(bottom - top, right - left))
    height, width = (max(1, round(scale * side)) for side in (bottom - top, right - left))
    cut_maps = {
        name: Placement(
            photo_size=(height, width),
            top=(place.top - top) * scale,
            left=(place.left - left) * scale,
            height=place.height * scale,
            width=place.width * scale,
        ).to_photo(values)
        for (name, values), place in zip(maps.items(), places, strict=True)
    }
    cropped = photo.crop((left, top, right, bottom))
    return Case(
        picture.sample.id, cropped.resize((width, height), Image.Resampling.LANCZOS), cut_maps
    )


# --- what they share ------------------------------------------------------------------------------


def _inputs(setting: Setting, pictures: Sequence[Picture]) -> Tensor:
    return torch.stack([setting.preprocessing(picture.image) for picture in pictures])


def _labels(setting: Setting, pictures: Sequence[Picture]) -> list[int | None]:
    return [setting.class_of_label.get(picture.sample.label) for picture in pictures]
