"""`torchsaliency doctor`: what is installed and found, and whether a known map comes out right."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchsaliency.cli.console import grid_of, print_json, print_line, stdout
from torchsaliency.cli.options import JSON
from torchsaliency.options import Options

_PROGRAM = "torchsaliency"

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\w.]+))?[^;]*(?:;(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")

_LOGIT, _QUARTERS = 3.852239, (0.033357, 0.016155, 0.478056, 0.243642)
"""Of the first drawn image (a ring) and builtin/shapes_cnn: the logit of its class, and the means
of Grad-CAM's map over the quarters of the image, in float32."""

_TOLERANCE, _TOLERANCE_ELSEWHERE = 5e-3, 5e-2
"""On the processor, and on other devices, whose convolutions may round to TF32."""


class DoctorOptions(Options):
    """How the findings are written."""

    as_json: bool = JSON


def doctor(options: DoctorOptions) -> int:
    """Check the installation: versions, devices, caches, extras, and a known map.

    The exit code is 1 if a package is missing or too old, or a check of the self-test fails; extras
    that are not installed are no fault.
    """
    found = examine()
    if options.as_json:
        print_json(found)
    else:
        _print_findings(found)
    return 0 if found["healthy"] else 1


def examine() -> dict[str, Any]:
    """Return everything that the command tells, in JSON types."""
    extras = _find_requirements()
    packages = extras.pop("")
    checks = _test_all() if not any(one["fault"] for one in packages.values()) else []
    return {
        "healthy": bool(checks) and all(check["ok"] for check in checks),
        "versions": {
            _PROGRAM: importlib.metadata.version(_PROGRAM),
            "python": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        "packages": packages,
        "extras": {
            name: {
                "installed": not any(one["fault"] for one in needed.values()),
                "packages": needed,
                "command": f"pip install '{_PROGRAM}[{name}]'",
            }
            for name, needed in sorted(extras.items())
        },
        "devices": _list_devices() if checks else {},
        "caches": _list_caches() if checks else {},
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name in _VARIABLES
        },
        "self-test": checks,
    }


_VARIABLES = {
    *("TORCHSALIENCY_CACHE", "TORCHSALIENCY_MAX_PIXELS", "TORCHSALIENCY_MIRROR"),
    *("TORCHSALIENCY_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "TORCH_HOME"),
}
"""Settings that change what the library does; none of them holds a secret."""


# --- what is installed ----------------------------------------------------------------------------


def _find_requirements() -> dict[str, dict[str, Any]]:
    """Return the packages of each extra, and under "" of the base installation."""
    found: dict[str, dict[str, Any]] = {"": {}}
    for text in importlib.metadata.requires(_PROGRAM) or ():
        match = _REQUIREMENT.match(text)
        assert match is not None  # the metadata is ours, and has this form
        name, lowest, marker = match.groups()
        extra = _EXTRA.search(marker or "")
        found.setdefault(extra[1] if extra else "", {})[name] = _look_for(name, lowest or "")
    return found


def _look_for(name: str, lowest: str) -> dict[str, Any]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return {"version": None, "fault": "not installed"}
    old = _release(version) < _release(lowest)
    return {"version": version, "fault": f"{lowest} or later is needed" if old else None}


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: (2, 6, 0) of 2.6.0+cpu."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


# --- where it runs --------------------------------------------------------------------------------


def _list_devices() -> dict[str, str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    found = {"cpu": f"{name}, {cores} cores, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            found[f"cuda:{number}"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Metal"
    return found


def _list_caches() -> dict[str, dict[str, Any]]:
    """Return where downloaded files are kept, and their bytes."""
    import torch

    from torchsaliency.zoo.download import cache_folder

    base = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    places = {
        "torchsaliency": (cache_folder(), "TORCHSALIENCY_CACHE"),
        "torch": (Path(torch.hub.get_dir()), "TORCH_HOME"),
        "Hugging Face": (Path(os.environ.get("HF_HUB_CACHE") or Path(base, "hub")), "HF_HOME"),
    }
    return {
        name: {"place": str(place), "bytes": _measure(place), "variable": variable}
        for name, (place, variable) in places.items()
    }


def _measure(folder: Path) -> int:
    """Return the bytes of the files below a folder, a file that links lead to once."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    return total


# --- the self-test --------------------------------------------------------------------------------


def _test_all() -> list[dict[str, Any]]:
    """Return what each check found; each says what it expected."""
    import torch

    devices = ["cpu"]
    devices += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return [_test_device(device) for device in devices]


def _test_device(device: str) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        faults = [*_check_map(device)]
    except Exception as error:
        faults = [f"{type(error).__name__}: {error}"]
    seconds = round(time.monotonic() - begun, 2)
    return {"device": device, "ok": not faults, "faults": faults, "seconds": seconds}


def _check_map(device: str) -> Iterator[str]:
    """Yield what differs from the known class, logit and map of a drawn image.

    The network averages its last maps over positions, so HiResCAM is Grad-CAM on it, by theory.
    """
    from torch.nn.functional import adaptive_avg_pool2d

    from torchsaliency.core.explain import explain
    from torchsaliency.data.shapes import shapes_set
    from torchsaliency.zoo import load_model

    tolerance = _TOLERANCE if device == "cpu" else _TOLERANCE_ELSEWHERE
    network = load_model("builtin/shapes_cnn", device=device)
    x = network.preprocessing(shapes_set(1).picture(0).image)[None].to(device)
    found = explain(network, x, ["gradcam", "hirescam"])
    logits, saliency = found["gradcam"].output[0].cpu(), found["gradcam"].map.cpu()
    named = (network.classes or ())[int(logits.argmax())]
    if named != "ring":
        yield f"the class is {named!r}, and a ring was drawn"
    if abs(float(logits.max()) - _LOGIT) > tolerance:
        yield f"its logit is {float(logits.max()):.4f}, and {_LOGIT:.4f} is known"
    quarters = adaptive_avg_pool2d(saliency[None], 2).flatten().tolist()
    if any(abs(a - b) > tolerance for a, b in zip(quarters, _QUARTERS, strict=True)):
        shown = ", ".join(f"{value:.4f}" for value in quarters)
        yield f"Grad-CAM's quarters are {shown}, and {_QUARTERS} are known"
    gap = float((saliency - found["hirescam"].map.cpu()).abs().max())
    if gap > tolerance:
        yield f"HiResCAM differs from Grad-CAM by {gap:.4f}, and they are equal on this network"


# --- as text --------------------------------------------------------------------------------------


def _print_findings(found: dict[str, Any]) -> None:
    print_line(", ".join(f"{name} {text}" for name, text in found["versions"].items()))
    table = grid_of("package", "version", "")
    for name, one in found["packages"].items():
        table.add_row(name, one["version"] or "", one["fault"] or "")
    stdout.print(table)
    for name, extra in found["extras"].items():
        needed = extra["packages"].items()
        faults = [f"{key}: {one['fault']}" for key, one in needed if one["fault"]]
        state = f"{'; '.join(faults)}; run {extra['command']}" if faults else "installed"
        print_line(f"Extra {name}: {state}")
    for device, text in found["devices"].items():
        print_line(f"{device}: {text}")
    for name, cache in found["caches"].items():
        size = f"{cache['bytes'] / 1e6:.1f} MB"
        print_line(f"Downloads of {name}: {cache['place']}, {size} ({cache['variable']} moves it)")
    for name, value in found["environment"].items():
        print_line(f"{name}={value}")
    for check in found["self-test"]:
        result = "as known" if check["ok"] else "; ".join(check["faults"])
        print_line(f"Self-test on {check['device']}: {result} ({check['seconds']} s)")
    print_line(
        "All is well."
        if found["healthy"]
        else "Something is wrong: see the packages and the self-test above."
    )
