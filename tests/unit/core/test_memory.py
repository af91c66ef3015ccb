"""The chunk that suits a network, and what happens where the memory ends."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nets import convnet, images, known_apart
from torchsaliency import create, explain, tracing
from torchsaliency.core import memory
from torchsaliency.core.embedding import embeddings
from torchsaliency.core.session import find_chunk
from torchsaliency.errors import InputError
from torchsaliency.measures import masked_scores, noisy_maps, perturbation_curve


class Wide(nn.Module):
    """One layer of so many channels; counts its images and, if told, has little memory."""

    def __init__(self, channels: int, room: int = 10**9) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(channels, 4)
        self.room, self._seen = room, deque()  # lists are given back as they were

    @property
    def seen(self) -> list[int]:
        return [*self._seen]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self._seen.append(len(x))
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, 32), (64, 32), (128, 16), (129, 8), (1024, 2), (2048, 1), (3000, 1)],
)
def test_the_largest_layer_of_a_chunk_stays_within_32_mebibytes(channels, expected):
    x = images(1, 64, 64)  # a channel takes 16 KiB
    net = Wide(channels)
    with torch.no_grad():
        assert find_chunk(net, x) == expected
        assert find_chunk(net, x) == expected
    assert net.seen == [1]  # looked at once
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("told", "expected"), [(str(2**26), 4), (str(2**30), 32), ("1", 2), ("much", 2)]
)
def test_more_where_the_process_keeps_more(monkeypatch, told, expected):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", told)
    with torch.no_grad():
        assert find_chunk(Wide(1024), images(1, 64, 64)) == expected


class OnGpu(torch.Tensor):
    is_cuda = True


def test_a_chunk_on_a_gpu_grows_with_its_memory_and_shrinks_with_the_layers(monkeypatch):
    def chunk(gibibytes: int, channels: int) -> int:
        gpu = SimpleNamespace(total_memory=gibibytes * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
        net, x = Wide(channels), images(1, 64, 64)
        with torch.no_grad(), memory.measure_layers(net, x):
            net(x)
        return memory.chunk_of(net, x.as_subclass(OnGpu))

    some = chunk(8, 2048)
    assert chunk(16, 2048) == chunk(8, 1024) == 2 * some
    assert chunk(4, 2048) == some // 2
    assert chunk(10_000, 8) == chunk(20_000, 8)  # there is a largest chunk


def test_the_shared_pass_tells_and_costs_nothing_more():
    net, x = known_apart(Wide(512)), images(2, 64, 64)
    with tracing(net, x, 1, ["act"]) as trace:
        assert trace.chunk == 4
        assert net.seen == [2]
    with tracing(net, x, 1, ["act"], chunk=5) as trace:
        assert trace.chunk == 5


def test_each_size_has_a_chunk_of_its_own():
    net = Wide(512)
    with torch.no_grad():
        assert [find_chunk(net, images(1, n, n)) for n in (32, 64, 128)] == [16, 4, 1]


@pytest.mark.parametrize("name", ["rise", "scorecam", "opticam", "smoothgrad", "occlusion"])
@pytest.mark.parametrize("chunk", [None, 32])
def test_a_method_goes_on_with_less(name, chunk):
    few = {"rise": {"samples": 20}, "opticam": {"iterations": 3}, "smoothgrad": {"samples": 6}}
    method = create(name, few.get(name))
    x = images(3, 16, 16).double()
    roomy = Wide(8).double()
    tight = Wide(8, room=3).double()
    tight.load_state_dict(roomy.state_dict())
    plain = explain(roomy, x, method, [0, 1, 2], "act")[name]
    made = explain(tight, x, method, [0, 1, 2], "act", chunk=chunk)[name]
    torch.testing.assert_close(made.map, plain.map, atol=1e-6, rtol=0)
    assert max(tight.seen) <= 3
    assert tight.training  # and all else as it was


def test_measures_go_on_with_less_and_remember_it():
    x = images(3, 16, 16).double()
    roomy, tight = Wide(8).double(), Wide(8, room=3).double()
    tight.load_state_dict(roomy.state_dict())
    maps = torch.rand(3, 16, 16)
    torch.testing.assert_close(
        masked_scores(tight, x, maps, 1).masked, masked_scores(roomy, x, maps, 1).masked
    )
    torch.testing.assert_close(
        perturbation_curve(tight, x, maps, 1).probabilities,
        perturbation_curve(roomy, x, maps, 1).probabilities,
    )
    made = [explain(net, x, "gradcam", 1, "act")["gradcam"] for net in (roomy, tight)]
    again = [
        noisy_maps(net, one, samples=4).noisy_maps
        for net, one in zip((roomy, tight), made, strict=True)
    ]
    torch.testing.assert_close(again[0], again[1])
    torch.testing.assert_close(
        embeddings(tight, images(9, 16, 16)), embeddings(roomy, images(9, 16, 16))
    )
    assert max(tight.seen) <= 3
    with torch.no_grad():
        assert find_chunk(tight, x) == 2


def test_one_image_that_is_too_large_is_the_users_to_know():
    net = Wide(8, room=0)
    with pytest.raises(torch.OutOfMemoryError):
        explain(net, images(2), "gradcam", 1, "act")
    with pytest.raises(torch.OutOfMemoryError):
        masked_scores(net, images(2), torch.rand(2, 16, 16), 1)


def test_other_errors_are_not_tried_again():
    calls = []

    def work(chunk):
        calls.append(chunk)
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        memory.with_less_memory(work, 8, convnet(), images(1))
    assert calls == [8]


def test_processors_say_it_in_a_sentence():
    said = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
    assert memory.out_of_memory(RuntimeError(said))
    assert memory.out_of_memory(MemoryError())
    assert not memory.out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_below_one(chunk):
    net, x = convnet(), images(2)
    for call in (
        lambda: explain(net, x, "rise", 1, "relu3", chunk=chunk),
        lambda: masked_scores(net, x, torch.rand(2, 16, 16), 1, chunk=chunk),
        lambda: embeddings(net, x, chunk=chunk),
    ):
        with pytest.raises(InputError, match="at least one image"):
            call()
