"""Information curves: the images that are shown, their bytes, and the areas by hand."""

import zlib

import numpy as np
import pytest
import torch

from nets import convnet, images
from torchsaliency import OptionError
from torchsaliency.measures import information_curve
from torchsaliency.measures.imputation import impute_neighbours
from torchsaliency.metrics import functional

N, H, W = 2, 8, 10
X = images(N, H, W, seed=1)
MAPS = torch.rand(N, H, W, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([3, 1])


def test_the_curve_is_that_of_a_plain_loop():
    net = convnet(seed=3)
    found = information_curve(net, X, MAPS, LABELS, shares=(0.1, 0.5), known=0.05, seed=2)
    always = torch.randperm(H * W, generator=torch.Generator().manual_seed(2))[: H * W // 20]
    ranks = (-MAPS.flatten(1)).argsort(1).argsort(1)
    for image in range(N):
        for place, count in enumerate((0, H * W // 10, H * W // 2, H * W)):
            shown = ranks[image] < count
            shown[always] = True
            one = impute_neighbours(X[image : image + 1], ~shown.view(1, H, W))
            with torch.no_grad():
                expected = net(one).double().softmax(1)[0, LABELS[image]]
            assert float(found.probabilities[image, place]) == pytest.approx(
                float(expected), abs=1e-6
            )
            low, high = X[image].min(), X[image].max()
            steps = (255 * (one[0].double() - low) / (high - low).double()).round().clamp(0, 255)
            whole = steps.numpy().astype(np.uint8)
            rows = np.concatenate([whole[..., :1], np.diff(whole, axis=-1)], -1)
            assert float(found.information[image, place]) == len(zlib.compress(rows.tobytes(), 9))
    assert found.passes == N * 4
    assert (found.information[:, 0] < found.information[:, -1]).all()


def test_areas_by_hand():
    information = torch.tensor([[10.0, 20, 15, 30], [5, 6, 7, 5], [0, 1, 2, 4]])
    known = torch.tensor([[0.2, 0.6, 0.4, 1.0], [0.1, 0.2, 0.3, 0.9], [0.5, 0.1, 0.2, 0.5]])
    # places 0, ½, ¼, 1 and heights 0, ½, ½, 1: by place 0, ½, ½, 1
    area = functional.softmax_information(information, known)
    assert float(area[0]) == pytest.approx(100 * (0.25 * 0.25 + 0.25 * 0.5 + 0.5 * 0.75))
    assert area[1:].isnan().all()  # no more bytes; no higher score
    steps = torch.tensor([[False, True, True, True]] * 3)
    accuracy = functional.accuracy_information(information, steps)
    assert float(accuracy[0]) == pytest.approx(100 * (0.25 / 2 + 0.75))
    # all at the first byte is perfect, nothing until the last is the worst
    first = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    last = torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert float(functional.softmax_information(*first)) == 100
    assert float(functional.softmax_information(*last)) == 0


def test_shares_that_do_not_rise_are_refused():
    for wrong in ({"shares": (0.5, 0.1)}, {"shares": ()}, {"shares": (1.0,)}, {"known": 0.0}):
        with pytest.raises(OptionError, match="rising"):
            information_curve(convnet(), X, MAPS, **wrong)
