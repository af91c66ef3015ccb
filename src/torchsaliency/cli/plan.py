"""`torchsaliency plan`: what an evaluation will cost, before it is paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchsaliency.cli.console import grid_of, print_json, print_line, stdout
from torchsaliency.cli.evaluate import PlanFileOptions, plan_of
from torchsaliency.cli.options import JSON
from torchsaliency.errors import OptionError
from torchsaliency.options import RUNNING, option

if TYPE_CHECKING:
    from torchsaliency.evaluation.costs import Costs

_SHOWN = 12
"""Entries of the table."""


class CostOptions(PlanFileOptions):
    """A plan, and for which machines its cost is estimated."""

    measured: int = option(4, RUNNING, "Images of the measured sample.", ge=1, le=4096)
    gpu: str | None = option(
        None, RUNNING, "Estimate the hours on a kind of GPU, such as a100 or t4.", metavar="KIND"
    )
    machines: int = option(
        1, RUNNING, "So many of them, or so many machines like this one.", ge=1, le=1_000_000
    )
    price: float | None = option(
        None,
        RUNNING,
        "Of one of them an hour, in any currency.",
        ge=0,
        allow_inf_nan=False,
        metavar="MONEY",
    )
    as_json: bool = JSON


def plan(options: CostOptions) -> None:
    """Say what an evaluation will cost: measure a few images, write nothing.

    Passes, seconds, memory and bytes, hours here and elsewhere, and what would halve the bill.
    """
    from torchsaliency.cli.progress import show_progress
    from torchsaliency.evaluation.costs import GPUS, estimate_costs, suggest_savings

    if options.gpu is not None and options.gpu not in GPUS:
        known = ", ".join(GPUS)
        raise OptionError(f"gpu: {options.gpu!r} was given; known kinds are {known}.")
    made = plan_of(options)
    with show_progress("measuring", "images"):
        costs = estimate_costs(made, count=options.measured)
    savings = suggest_savings(made, costs)
    bill = _find_bill(costs, options)
    if options.as_json:
        print_json({**costs.to_dict(), **bill, "savings": savings})
        return
    table = grid_of("", "passes/image", "s/image", "share", right=["passes/image", "s/image"])
    for entry in costs.entries[:_SHOWN]:
        passes, seconds = _count_passes(entry.passes, entry.most), f"{entry.seconds:.3g}"
        table.add_row(f"{entry.label} ({entry.kind})", passes, seconds, f"{entry.share:.0%}")
    stdout.print(table)
    if left := costs.entries[_SHOWN:]:
        share = sum(entry.share for entry in left)
        print_line(f"… and {len(left)} more that take {share:.0%} together.")
    for line in [*_describe(costs, bill, options), *savings]:
        print_line(line)


def _find_bill(costs: Costs, options: CostOptions) -> dict[str, Any]:
    """Return the hours on the wanted machines, and what they cost."""
    count, kind = options.machines, options.gpu
    hours = costs.hours / count if kind is None else costs.estimate_gpu_hours(kind, count)
    found: dict[str, Any] = {"machines": count, "gpu": kind, "hours on them": hours}
    if options.price is not None:
        found["price"] = hours * count * options.price
    return found


def _describe(costs: Costs, bill: dict[str, Any], options: CostOptions) -> list[str]:
    """Return what the measured numbers come to, a sentence each."""
    rows = costs.row_bytes * costs.images
    maps = costs.map_bytes * costs.images
    lines = [
        f"{costs.methods} methods, {costs.metrics} metrics, {costs.images:,} images: "
        f"{_count_passes(costs.passes, costs.most_passes)} passes and {costs.seconds:.3g} s an "
        f"image ({costs.measured} measured, {costs.operations / 1e9:.3g} GFLOP a pass).",
        f"A batch of {costs.measured} took {costs.memory:,.0f} MB; "
        f"{_in_words(rows)} of rows" + (f" and {_in_words(maps)} of maps." if maps else "."),
        f"On this machine: {costs.hours:,.3g} hours.",
    ]
    many = options.machines > 1
    if options.gpu is not None:
        lines.append(
            f"On {options.machines} × {options.gpu}: about {bill['hours on them']:,.2g} hours, to "
            "a factor of two, from the operations of the passes and 40 % of the GPU's peak; a "
            "short run there measures it."
        )
    elif many:
        lines.append(f"On {options.machines} like it: {bill['hours on them']:,.3g} hours.")
    if "price" in bill:
        lines.append(f"Price: {bill['price']:,.2f}, at {options.price:g} an hour each.")
    return lines


def _count_passes(measured: float, most: float) -> str:
    """Return passes an image, and how many other images may take where curves end early."""
    return f"{measured:,.4g}" + (f" (at most {most:,.4g})" if most > measured else "")


def _in_words(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
