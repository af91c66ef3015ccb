"""Attribution by gradients and by rules in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import draw_seed
from torchsaliency.compat.captum.attr.base import (
    Answer,
    Attribution,
    Baselines,
    Given,
    Targets,
    ask,
    find_delta,
    read_baselines,
    refuse,
    require_gauss_legendre,
    require_multiplied,
)
from torchsaliency.core.method import create
from torchsaliency.core.network import unwrap
from torchsaliency.errors import OptionError


class Saliency(Attribution):
    """The gradient of the score, in absolute value unless `abs=False`."""

    def attribute(
        self,
        inputs: Given,
        target: Targets = None,
        abs: bool = True,  # noqa: A002 (captum's name and place)
        additional_forward_args: Any = None,
    ) -> Answer:
        """Return ∂y/∂x, or its absolute value."""
        asked = ask(self._network, inputs, target, additional_forward_args)
        found = asked.attribute(create("saliency"))
        return asked.answer(found.abs() if abs else found)


class _Plain(Attribution):
    """A class whose only question is of which score."""

    _method: ClassVar[str]

    def attribute(
        self, inputs: Given, target: Targets = None, additional_forward_args: Any = None
    ) -> Answer:
        """Return the attributions (N, C, *size)."""
        asked = ask(self._network, inputs, target, additional_forward_args)
        return asked.answer(asked.attribute(create(self._method)))


class InputXGradient(_Plain):
    """x ⊙ ∂y/∂x."""

    _method, _multiplies = "input-x-gradient", True


class GuidedBackprop(_Plain):
    """Guided backpropagation, at every ReLU of the network, module or not."""

    _method = "guided-backprop"


class Deconvolution(_Plain):
    """DeconvNet, at every ReLU of the network, module or not."""

    _method = "deconvnet"


class _Multiplied(Attribution):
    """A class that multiplies by x - b, and adds up to y(x) - y(b)."""

    _complete = _multiplies = True

    def __init__(
        self,
        forward_func: Callable[..., Any],
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func)
        require_multiplied(multiply_by_inputs)


class IntegratedGradients(_Multiplied):
    """Integrated gradients, by Gauss-Legendre quadrature."""

    def attribute(  # noqa: PLR0913, PLR0917 (captum's arguments)
        self,
        inputs: Given,
        baselines: Baselines = None,
        target: Targets = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Answer:
        """Return (x - b) ⊙ ∫ ∂y/∂x, and perhaps Σ - (y(x) - y(b)) of each image (N,).

        Raises:
            OptionError: another quadrature.
        """
        require_gauss_legendre(method)
        asked = ask(self._network, inputs, target, additional_forward_args, internal_batch_size)
        base = read_baselines(baselines, asked.images)
        found = asked.attribute(create("integrated-gradients", {"steps": n_steps}), base)
        delta = find_delta(asked, found, base) if return_convergence_delta else None
        return asked.answer(found, delta)


class DeepLift(_Multiplied):
    """DeepLIFT's Rescale rule for all that is not linear, so that shares always add up.

    Args:
        model: a network.
        multiply_by_inputs: True.
        eps: captum's threshold, which is 1e-10 here.
    """

    _of_set: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        multiply_by_inputs: bool = True,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(model, multiply_by_inputs)
        if eps != 1e-10:  # noqa: PLR2004
            raise refuse("eps", eps, "differences below 1e-10 have the gradient")

    def attribute(
        self,
        inputs: Given,
        baselines: Any = None,
        target: Targets = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Any = None,
    ) -> Answer:
        """Return (x - b) ⊙ m, and perhaps Σ - (y(x) - y(b)) of each image (N,).

        Of a set of M baselines the mean, and the differences of each pair, (N · M,).

        Raises:
            OptionError: a function in the place of the rule, or no baselines of a set.
        """
        if custom_attribution_func is not None:
            raise refuse("custom_attribution_func", custom_attribution_func, "leave it out")
        if self._of_set and baselines is None:
            raise OptionError(
                "DeepLiftShap needs baselines: a set (M, C, …), or a function that makes it."
            )
        asked = ask(self._network, inputs, target, additional_forward_args)
        base = read_baselines(baselines, asked.images, several=self._of_set)
        sets = base.split(1) if self._of_set else [base]
        method = create("deeplift")
        found = [asked.attribute(method, one) for one in sets]
        delta = None
        if return_convergence_delta:
            pairs = zip(found, sets, strict=True)
            delta = torch.stack([find_delta(asked, *pair) for pair in pairs], 1).flatten()
        return asked.answer(torch.stack(found).mean(0), delta)


class DeepLiftShap(DeepLift):
    """The mean of DeepLIFT over a set of baselines, which must be given."""

    _of_set = True


class GradientShap(_Multiplied):
    """Expected gradients between noisy images and baselines drawn from a set."""

    def attribute(
        self,
        inputs: Given,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | int | tuple[float | int, ...] = 0.0,
        target: Targets = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Answer:
        """Return the mean of (x' - b) ⊙ ∂y/∂x, and perhaps Σ - (y(x) - mean y(b)), (N,).

        Every draw takes one of the baselines (M, C, *size), the same for all images.
        """
        asked = ask(self._network, inputs, target, additional_forward_args)
        base = read_baselines(baselines, asked.images, several=True)
        noise = stdevs[0] if isinstance(stdevs, tuple) else stdevs
        drawn = torch.randint(len(base), (n_samples,), device="cpu").bincount(minlength=len(base))
        found, delta = torch.zeros_like(asked.images), None
        start = asked.images.new_zeros(len(asked.images), dtype=torch.float64)
        for one, count in zip(base.split(1), drawn.tolist(), strict=True):
            if not count:
                continue
            options = {"samples": count, "noise": noise, "seed": draw_seed()}
            share = count / n_samples
            found += share * asked.attribute(create("gradientshap", options), one)
            if return_convergence_delta:
                start += share * asked.score(one).to(start)
        if return_convergence_delta:
            rise = asked.score(asked.images).to(start) - start
            delta = found.double().flatten(1).sum(1) - rise
        return asked.answer(found, delta)


class LRP(Attribution):
    """Layer-wise relevance propagation, by the ε rule with ε = 1e-9 unless a module has its own.

    A module's rule is its attribute `rule`, of `captum.attr._utils.lrp_rules`. It holds for the
    weights inside; what has no weights keeps the library's rule.

    Args:
        model: a network.
    """

    _complete = _multiplies = True

    def attribute(
        self,
        inputs: Given,
        target: Targets = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
    ) -> Answer:
        """Return the relevances, and perhaps y(x) - Σ of each image (N,).

        Raises:
            OptionError: a module's rule is none of ours.
        """
        del verbose  # nothing is printed
        asked = ask(self._network, inputs, target, additional_forward_args)
        rules = {
            name: module.rule
            for name, module in unwrap(asked.model).named_modules()
            if getattr(module, "rule", None) is not None
        }
        found = asked.attribute(create("lrp", {"rule": "epsilon", "rules": rules}))
        delta = None
        if return_convergence_delta:
            delta = asked.score(asked.images) - found.double().flatten(1).sum(1)
        return asked.answer(found, delta)

    def compute_convergence_delta(  # type: ignore[override]
        self, attributions: Given, output: Tensor
    ) -> Tensor:
        """Return y - Σ attributions of every image, (N,)."""
        shares = attributions[0] if isinstance(attributions, tuple) else attributions
        return output.flatten() - shares.flatten(1).sum(1)
