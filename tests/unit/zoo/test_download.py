"""Published files: fetched whole, resumed, remembered, and refused when they are others."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading

import pytest

from torchsaliency.core.errors import CheckpointError
from torchsaliency.zoo import download

CONTENT = bytes(range(256)) * 12_000  # 3 MB


class Publisher(http.server.BaseHTTPRequestHandler):
    """Serves one file, with ranges; breaks off after `limit` bytes if told so."""

    limit: int | None = None
    ranges = True
    asked: list[str | None] = []  # noqa: RUF012 (one server a test)

    def do_GET(self):
        wanted = self.headers.get("Range") if self.ranges else None
        self.asked.append(self.headers.get("Range"))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if self.path == "/missing":
            self.send_error(404)
            return
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.limit is None else body[: self.limit])

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def publisher(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHSALIENCY_CACHE", str(tmp_path / "cache"))
    kind = type("Own", (Publisher,), {"asked": [], "limit": None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kind.address = f"http://127.0.0.1:{server.server_port}"
    yield kind
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_with_its_hash(publisher):
    path = download.fetched(f"{publisher.address}/a/weights.pth", name="x")
    assert path.read_bytes() == CONTENT
    facts = json.loads(path.with_name("weights.pth.json").read_text())
    assert facts["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert download.fetched(f"{publisher.address}/a/weights.pth", name="x") == path
    assert publisher.asked == [None]


def test_a_broken_connection_is_resumed(publisher):
    publisher.limit = 1_500_000
    with pytest.raises(CheckpointError, match="what was fetched is kept"):
        download.fetched(f"{publisher.address}/weights.pth", name="x")
    publisher.limit = None
    path = download.fetched(f"{publisher.address}/weights.pth", name="x")
    assert path.read_bytes() == CONTENT
    assert publisher.asked[1].startswith("bytes=")
    assert publisher.asked[1] != "bytes=0-"


def test_a_publisher_without_ranges_is_fetched_anew(publisher):
    publisher.limit = 1_500_000
    with pytest.raises(CheckpointError):
        download.fetched(f"{publisher.address}/weights.pth", name="x")
    publisher.limit, publisher.ranges = None, False
    path = download.fetched(f"{publisher.address}/weights.pth", name="x")
    assert path.read_bytes() == CONTENT


def test_another_file_than_published_is_refused(publisher):
    address = f"{publisher.address}/weights.pth"
    with pytest.raises(CheckpointError, match="MD5 begins with"):
        download.fetched(address, name="x", md5_prefix="00000000")
    assert not list(download.cache_folder().glob("**/weights.pth*"))
    right = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()[:8]
    assert download.fetched(address, name="x", md5_prefix=right).exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/weights.pth", "missing"])
def test_offline_is_a_sentence(publisher, address):
    if address == "missing":
        address = f"{publisher.address}/missing"
    with pytest.raises(CheckpointError, match=r"ssl/x could not be fetched .* weights=FILE"):
        download.fetched(address, name="ssl/x")


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHSALIENCY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "torchsaliency"
