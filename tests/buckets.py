"""An S3 server on loopback in a process of its own, behind a wire that can be cut."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")


class Wire:
    """Forwards a port of this machine to another one, until it is cut.

    Attributes:
        bucket: the address of what lies behind it.
    """

    def __init__(self, bucket: str, target: int) -> None:
        self.bucket = bucket
        self._target, self._port = target, _free_port()
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def mend(self) -> None:
        """Take connections."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        assert self._listener is not None
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in [*self._open]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                theirs, _ = listener.accept()
                threading.Thread(target=self._forward, args=(theirs,), daemon=True).start()

    def _forward(self, theirs: socket.socket) -> None:
        with (
            theirs,
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as ours,
        ):
            self._open += [theirs, ours]
            with selectors.DefaultSelector() as both:
                both.register(theirs, selectors.EVENT_READ, ours)
                both.register(ours, selectors.EVENT_READ, theirs)
                while True:
                    for key, _ in both.select():
                        assert isinstance(key.fileobj, socket.socket)
                        if not (data := key.fileobj.recv(2**16)):
                            return
                        key.data.sendall(data)


@contextmanager
def serve_bucket(name: str, folder: Path) -> Iterator[Wire]:
    """Serve one bucket for this process and those that it starts; the wire leads to it."""
    port, log = _free_port(), folder / "moto.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "moto.server", "-p", str(port)]
        server = subprocess.Popen(command, stdout=out, stderr=out)
    before = {key: os.environ.get(key) for key in KEYS}
    wire = Wire(f"s3://{name}", port)
    try:
        _wait_for(port, server, log)
        make = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")
        with urllib.request.urlopen(make):
            pass
        os.environ.update(zip(KEYS, ("key", "secret", "us-east-1", wire.url), strict=True))
        yield wire
    finally:
        wire.cut()
        server.kill()
        server.wait()
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise AssertionError(f"The S3 server did not start: {log.read_text()}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port
