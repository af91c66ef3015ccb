"""What a detector found: its output in one form, and the targets that explain a detection.

A detector's output is a list of one dict an image, as torchvision's detectors give it: `boxes`
(M, 4), x0 y0 x1 y1 in pixels of the network's input, `labels` (M,), `scores` (M,) and perhaps
`masks` (M, 1, H, W) in [0, 1]. DETR and its kin give `logits` and `pred_boxes`, which
`read_detections` turns into that form; `probabilities` (M, K) is then there, too.

Under a mask a detection moves, splits or goes, so a `Box` of the clean image is found again by its
overlap, as in D-RISE (Petsiuk et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.space import Size
from torchsaliency.core.target import Scores, Target, TargetSpec, register_target
from torchsaliency.errors import InputError, OptionError, TargetError

Detections = list[dict[str, Tensor]]
"""One dict of boxes, labels and scores an image."""

_MASK = 0.5
"""The least probability of a pixel that belongs to an instance."""


def is_detections(output: Any) -> bool:
    """Whether an output is a list of one dict of boxes, labels and scores an image."""
    needed = {"boxes", "labels", "scores"}
    return (
        isinstance(output, list)
        and bool(output)
        and all(isinstance(one, Mapping) and needed <= one.keys() for one in output)
    )


def read_detections(net: Any, output: Any, size: Size) -> Detections | None:
    """Return the detections in the output of DETR and its kin, None for any other output.

    These give for each of Q queries class logits (N, Q, K) and a box (N, Q, 4), centre and size in
    shares of the image. All queries are detections, whatever their scores. With one more logit
    than classes the probabilities are the softmax, the last being "no object"; with as many as
    classes they are sigmoids (Deformable DETR, RT-DETR …).

    Args:
        net: the network, whose configuration says how many classes there are.
        output: as the network gave it.
        size: (H, W) of the images; others have no boxes.

    Raises:
        TargetError: the network does not say how many classes it has.
    """
    parts = _query_outputs(output)
    if parts is None or len(size) != 2:  # noqa: PLR2004
        return None
    logits, boxes = parts
    classes = getattr(getattr(net, "config", None), "num_labels", None)
    if not isinstance(classes, int) or logits.shape[2] - classes not in (0, 1):
        raise TargetError(
            f"The {type(net).__name__} gives boxes with {logits.shape[2]} class logits each, and "
            "whether the last one means 'no object' cannot be known; wrap it in a module that "
            "returns one dict of boxes, labels and scores an image."
        )
    softmax = logits.shape[2] > classes
    probabilities = logits.softmax(2) if softmax else logits.sigmoid()
    scores, labels = probabilities[..., :classes].max(2)
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    scale = boxes.new_tensor([size[1], size[0]] * 2)
    corners = torch.cat([centre - half, centre + half], 2) * scale
    names = ("boxes", "labels", "scores", "probabilities")
    rows = zip(corners, labels, scores, probabilities, strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _query_outputs(output: Any) -> tuple[Tensor, Tensor] | None:
    get: Callable[[str], Any] = (
        output.get if isinstance(output, Mapping) else lambda name: getattr(output, name, None)
    )
    if isinstance(output, Tensor | list | tuple):
        return None
    boxes = get("pred_boxes")
    logits = get("logits")
    logits = get("pred_logits") if logits is None else logits
    if not isinstance(boxes, Tensor) or not isinstance(logits, Tensor):
        return None
    if logits.ndim != 3 or boxes.shape != (*logits.shape[:2], 4):  # noqa: PLR2004
        return None
    return logits, boxes


@register_target("box")
@final
@dataclass(frozen=True)
class Box(TargetSpec):
    """A detection of the clean image: by its number, or the surest of a class.

    It becomes a `DetectionScore` once the clean image has passed the detector.

    Attributes:
        number: which detection, by falling score; 0 is the surest. "all" takes all of them.
        category: the class that is counted alone; None counts every class.
        least: the least score of a detection that counts.
        overlap: as `DetectionScore`.
        form: as `DetectionScore`.
        match: what is compared, the "box" or the instance's "mask".

    Example:
        >>> found = [{"boxes": torch.tensor([[0.0, 0, 4, 4], [2.0, 2, 6, 6]]),
        ...           "labels": torch.tensor([3, 7]), "scores": torch.tensor([0.6, 0.9])}]
        >>> Box().resolve(found).labels, Box(category=3).resolve(found)(found)
        (tensor([[7]]), tensor([0.6000]))
    """

    words: ClassVar[tuple[str, ...]] = ("NUMBER", "CLASS", "all")

    number: int | Literal["all"] = 0
    category: int | None = None
    least: float = 0.5
    overlap: float = 0.0
    form: str = "score"
    match: str = "box"

    def __post_init__(self) -> None:
        if self.number != "all" and self.number < 0:
            raise OptionError(f'box.number is 0 or above, or "all", not {self.number}.')
        if self.match not in ("box", "mask"):
            raise OptionError(f"Boxes or masks are compared, not {self.match!r}; give box or mask.")
        _check_form(self.form, self.overlap)

    @classmethod
    def read_word(cls, word: str, class_index: Callable[[str], int]) -> dict[str, Any]:
        """Return the options that a word stands for: a number, "all", or a class."""
        if word == "all" or word.isdecimal():
            return {"number": word}
        return {"category": class_index(word)}

    def resolve(self, output: Any) -> DetectionScore:
        """Return the target of images whose detections these are.

        Raises:
            TargetError: the output is not a detector's, or has no masks or class probabilities.
            InputError: the detector finds no such object in an image.
        """
        _require_detections(output, "box")
        if self.match == "mask":
            _require_part(output, "masks", "box,match=mask", "leave match=mask out")
        if self.form == "cosine":
            _require_part(output, "probabilities", "form=cosine", "use form=score")
        chosen = [self._choose(one, image) for image, one in enumerate(output)]

        def gather(name: str, fill: int = 0) -> Tensor:
            rows = [one[name][index] for one, index in zip(output, chosen, strict=True)]
            most = max(map(len, rows))
            padded = [
                F.pad(row, (0, 0) * (row.ndim - 1) + (0, most - len(row)), value=fill)
                for row in rows
            ]
            return torch.stack(padded).detach()

        masks = gather("masks").flatten(2, 3) >= _MASK if self.match == "mask" else None
        return DetectionScore(
            boxes=gather("boxes"),
            labels=gather("labels", -1),
            overlap=self.overlap,
            form=self.form,
            found=gather("scores"),
            probabilities=gather("probabilities") if self.form == "cosine" else None,
            masks=masks,
        )

    def _choose(self, found: Mapping[str, Tensor], image: int) -> Tensor:
        """Return the indices of the detections that are meant."""
        scores, labels = found["scores"].detach(), found["labels"]
        width, height = (found["boxes"][:, 2:] - found["boxes"][:, :2]).detach().unbind(1)
        counts = (scores >= self.least) & (width > 0) & (height > 0)  # a line overlaps nothing
        if self.category is not None:
            counts = counts & (labels == self.category)
        order = scores.argsort(descending=True, stable=True)
        order = order[counts[order]]
        first = 0 if self.number == "all" else self.number
        if first < len(order):
            return order if self.number == "all" else order[first : first + 1]
        kind = "" if self.category is None else f" of class {self.category}"
        surest = f"its surest has {float(scores.max()):.3g}" if len(scores) else "it finds nothing"
        count = {0: "no object", 1: "1 object"}.get(len(order), f"{len(order)} objects")
        wanted = f", and number {first} was asked for, counted from 0" if len(order) else ""
        raise InputError(
            f"The detector finds {count}{kind} with a score of at least {self.least} in image "
            f"{image} ({surest}){wanted}; give another number or class, or a lower least=…."
        )


@final
@dataclass(frozen=True, eq=False)
class DetectionScore(Target):
    """How surely the detector still finds given objects: for each, the best match, and their sum.

    Of all detections j of an image, with o_j the overlap (IoU) with the object's box:

    * "score", D-RISE with the class's own score: max_j o_j · p_j(c);
    * "cosine", D-RISE: max_j o_j · cos(p_j, p), for detectors that give class probabilities;
    * "sum", pytorch-grad-cam's `FasterRCNNBoxScoreTarget`: o_j + p_j of the j that overlaps most,
      if it is of the class and o_j > `overlap`, or else 0.

    p_j(c) is the detector's probability of the class c where it gives one for each class; where it
    gives one label a detection, it is that one's score, and 0 for other classes. All forms are
    differentiable in the scores; the overlap is a weight without a gradient, except in "sum".

    Attributes:
        boxes: (N, B, 4), x0 y0 x1 y1 in pixels of the network's input, or (N, 4) for one an image.
        labels: (N, B) or (N,), class indices; -1 stands for no object.
        overlap: detections with a smaller overlap do not count.
        form: "score", "cosine" or "sum".
        found: (N, B) the scores on the clean image, for manifests; None if they are not known.
        probabilities: (N, B, K) class probabilities of the objects, for the form "cosine".
        masks: (N, B, H, W) truth values: masks are compared instead of boxes.

    Raises:
        TargetError: the parts do not fit each other.
        OptionError: there is no such form, or the overlap is outside [0, 1].

    Example:
        >>> found = [{"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([3]),
        ...           "scores": torch.tensor([0.8])}]
        >>> DetectionScore(torch.tensor([[[0.0, 0, 4, 2]]]), torch.tensor([[3]]))(found)
        tensor([0.4000])
    """

    boxes: Tensor
    labels: Tensor
    overlap: float = 0.0
    form: str = "score"
    found: Tensor | None = None
    probabilities: Tensor | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        _check_form(self.form, self.overlap)
        if self.boxes.ndim == 2:  # noqa: PLR2004
            object.__setattr__(self, "boxes", self.boxes[:, None])
            object.__setattr__(self, "labels", self.labels[:, None])
        if self.boxes.shape != (*self.labels.shape, 4):
            raise TargetError(
                f"Boxes of {tuple(self.boxes.shape)} and labels of {tuple(self.labels.shape)} were "
                "given; give boxes (N, B, 4) and labels (N, B), or (N, 4) and (N,)."
            )
        if self.form == "cosine" and self.probabilities is None:
            raise TargetError(
                "The form cosine compares class probabilities, and none were given; use "
                'Box(form="cosine"), or the form score.'
            )

    def __call__(self, output: Any) -> Scores:
        """Return the sum over the objects of each image.

        Raises:
            TargetError: the output is not a detector's, or is of another number of images.
        """
        _require_detections(output, type(self).__name__)
        if len(output) != len(self.boxes):
            raise TargetError(
                f"{len(self.boxes)} images have boxes to explain and the detector gave "
                f"{len(output)} results; give boxes for every image."
            )
        return torch.stack([self._of_image(row, one) for row, one in enumerate(output)])

    def _of_image(self, row: int, found: Mapping[str, Tensor]) -> Tensor:
        scores = found["scores"]
        if not len(scores):
            return scores.sum()  # 0, in the graph
        real = (self.labels[row] >= 0).to(scores.device)
        overlaps = self._overlaps(row, found)
        if self.form == "sum":
            best, place = overlaps.max(1)
            same = found["labels"][place] == self.labels[row].to(scores.device)
            values = torch.where((best > self.overlap) & same, best + scores[place], 0)
        else:
            weights = torch.where(overlaps >= self.overlap, overlaps, 0).detach()
            values = (weights * self._evidence(row, found)).max(1).values
        return torch.where(real, values, 0).sum()

    def _overlaps(self, row: int, found: Mapping[str, Tensor]) -> Float[Tensor, "b m"]:
        if self.masks is None:
            return box_overlaps(self.boxes[row].to(found["boxes"]), found["boxes"])
        _require_part([found], "masks", "match=mask", "leave match=mask out")
        own = self.masks[row].flatten(1).to(found["scores"])
        others = (found["masks"].flatten(1) >= _MASK).to(own)
        if own.shape[1] != others.shape[1]:
            raise TargetError(
                f"The masks to explain have {own.shape[1]} pixels and the detector's "
                f"{others.shape[1]}; give masks of the size of the network's input."
            )
        both = own @ others.T
        return both / (own.sum(1)[:, None] + others.sum(1) - both).clamp_min(1)

    def _evidence(self, row: int, found: Mapping[str, Tensor]) -> Float[Tensor, "b m"]:
        labels = self.labels[row].to(found["scores"].device)
        if self.form == "cosine":
            assert self.probabilities is not None  # checked
            _require_part([found], "probabilities", "form=cosine", "use form=score")
            own = self.probabilities[row].to(found["scores"])
            return F.cosine_similarity(own[:, None], found["probabilities"], dim=2)
        if "probabilities" in found:
            return found["probabilities"][:, labels.clamp_min(0)].T
        return found["scores"] * (labels[:, None] == found["labels"])

    def describe(self) -> dict[str, Any]:
        """Return the boxes, labels and scores of each image's objects, and how they are matched."""
        real = self.labels >= 0

        def by_image(values: Tensor) -> list[Any]:
            return [row[keep].tolist() for row, keep in zip(values, real, strict=True)]

        return {
            "kind": "DetectionScore",
            "form": self.form,
            "match": "box" if self.masks is None else "mask",
            "overlap": self.overlap,
            "boxes": by_image(self.boxes),
            "labels": by_image(self.labels),
            "scores": None if self.found is None else by_image(self.found),
        }


@final
@dataclass(frozen=True, eq=False)
class BoxScore(Target):
    """Score of the detections that lie on a given box, for torchvision-style detectors.

    The sum over detections of the class of score · IoU(detection, box), where IoU ≥ `overlap`.

    Attributes:
        boxes: (N, 4), x0 y0 x1 y1 in pixels of the network's input, one an image.
        labels: class indices (N,).
        overlap: least IoU of a detection that counts.

    Example:
        >>> found = [{"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([3]),
        ...           "scores": torch.tensor([0.9])}]
        >>> BoxScore(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([3]))(found)
        tensor([0.9000])
    """

    boxes: Tensor
    labels: Tensor
    overlap: float = 0.5

    def __call__(self, output: Any) -> Scores:
        """Return Σ score · IoU over the matching detections of each image."""
        if len(output) != len(self.boxes) or not all(isinstance(one, dict) for one in output):
            raise TargetError(
                "BoxScore needs a detector that gives one dict of boxes, labels and scores for "
                f"each of the {len(self.boxes)} images; this network gives something else."
            )
        return torch.stack(
            [self._one(*row) for row in zip(output, self.boxes, self.labels, strict=True)]
        )

    def _one(self, found: dict[str, Tensor], box: Tensor, label: Tensor) -> Tensor:
        overlaps = box_overlaps(box.to(found["boxes"])[None], found["boxes"])[0]
        wanted = (found["labels"] == label.to(found["labels"].device)) & (overlaps >= self.overlap)
        return (found["scores"] * overlaps * wanted).sum()

    def describe(self) -> dict[str, Any]:
        """Return the boxes and labels."""
        return {"kind": "BoxScore", "boxes": self.boxes.tolist(), "labels": self.labels.tolist()}


def box_overlaps(boxes: Float[Tensor, "b 4"], others: Float[Tensor, "m 4"]) -> Tensor:
    """Return the intersection over union (B, M) of boxes with others, corners x0 y0 x1 y1."""
    boxes = boxes[:, None]
    low, high = (
        torch.maximum(boxes[..., :2], others[:, :2]),
        torch.minimum(boxes[..., 2:], others[:, 2:]),
    )
    both = (high - low).clamp_min(0).prod(2)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (boxes[..., 2:] - boxes[..., :2]).prod(2)
    return both / (areas - both).clamp_min(1e-12)


def _require_detections(output: Any, name: str) -> None:
    if not is_detections(output):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TargetError(
            f"{name} explains what a detector found, and the network gave {shape}; give a class, "
            "or a network that returns one dict of boxes, labels and scores an image."
        )


def _require_part(output: Any, name: str, option: str, advice: str) -> None:
    if not all(name in one for one in output):
        raise TargetError(
            f"{option} needs {name} of the detector, and it gives {', '.join(output[0])}; {advice}."
        )


def _check_form(form: str, overlap: float) -> None:
    if form not in ("score", "cosine", "sum"):
        raise OptionError(f"There is no form {form!r}; choose score, cosine or sum.")
    if not 0 <= overlap <= 1:
        raise OptionError(f"The least overlap is in [0, 1], not {overlap}.")
