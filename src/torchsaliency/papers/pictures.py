"""Recipes that show instead of counting: grids of photographs and methods, and the survey."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.target import ClassTarget
from torchsaliency.data.dataset import VOID, Picture, draw_key
from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation.batches import Batch, batches
from torchsaliency.evaluation.probes import Scene, Scored
from torchsaliency.evaluation.runner import Progress
from torchsaliency.evaluation.setting import LABEL, PREDICTED, Setting, make_setting
from torchsaliency.measures import judging
from torchsaliency.metrics.segmentation import MeanIoU
from torchsaliency.papers.plans import Job, Part
from torchsaliency.papers.reproduce import Made, maker
from torchsaliency.papers.survey import Case, make_survey
from torchsaliency.report.tables import Column
from torchsaliency.viz import Panel, Row, grid, overlay
from torchsaliency.viz.overlay import png
from torchsaliency.zoo import Network
from torchsaliency.zoo.placement import Placement

_CELL = 256
"""Pixels of a grid's cell."""

_COLUMNS = 10
"""Cells side by side; longer rows wrap."""

_SHOWN = 768
"""The longer side of a survey's photograph, at most."""

_PALE = 0.15
"""What remains of the photograph outside a segmentation."""

_GREY = 128
"""The level of void pixels."""


@maker("grid")
def make_grid(job: Job) -> Made:
    """The TMLR paper's Figures 4 to 6 and 8 to 20: a row a photograph, a column a method.

    Under each map stand the plan's metrics of that image. Where one of them is mIoU, the object's
    mask is a column, too. The recipe's option `show` lists what is drawn of each method: "map",
    and "cut", the photograph where the map reaches the threshold of mIoU.
    """
    shown = tuple(job.options.get("show", ("map",)))
    pages = []
    for part in job.parts:
        setting = job.setting(part)
        rows = [row for scene in _scenes(job, setting) for row in _rows(scene, shown)]
        if not rows:
            raise DataError(f"None of the {len(setting.data)} images of {part.label} can be used.")
        each = len(setting.methods) * len(shown)
        picture = grid(
            rows,
            width=_CELL,
            # a pair of map and cut must not be torn apart
            columns=max(_COLUMNS, 2 + each) if len(shown) > 1 else _COLUMNS,
            colour_bar="map" in shown,
        )
        name = f"{job.name('figure', part)}.png"
        job.output.write(name, png(picture))
        pages.append(job.output.path / name)
    return Made(pages=tuple(pages))


@maker("survey")
def make_survey_page(job: Job) -> Made:
    """Opti-CAM's appendix D: a page that asks which of two hidden networks did better, and a key.

    The plan's `count` images are shown of those that it keeps, drawn by its seed.
    """
    first, second = _pair(job)
    method = first.plan.methods[0].label
    names = (first.label, second.label)
    known = {name: job.recipe.published.get(name, {}).get(method, {}) for name in names}
    cases = _cases(job, (first, second))
    notes = [*job.differs, *job.recipe.notes]
    if len(cases) < (wanted := first.plan.count or 0):
        notes.append(f"{wanted} photographs were asked for, and {len(cases)} can be shown.")
    made = make_survey(
        cases,
        names,
        method,
        seed=first.plan.subset_seed,
        published={name: one["preferred"] for name, one in known.items() if one},
        notes=notes,
    )
    return Made(pages=made.write(job.output))


# --- grids ---------------------------------------------------------------------------------------


def _scenes(job: Job, setting: Setting) -> Iterator[Scene]:
    """Explain the images batch by batch."""
    plan, count = setting.plan, len(setting.data)
    groups = [
        list(range(at, min(at + plan.batch_size, count))) for at in range(0, count, plan.batch_size)
    ]
    done = skipped = 0
    _tell(job, done, count)
    for batch, failed in batches(setting, groups, plan.workers):
        skipped += len(failed)
        if batch is not None:
            yield _scene(setting, batch)
        done += len(failed) + (0 if batch is None else len(batch))
        _tell(job, done, count, skipped)


def _scene(setting: Setting, batch: Batch) -> Scene:
    target = _target(setting, batch.labels)
    made = _explained(setting, batch.images, target)
    return Scene(
        setting,
        batch,
        batch.images.to(setting.plan.device),
        None if batch.judged is None else batch.judged.to(setting.plan.device),
        None,
        target,
        made,
        setting.plan.chunk,
    )


def _rows(scene: Scene, shown: Sequence[str]) -> Iterator[Row]:
    """Draw a row an image: the photograph, its mask if it has one, and every method."""
    setting, masks, scored = scene.setting, scene.batch.masks, scene.metrics()
    thresholds = (one.threshold for one in setting.metrics.values() if isinstance(one, MeanIoU))
    threshold = next(thresholds, 0.5)
    some = next(iter(scene.made.values()))
    for place, name in enumerate(scene.batch.ids):
        photo = _photo(setting, scene.batch.images[place])
        panels = []
        if masks is not None:
            mask = masks[place]
            panels.append(Panel(_cut(photo, mask != 0, mask == VOID), "ground truth"))
        for method, explanation in scene.made.items():
            values = explanation.map[place].float().cpu()
            said = _numbers(setting, explanation, scored[method], place)
            for kind in shown:
                cut = kind == "cut"
                panels.append(
                    Panel(
                        _cut(photo, values >= threshold) if cut else overlay(photo, values),
                        f"{method} ≥ {threshold:g}" if cut else method,
                        said if kind == shown[-1] else "",
                    )
                )
        told = [_class_of(setting.network, some, place), name]
        yield Row(tuple(panels), Panel(photo, "photo", "\n".join(filter(None, told))))


def _photo(setting: Setting, image: Tensor) -> Image.Image:
    """Return what the network saw, at a cell's size: small inputs would show their pixels."""
    values = setting.preprocessing.denormalise(image[None])[0].permute(1, 2, 0)
    picture = Image.fromarray(values.mul(255).round().byte().cpu().numpy())
    height, width = image.shape[1:]
    scale = _CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _cut(photo: Image.Image, inside: Tensor, void: Tensor | None = None) -> Image.Image:
    """Return the photograph where `inside` (h, w) is true, paled elsewhere, grey where `void`."""
    shown = np.asarray(_stretched(inside, photo))
    pixels = np.asarray(photo, dtype=np.float32)
    pale = 255 - _PALE * (255 - pixels)
    found = np.where(shown[..., None], pixels, pale)
    if void is not None:
        found = np.where(np.asarray(_stretched(void, photo))[..., None], _GREY, found)
    return Image.fromarray(found.round().astype(np.uint8))


def _stretched(where: Tensor, photo: Image.Image) -> Image.Image:
    pixels = Image.fromarray(where.cpu().byte().mul(255).numpy())
    return pixels.resize(photo.size, Image.Resampling.NEAREST)


def _numbers(
    setting: Setting, explanation: Explanation, scored: Sequence[Scored], place: int
) -> str:
    """Return what stands under a map: what is wrong with it, or the image's own numbers."""
    if explanation.status[place] != "ok":
        return explanation.status[place]
    told = []
    for one in scored:
        unit = setting.metrics[one.metric].entry.unit
        value = float(one.values[place])
        number = "undefined" if math.isnan(value) else Column("", unit).text(value)
        told.append(f"{one.metric} {number}{' %' if unit == '%' else ''}")
    return "\n".join(told)


def _class_of(network: Network, explanation: Explanation, place: int) -> str:
    """Return the explained class and its probability; nothing of an encoder."""
    target, output = explanation.target, explanation.output
    if network.encoder or not (isinstance(target, ClassTarget) and isinstance(output, Tensor)):
        return ""
    label = int(target.labels[place])
    share = float(output[place].float().softmax(-1)[label])
    return f"{network.class_name(label).partition(',')[0]}  {share:.1%}"


# --- the survey ----------------------------------------------------------------------------------


def _pair(job: Job) -> tuple[Part, Part]:
    """Return the two parts, which differ in their networks and share one method."""
    if len(job.parts) != 2:  # noqa: PLR2004
        given = ", ".join(part.label for part in job.parts)
        raise OptionError(
            f"A survey compares two different networks, and {given} was given; give --model twice."
        )
    first, second = job.parts
    if len(first.plan.methods) != 1:
        listed = ", ".join(one.label for one in first.plan.methods)
        raise OptionError(f"A survey shows the maps of one method, and {listed} were given.")
    return first, second


def _cases(job: Job, parts: Sequence[Part]) -> list[Case]:
    """Explain images by both networks, in the order drawn, until there are enough."""
    plan = parts[0].plan
    # the plan's count is of the images that are shown, and it is not known yet which are kept
    settings = [make_setting(part.plan.model_copy(update={"count": None})) for part in parts]
    data = settings[0].data
    wanted = min(plan.count or len(data), len(data))
    order = sorted(
        range(len(data)), key=lambda place: draw_key(plan.subset_seed, data.samples[place].id)
    )
    found: list[Case] = []
    skipped = 0
    _tell(job, 0, wanted)
    for start in range(0, len(order), plan.batch_size):
        opened = []
        for place in order[start : start + plan.batch_size]:
            try:
                opened.append(data.picture(place))
            except DataError:
                skipped += 1
        kept = _kept(settings, opened)[: wanted - len(found)]
        found += _explained_cases(settings, [part.label for part in parts], kept)
        _tell(job, len(found), wanted, skipped)
        if len(found) == wanted:
            break
    if not found:
        which = "readable" if plan.keep == "all" else f"{plan.keep} by both networks"
        raise DataError(f"None of the {len(data)} images is {which}; give other data or networks.")
    return found


def _kept(settings: Sequence[Setting], pictures: list[Picture]) -> list[Picture]:
    """Return the pictures that both networks classify as the plan wants them to."""
    keep = settings[0].plan.keep
    if keep == "all" or not pictures:
        return pictures
    right = torch.ones(len(settings), len(pictures), dtype=torch.bool)
    for row, setting in zip(right, settings, strict=True):
        with judging(setting.network, _inputs(setting, pictures)) as judge:
            top = judge.clean_logits(None).argmax(1).tolist()
        labels = _labels(setting, pictures)
        row.copy_(torch.tensor([a == b for a, b in zip(top, labels, strict=True)]))
    chosen = right.all(0) if keep == "correct" else ~right.any(0)
    return [one for one, good in zip(pictures, chosen.tolist(), strict=True) if good]


def _explained_cases(
    settings: Sequence[Setting], names: Sequence[str], pictures: list[Picture]
) -> list[Case]:
    if not pictures:
        return []
    maps = []
    for setting in settings:
        target = _target(setting, _labels(setting, pictures))
        (made,) = _explained(setting, _inputs(setting, pictures), target).values()
        maps.append(made.map.float().cpu())
    return [
        _case(
            one,
            [
                setting.preprocessing.placement((one.image.height, one.image.width))
                for setting in settings
            ],
            dict(zip(names, (own[place] for own in maps), strict=True)),
        )
        for place, one in enumerate(pictures)
    ]


def _case(picture: Picture, places: Sequence[Placement], maps: dict[str, Tensor]) -> Case:
    """Cut the photograph to what both networks saw: what one did not see would tell them apart."""
    photo = picture.image
    top = max(0, *(round(one.top) for one in places))
    left = max(0, *(round(one.left) for one in places))
    bottom = min(photo.height, *(round(one.top + one.height) for one in places))
    right = min(photo.width, *(round(one.left + one.width) for one in places))
    # a survey holds every case at once, and shows none of them larger
    scale = min(1.0, _SHOWN / max(bottom - top, right - left))
    height, width = (max(1, round(scale * side)) for side in (bottom - top, right - left))
    seen = {
        name: Placement(
            photo_size=(height, width),
            top=(one.top - top) * scale,
            left=(one.left - left) * scale,
            height=one.height * scale,
            width=one.width * scale,
        ).to_photo(own)
        for (name, own), one in zip(maps.items(), places, strict=True)
    }
    cropped = photo.crop((left, top, right, bottom))
    return Case(picture.sample.id, cropped.resize((width, height), Image.Resampling.LANCZOS), seen)


# --- what both share -----------------------------------------------------------------------------


def _inputs(setting: Setting, pictures: Sequence[Picture]) -> Tensor:
    return torch.stack([setting.preprocessing(one.image) for one in pictures])


def _labels(setting: Setting, pictures: Sequence[Picture]) -> list[int | None]:
    return [setting.label(one.sample.label) for one in pictures]


def _explained(
    setting: Setting, images: Tensor, target: list[int] | int | None
) -> dict[str, Explanation]:
    return explain(
        setting.network,
        images.to(setting.plan.device),
        setting.methods,
        None if setting.network.encoder else target,
        list(setting.layers) or None,
        masking=setting.masking,
        chunk=setting.plan.chunk,
    )


def _target(setting: Setting, labels: Sequence[int | None]) -> list[int] | int | None:
    """Return what is explained, as `explain` takes it."""
    if setting.target == PREDICTED:
        return None
    if setting.target == LABEL:
        return [-1 if one is None else one for one in labels]
    return int(setting.target)


def _tell(job: Job, done: int, total: int, skipped: int = 0) -> None:
    if job.watch is not None:
        job.watch(Progress(done, total, 0, skipped))
