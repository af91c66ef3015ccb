"""Attributions as pictures, by matplotlib."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from torchsaliency.compat._shared import Array
from torchsaliency.errors import InputError, OptionError

Sign = Literal["positive", "absolute_value", "negative", "all"]

_COLOURS = {"positive": "Greens", "absolute_value": "Blues", "negative": "Reds"}
_METHODS = ("heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling")


def _scale(attr: Array, sign: str, outlier_perc: float | int) -> Array:
    """Return the part of a sign, so that 1 is where all larger values make `outlier_perc` % of it.

    Raises:
        OptionError: there is no such sign, or nothing has it.
    """
    if sign not in (*_COLOURS, "all"):
        raise OptionError(f"sign is {sign!r}; give one of {', '.join([*_COLOURS, 'all'])}.")
    parts = {"positive": attr.clip(0), "negative": (-attr).clip(0), "absolute_value": np.abs(attr)}
    shown = parts.get(sign, attr)
    sorted_sizes = np.sort(np.abs(shown).ravel())
    sums = sorted_sizes.cumsum()
    if not sums[-1] > 0:
        raise OptionError(
            f"No attribution has the sign {sign!r}, so that nothing can be drawn; choose another."
        )
    limit = sorted_sizes[np.searchsorted(sums, sums[-1] * (1 - outlier_perc / 100))]
    scaled: Array = (shown / limit).clip(-1, 1)
    return scaled


def _as_picture(values: Array) -> Array:
    """Return colours as bytes: those of at most 1 are shares of 255."""
    bytes_: Array = (values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8)
    return bytes_


def _draw(axis: Any, method: str, heat: Array, picture: Array | None, how: dict[str, Any]) -> Any:
    """Draw scaled attributions (H, W), and return what a colour bar is of, if anything."""
    if method == "heat_map":
        return axis.imshow(heat, **{**how, "alpha": None})
    assert picture is not None
    if method == "blended_heat_map":
        axis.imshow(picture.mean(2), cmap="gray")
        return axis.imshow(heat, **how)
    if heat.min() < 0:
        raise OptionError(f"{method} cannot show both signs; choose one, or absolute_value.")
    faded = method == "alpha_scaling"
    layers = [picture, _as_picture(heat)] if faded else [picture * heat[..., None]]
    axis.imshow(np.dstack(layers).astype(np.uint8))
    return None


def visualize_image_attr(  # noqa: PLR0913, PLR0917 (captum's arguments)
    attr: Array,
    original_image: Array | None = None,
    method: str = "heat_map",
    sign: str = "absolute_value",
    plt_fig_axis: Any = None,
    outlier_perc: float | int = 2,
    cmap: Any = None,
    alpha_overlay: float | int = 0.5,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
) -> tuple[Any, Any]:
    """Draw attributions (H, W, C), summed over the colours.

    Args:
        attr: the attributions.
        original_image: (H, W, C), in [0, 1] or [0, 255]; only a heat map needs none.
        method: "heat_map", "blended_heat_map", "original_image", "masked_image" or
            "alpha_scaling".
        sign: which are drawn: "positive", "absolute_value", "negative" or "all".
        plt_fig_axis: figure and axes of matplotlib; new ones by default.
        outlier_perc: the largest, that make so many percent of all, have the full colour.
        cmap: any that matplotlib knows.
        alpha_overlay: how much of a blended heat map covers the image.
        show_colorbar: whether there is one.
        title: above the picture.
        fig_size: of a new figure, in inches.
        use_pyplot: whether the figure is shown, and kept by pyplot.

    Returns:
        The figure and its axes.

    Raises:
        OptionError: there is no such method or sign, or no attribution has the sign.
        InputError: the image is missing.
    """
    from matplotlib import colors, figure, pyplot  # noqa: PLC0415 (at first use)

    if method not in _METHODS:
        raise OptionError(f"method is {method!r}; give one of {', '.join(_METHODS)}.")
    if original_image is None and method != "heat_map":
        raise InputError(f"method is {method!r}, which draws original_image; give it.")
    if plt_fig_axis is not None:
        drawn, axis = plt_fig_axis
    else:
        drawn = pyplot.figure(figsize=fig_size) if use_pyplot else figure.Figure(figsize=fig_size)
        axis = drawn.subplots()
    axis.set(xticks=[], yticks=[], frame_on=False)
    picture = None if original_image is None else _as_picture(np.asarray(original_image))
    if method == "original_image":
        axis.imshow(picture)
        mapped = None
    else:
        heat = _scale(np.asarray(attr).sum(2), sign, outlier_perc)
        both = colors.LinearSegmentedColormap.from_list("signs", ["red", "white", "green"])
        colours = {
            "cmap": cmap or _COLOURS.get(sign, both),
            "vmin": -1 if sign == "all" else 0,
            "vmax": 1,
        }
        mapped = _draw(axis, method, heat, picture, {"alpha": alpha_overlay, **colours})
    if show_colorbar and mapped is not None:
        drawn.colorbar(mapped, ax=axis, orientation="horizontal", fraction=0.05, pad=0.05)
    if title:
        axis.set_title(title)
    if use_pyplot:
        pyplot.show()
    return drawn, axis


def visualize_image_attr_multiple(
    attr: Array,
    original_image: Array | None,
    methods: list[str],
    signs: list[str],
    titles: list[str] | None = None,
    fig_size: tuple[int, int] = (8, 6),
    use_pyplot: bool = True,
    **options: Any,
) -> tuple[Any, Any]:
    """Draw attributions in several ways beside each other; see `visualize_image_attr`.

    Raises:
        OptionError: as many methods, signs and titles were not given.
    """
    from matplotlib import figure, pyplot  # noqa: PLC0415 (at first use)

    names = titles or [""] * len(methods)
    if not len(methods) == len(signs) == len(names) > 0:
        raise OptionError(
            f"{len(methods)} methods, {len(signs)} signs and {len(names)} titles were given; give "
            "as many of each."
        )
    drawn = pyplot.figure(figsize=fig_size) if use_pyplot else figure.Figure(figsize=fig_size)
    axes = drawn.subplots(1, len(methods), squeeze=False)[0]
    for axis, method, sign, title in zip(axes, methods, signs, names, strict=True):
        visualize_image_attr(
            attr,
            original_image,
            method,
            sign,
            (drawn, axis),
            title=title,
            use_pyplot=False,
            **options,
        )
    drawn.tight_layout()
    if use_pyplot:
        pyplot.show()
    return drawn, axes
