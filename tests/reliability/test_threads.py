"""Threads and coroutines on one network: right maps, and the network given back."""

import asyncio
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets import DETECTION_NAMES, assert_same_state, images, quick, settle, state_of, tiny_vit
from torchsaliency import accelerated, explain, tracing
from torchsaliency.core.freeze import frozen_eval
from torchsaliency.core.method import methods
from torchsaliency.measures import masked_scores


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def trained():
    """A network in training mode whose batch norms must not move."""
    net = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 7, 3, 1, 1), nn.BatchNorm2d(7), nn.ReLU(), nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 5),
        )
    )  # fmt: skip
    return net.train()


ONE_EACH = {
    entry.family: name
    for name, entry in methods().items()
    if name not in ("fakecam", *DETECTION_NAMES)
}
"""The last method of each family …"""
CHOSEN = sorted(
    {*ONE_EACH.values(), "gradcam", "scorecam", "ablationcam", "iba", "lrp", "deeplift"}
)
CHOSEN = [name for name in CHOSEN if methods()[name].family != "attention"]


def at_once(count, work):
    """Run work(0), work(1) … in threads that start together; raise the first error."""
    found, errors = {}, []
    start = threading.Barrier(count)

    def run(index):
        start.wait()
        try:
            found[index] = work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if errors:
        raise errors[0]
    return found


@pytest.mark.parametrize("name", CHOSEN)
def test_threads_on_one_network_in_training_mode(name, tally):
    net = trained()
    xs = [images(1, seed=seed) for seed in range(4)]
    expected = [quick(name)(net, x, i, "5").raw for i, x in enumerate(xs)]
    before = state_of(net)
    rounds = 5

    def work(index):
        return [quick(name)(net, xs[index], index, "5").raw for _ in range(rounds)]

    found = at_once(4, work)
    assert_same_state(before, state_of(net))
    for index, maps in found.items():
        for one in maps:
            torch.testing.assert_close(one, expected[index], atol=1e-5, rtol=1e-4)
    tally(
        "threads",
        "maps made by threads at once on one network",
        4 * rounds,
        4 * rounds,
        "right; the network is given back",
    )


@pytest.mark.parametrize("name", ["attention-rollout", "generic-attention", "tibav", "lrp"])
def test_threads_on_a_transformer_and_nothing_of_torch_is_patched(name):
    net, functions = tiny_vit(), (F.scaled_dot_product_attention, F.linear, F.relu)
    xs = [images(1, 32, 32, seed) for seed in range(3)]
    expected = [quick(name)(net, x, 1).raw for x in xs]
    stop, patched = threading.Event(), []

    def watch():
        while not stop.is_set():
            now = (F.scaled_dot_product_attention, F.linear, F.relu)
            patched.extend(one for one in zip(now, functions, strict=True) if one[0] is not one[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    found = at_once(3, lambda i: [quick(name)(net, xs[i], 1).raw for _ in range(4)])
    stop.set()
    watcher.join()
    assert patched == []
    for index, maps in found.items():
        for one in maps:
            torch.testing.assert_close(one, expected[index], atol=1e-5, rtol=1e-4)


def test_networks_that_share_a_part_wait_for_each_other():
    body = trained()
    whole = nn.Sequential(body, nn.Linear(5, 3)).train()
    x = images(2)
    expected = explain(body, x, "gradcam", 1, "5")["gradcam"].raw
    other = explain(whole, x, "gradcam", 1, "0.5")["gradcam"].raw
    before = state_of(whole)

    def work(index):
        net, layer = ((body, "5"), (whole, "0.5"))[index % 2]
        return [explain(net, x, "gradcam", 1, layer)["gradcam"].raw for _ in range(10)]

    found = at_once(4, work)
    assert_same_state(before, state_of(whole))
    for index, maps in found.items():
        for one in maps:
            torch.testing.assert_close(one, (expected, other)[index % 2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mode", ["channels-last", "auto"])
def test_threads_share_copies(mode):
    net, x = trained(), images(3)
    maps = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = masked_scores(net, x, maps, 1).masked

    def work(index):
        del index
        with accelerated(mode):
            return [masked_scores(net, x, maps, 1).masked for _ in range(5)]

    for found in at_once(3, work).values():
        for one in found:
            torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)


def test_measures_and_methods_at_once():
    net, x = trained(), images(2)
    maps = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    scores, made = masked_scores(net, x, maps, 1).masked, explain(net, x, "gradcam", 1, "5")

    def work(index):
        if index % 2:
            return [masked_scores(net, x, maps, 1).masked for _ in range(10)]
        return [explain(net, x, "gradcam", 1, "5")["gradcam"].raw for _ in range(10)]

    for index, found in at_once(4, work).items():
        for one in found:
            torch.testing.assert_close(one, scores if index % 2 else made["gradcam"].raw)


def test_coroutines():
    net = trained()
    xs = [images(1, seed=seed) for seed in range(6)]
    expected = [explain(net, x, "gradcam", 1, "5")["gradcam"].raw for x in xs]
    before = state_of(net)

    async def one(index):
        for _ in range(4):
            in_thread = await asyncio.to_thread(explain, net, xs[index], "gradcam", 1, "5")
            await asyncio.sleep(0)
            here = explain(net, xs[index], "gradcam", 1, "5")
            for made in (in_thread, here):
                torch.testing.assert_close(made["gradcam"].raw, expected[index])

    async def all_of_them():
        await asyncio.gather(*(one(index) for index in range(len(xs))))

    asyncio.run(all_of_them())
    assert_same_state(before, state_of(net))


def test_traces_that_overlap_in_one_thread_give_the_network_back():
    """As two coroutines may: the first to begin is the first to end."""
    net, x = trained(), images(1)
    before = state_of(net)
    first = tracing(net, x, 1, ["5"])
    one = first.__enter__()
    second = tracing(net, x, 2, ["5"])
    two = second.__enter__()
    score = one.score.clone()
    first.__exit__(None, None, None)
    assert not net.training  # the second still holds it
    assert two["5"].gradients.isfinite().all()
    second.__exit__(None, None, None)
    after = state_of(net)
    after["grad mode"] = before["grad mode"]  # a context of its own, which ended out of order
    assert_same_state(before, after)
    assert torch.isfinite(score).all()
    torch.set_grad_enabled(True)


def test_whoever_waits_goes_on_after_an_error():
    net = trained()

    def work(index):
        for _ in range(10):
            try:
                with frozen_eval(net, torch.device("cpu")):
                    if index:
                        raise RuntimeError("an error inside")  # noqa: TRY301
                    assert not net.training
            except RuntimeError:
                continue
        return True

    before = state_of(net)
    assert at_once(4, work) == dict.fromkeys(range(4), True)
    assert_same_state(before, state_of(net))
