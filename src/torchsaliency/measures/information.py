"""What the network makes of an image as its salient pixels are known, and how much is then known.

The information of an image is the length of its compressed bytes, as in XRAI's performance
information curves.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.maps import require_maps, to_float64, upcast
from torchsaliency.core.space import add_sides
from torchsaliency.errors import OptionError
from torchsaliency.measures.imputation import impute_neighbours
from torchsaliency.measures.judge import Labels, class_labels, judging
from torchsaliency.measures.perturbation import saliency_ranks

SHARES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75)
"""Of the most salient pixels that are shown, as published."""


@final
@dataclass(frozen=True, eq=False)
class InformationCurve:
    """Scores and information as more of the salient pixels are known.

    Attributes:
        information: (N, T + 2) bytes of the compressed image: of the one from random pixels alone,
            of those with each share of salient pixels, and of the image itself.
        probabilities: (N, T + 2) class probabilities, in float64.
        predicted: (N, T + 2) whether the class is predicted.
        labels: the class of each image.
        passes: images that went through the judge.
    """

    information: Tensor
    probabilities: Tensor
    predicted: Tensor
    labels: Tensor
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {
            "information": self.information,
            "known": self.probabilities,
            "known_predicted": self.predicted,
        }


def information_curve(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    maps: Float[Tensor, " n *size"],
    target: Labels = None,
    *,
    shares: tuple[float | int, ...] = SHARES,
    known: float = 0.01,
    seed: int = 0,
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> InformationCurve:
    """Show random and salient pixels, fill in the others, and record scores and information.

    The other pixels are the weighted mean of their neighbours, solved for all of them together, as
    in `removal_curves`. The compressed bytes are those of deflate on the differences of neighbours,
    each channel's numbers rounded to 256 steps between the image's smallest and largest.

    Args:
        model: the judge, a classifier: of any other target it is not known what it predicts.
        x: images (N, C, *size), preprocessed for the judge.
        maps: (N, *size) in [0, 1].
        target: classes; None for those predicted on the clean images.
        shares: of the most salient pixels that are shown, rising, each in (0, 1).
        known: share of random pixels, the same in every image, that are always shown.
        seed: of these pixels.
        clean: logits of the clean images if they are known; they then cost no pass.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: images or maps do not fit.
        OptionError: shares that are out of range or do not rise.
        TargetError: the target names no class, or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> information_curve(net, x, maps, shares=(0.1, 0.5)).probabilities.shape
        torch.Size([2, 4])
    """
    rises = all(low < high for low, high in zip((0, *shares), (*shares, 1), strict=True))
    if not shares or not rises or not 0 < known < 1:
        raise OptionError(
            f"The shares {shares} and {known} known pixels were given; accepted are rising shares, "
            "and a share of known pixels, between 0 and 1."
        )
    with judging(model, x, chunk=chunk) as judge:
        saliency, images = require_maps(judge.maps(maps)), judge.images
        ranks = saliency_ranks(saliency)
        pixels = ranks.shape[1]
        order = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed), device="cpu")
        always = torch.zeros(pixels, dtype=torch.bool, device="cpu")
        always[order[: max(1, round(known * pixels))]] = True
        always = always.to(ranks.device)
        counts = torch.tensor(
            [0, *(max(1, round(share * pixels)) for share in shares)], device=ranks.device
        )
        before = judge.clean_logits(clean)
        labels = class_labels(target, before)
        low = images.flatten(1).amin(1)
        high = images.flatten(1).amax(1)
        sizes = torch.zeros(len(images), len(counts) + 1, dtype=torch.float64, device="cpu")

        def build(image: Tensor, place: Tensor) -> Tensor:
            shown = always | (ranks[image] < counts[place, None])
            filled = impute_neighbours(upcast(images[image]), ~shown.view(-1, *judge.size))
            sizes[image.cpu(), place.cpu()] = _compressed(filled, low[image], high[image])
            return filled.to(images.dtype)

        logits = torch.cat([judge.variants(len(counts), build), before[:, None]], 1)
        sizes[:, -1] = _compressed(images, low, high)
        predicted = [judge.scores.predicts(one, labels) for one in logits.unbind(1)]
        return InformationCurve(
            information=sizes.to(logits.device),
            probabilities=judge.class_scores(logits, labels).probability,
            predicted=torch.stack(predicted, 1),
            labels=labels,
            passes=judge.passes,
        )


def _compressed(images: Tensor, low: Tensor, high: Tensor) -> Float[Tensor, " n"]:
    """Return how many bytes deflate makes of each image."""
    start, span = (add_sides(one, images) for one in (low, high - low))
    share = to_float64(images - start) / to_float64(torch.where(span > 0, span, 1))
    whole = (255 * share).round().clamp(0, 255).to(torch.uint8).cpu()
    differences = torch.cat([whole[..., :1], whole[..., 1:] - whole[..., :-1]], -1)  # modulo 256
    sizes = [len(zlib.compress(one.numpy().tobytes(), 9)) for one in differences]
    return torch.tensor(sizes, dtype=torch.float64, device="cpu")
