"""`torchsaliency app`: drop a photo on a page of this machine, and its maps appear."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchsaliency.cli.console import print_line
from torchsaliency.options import (
    CHUNK,
    DEVICE,
    NETWORK,
    PRECISION,
    RUNNING,
    NetworkOptions,
    PhotoFraming,
    Precision,
    option,
)


class AppOptions(NetworkOptions):
    """The network that the page explains, and its limits."""

    fit: PhotoFraming = option("whole", NETWORK, "How photos fit the network, as of `explain`.")
    device: str = DEVICE
    precision: Precision = PRECISION
    chunk: int | None = CHUNK
    port: int | None = option(
        None, RUNNING, "Of the page; the first free one from 7860 by default.", ge=1, le=65535
    )
    max_megabytes: int = option(20, RUNNING, "Of a file.", ge=1, le=1000)
    max_pixels: int = option(40_000_000, RUNNING, "Of a photo.", ge=1)
    max_seconds: float = option(300.0, RUNNING, "Of one job.", gt=0, allow_inf_nan=False)
    max_waiting: int = option(16, RUNNING, "Jobs that wait; more are refused.", ge=1)


def app(options: AppOptions) -> None:
    """Open a page on this machine: drop a photo, and its maps appear. Ends with Ctrl+C."""
    import torch

    from torchsaliency.cli.photographs import say_assumptions
    from torchsaliency.pages.app import App
    from torchsaliency.pages.jobs import Limits
    from torchsaliency.pages.service import Service
    from torchsaliency.zoo import InputFacts, load_model
    from torchsaliency.zoo.inputs import given_facts

    loading: dict[str, Any] = {}  # what is not the default
    if options.weights is not None:
        loading["weights"] = str(options.weights)
    if options.precision != "float32":
        loading["dtype"] = getattr(torch, options.precision)
    if (given := given_facts(options)) != InputFacts():
        loading["given"] = given
    network = load_model(options.model, device=options.device, **loading)
    say_assumptions(network)
    limits = Limits(
        options.max_megabytes, options.max_pixels, options.max_seconds, options.max_waiting
    )
    service = Service(network, fit=options.fit, limits=limits, chunk=options.chunk, loading=loading)
    service.warm_up()
    served = App(service)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # files are deleted, as with Ctrl+C
    with keep_files_private():
        page = served.build()
        _, address, _ = served.serve(page, options.port)
        print_line(f"Open {address} in a browser; end with Ctrl+C.")
        try:
            while True:
                time.sleep(3600)
        finally:
            page.close()


@contextmanager
def keep_files_private() -> Iterator[Path]:
    """Give gradio a folder of its own for uploads and downloads, deleted in the end.

    Otherwise all of a user's apps of gradio have one, and each shows the files of the others.
    """
    place = os.environ.get("GRADIO_TEMP_DIR")
    if place:
        os.makedirs(place, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="torchsaliency-app-", dir=place) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            if place is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = place
