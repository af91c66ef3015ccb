"""Published files: the list of them, and where they are kept (tests/reliability has the rest)."""

from __future__ import annotations

import http.server
import io
import threading

import pytest
import torch
from torch import nn

from torchsaliency.errors import CheckpointError
from torchsaliency.zoo import download, load_model
from torchsaliency.zoo.sources import ssl


def test_every_encoder_has_a_file():
    files = [known.file for known in ssl.ENCODERS.values()]
    addresses = [file.address for file in files]
    assert len(set(addresses)) == len(addresses)
    assert all(address.startswith("https://") for address in addresses)
    assert {file.hash for file in files} == {"md5:a04e12f8", "md5:59fd9945", ""}


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHSALIENCY_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("TORCHSALIENCY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert download.cache_folder() == tmp_path / "xdg" / "torchsaliency"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert download.cache_folder() == tmp_path / ".cache" / "torchsaliency"


@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("true", True), ("yes", True), ("0", False), ("False", False), ("", False)],
)
def test_offline(value, offline, monkeypatch):
    monkeypatch.setenv("TORCHSALIENCY_OFFLINE", value)
    assert download.is_offline() is offline


class Small(nn.Module):
    """An encoder with SwAV's names."""

    def __init__(self):
        super().__init__()
        self.layer4 = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))

    def forward(self, x):
        return self.layer4(x).mean((2, 3))


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """Serve what `body` is set to, instead of the publisher."""

    class Publisher(http.server.BaseHTTPRequestHandler):
        body = b""

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *args):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("TORCHSALIENCY_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("TORCHSALIENCY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    changed = {"swav": ssl.replace(ssl.ENCODERS["swav"], build=Small)}
    monkeypatch.setattr(ssl, "ENCODERS", changed)
    yield Publisher
    server.shutdown()
    server.server_close()


def test_an_encoder_is_loaded_from_its_published_file(mirror):
    source = Small()
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    heads = {"module.prototypes.weight": torch.ones(2)}
    torch.save({**state, **heads}, buffer := io.BytesIO())
    mirror.body = buffer.getvalue()
    network = load_model("ssl/swav")
    assert torch.equal(network.module.layer4[2].weight, source.layer4[2].weight)
    mirror.body = b""
    assert load_model("ssl/swav").source == network.source
    assert network.source["sha256_of"] == "file"


def test_another_architecture_is_not_kept(mirror):
    torch.save({"module.conv1.weight": torch.ones(2)}, buffer := io.BytesIO())
    mirror.body = buffer.getvalue()
    with pytest.raises(CheckpointError, match="not the weights of ssl/swav"):
        load_model("ssl/swav")
    assert not list(download.cache_folder().rglob("*.tar"))
