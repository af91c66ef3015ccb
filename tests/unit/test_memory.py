"""Score-CAM's memory is bounded by the chunk, whatever the number of channels."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch, torchsaliency
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.AvgPool2d(32), torch.nn.Conv2d(3, 2048, 1), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(2048, 10),
).eval()
with torch.no_grad():
    net(torch.rand(32, 3, 224, 224))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = torchsaliency.explain(net, torch.rand(1, 3, 224, 224), "scorecam", layer="2", chunk=32)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_scorecam_with_2048_channels_stays_within_400_megabytes_of_a_forward_pass():
    # All 2048 masked copies of one 224x224 photograph at once would take 1.2 GB.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 400
