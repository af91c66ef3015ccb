"""What a pass costs beside the network's own work: bytes counted, never seconds.

A regression guard: every bound is what was measured when it was written, and a little room.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nets import convnet, images
from torchsaliency import create, explain
from torchsaliency.measures import masked_scores, perturbation_curve, region_curve

CHUNK, SIDE = 4, 32
IMAGE = 3 * SIDE * SIDE * 4


class Allocated(TorchDispatchMode):
    """Adds up the storages that operations make anew.

    Attributes:
        total: bytes of them all.
        largest: bytes of the largest.
    """

    def __init__(self):
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        known = {storage(one) for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        new = [one for one in tree_leaves(output) if torch.is_tensor(one)]
        for one in new:
            if storage(one) not in known:
                size = one.untyped_storage().nbytes()
                self.total += size
                self.largest = max(self.largest, size)
        return output


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


def spent(work):
    work()  # what is found once a network (chunk, default layer, a tail that can grow)
    with Allocated() as seen:
        work()
    return seen


def bare(net, count, *, gradients=False):
    """What the network itself allocates for so many images in chunks."""
    x = images(count, SIDE, SIDE).requires_grad_(gradients)

    def passes():
        with torch.set_grad_enabled(gradients):
            for part in x.split(CHUNK):
                output = net(part)
                if gradients:
                    torch.autograd.grad(output.sum(), part)

    return spent(passes).total


MANY = {
    "scorecam": (4.0, {}),
    "rise": (4.3, {"samples": 64}),
    "occlusion": (3.0, {}),
    "opticam": (11.3, {"iterations": 30, "tolerance": 0.0}),
}
"""Bytes a pass beside the network, in images of float32."""


@pytest.mark.parametrize("name", MANY)
def test_a_derived_pass_allocates_a_few_images(name):
    room, options = MANY[name]
    net, x = convnet().eval().requires_grad_(False), images(2, SIDE, SIDE)
    method = create(name, options)
    made = explain(net, x, method, 0, "relu3", chunk=CHUNK)[name]
    seen = spent(lambda: explain(net, x, method, 0, "relu3", chunk=CHUNK))
    own = bare(net, made.passes, gradients=name == "opticam")
    each = (seen.total - own) / made.passes / IMAGE
    assert each < room


@pytest.mark.parametrize("name", ["scorecam", "rise", "ablationcam", "lime"])
def test_the_largest_tensor_does_not_grow_with_the_number_of_passes(name):
    """Twice as many masks or channels, one largest tensor: what a chunk of images needs."""
    sizes = []
    for more in (1, 2):
        net, x = convnet(channels=8 * more).eval().requires_grad_(False), images(1, SIDE, SIDE)
        options = {"rise": {"samples": 48 * more}, "lime": {"passes": 24 * more}}.get(name)
        with Allocated() as seen:
            explain(net, x, create(name, options), 0, "relu3", chunk=CHUNK)
        sizes.append(seen.largest)
    # The network's own layers are twice as wide; a tail's chunk has a budget of eight images'.
    assert sizes[1] <= max(2 * sizes[0], 8 * CHUNK * IMAGE)


def curve(net, x, maps):
    return perturbation_curve(net, x, maps, 0, chunk=CHUNK)


def regions(net, x, maps):
    return region_curve(net, x, maps, 0, patch=4, regions=10, chunk=CHUNK)


def masked(net, x, maps):
    return masked_scores(net, x, maps[:, None].expand(-1, 24, -1, -1), 0, chunk=CHUNK)


@pytest.mark.parametrize(("measure", "room"), [(curve, 7.7), (regions, 4.2), (masked, 4.0)])
def test_a_measures_pass_allocates_a_few_images(measure, room):
    net, x = convnet().eval().requires_grad_(False), images(2, SIDE, SIDE)
    maps = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    ran = []
    handle = net.register_forward_hook(lambda _m, _i, output: ran.append(len(output)))
    measure(net, x, maps)
    handle.remove()
    seen = spent(lambda: measure(net, x, maps))
    assert (seen.total - bare(net, sum(ran))) / sum(ran) / IMAGE < room


def test_nine_maps_share_what_is_large():
    """The features, their gradients and two decompositions are made once for all nine."""
    nine = ["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam"]
    nine += ["eigencam", "multivec-eigencam", "tsm", "mtsm"]
    net, x = convnet().eval().requires_grad_(False), images(4, SIDE, SIDE)
    own = bare(net, 4)
    alone = [spent(lambda n=n: explain(net, x, n, 0, "relu3")).total - own for n in nine]
    together = spent(lambda: explain(net, x, nine, 0, "relu3")).total - own
    assert together < 0.65 * sum(alone)
    assert together / (4 * IMAGE) < 50
