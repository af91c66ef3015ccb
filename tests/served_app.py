"""The app in a process of its own, and what a visitor does on its page."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
from PIL import Image


@contextlib.contextmanager
def serve(folder, model, *options):
    """Start the app in a process of its own, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "torchsaliency", "app", "--model", model, "--port", str(port),
             *options],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder / "uploads")},
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}/"
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
                    break
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def upload(watched, path):
    watched.page.set_input_files("#photo input[type=file]", str(path))
    watched.page.wait_for_selector("#classes label")


def explain(watched, maps=3):
    watched.page.click("#explain")
    watched.page.wait_for_function(
        "n => document.querySelectorAll('#maps .ts-ready .ts-map canvas').length === n", arg=maps
    )


def picture(watched, selector="#maps .ts-map .ts-stage"):
    png = watched.page.locator(selector).first.screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def message(watched):
    """Return what the page says went wrong."""
    toast = watched.page.locator(".toast-body, [data-testid=toast-body]").first
    toast.wait_for()
    return toast.inner_text()
