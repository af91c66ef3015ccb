"""Peak memory of Score-CAM on ResNet-50: 2048 channels, one 224x224 photograph, chunks of 32.

Run: `uv run python benchmarks/scorecam_memory.py`. Each side runs in a process of its own, because
the peak of a process never falls; random weights do for memory.
"""

import json
import platform
import resource
import subprocess
import sys
import time

import torch
from torchvision.models import resnet50


def measure(what: str) -> None:
    """Print the peak resident memory of one task, in MB."""
    import torchsaliency

    torch.manual_seed(0)
    net, start = resnet50().eval(), time.perf_counter()
    with torch.no_grad():
        if what == "forward":
            net(torch.rand(32, 3, 224, 224))
        if what == "scorecam":
            torchsaliency.explain(net, torch.rand(1, 3, 224, 224), "scorecam", chunk=32)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": round(peak), "seconds": round(time.perf_counter() - start, 1)}))


def main() -> None:
    """Measure both sides and print them with the versions."""
    found = {}
    for what in ("load", "forward", "scorecam"):
        command = [sys.executable, __file__, what]
        found[what] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    extra = found["scorecam"]["peak_mb"] - found["forward"]["peak_mb"]
    facts = {"torch": torch.__version__, "machine": platform.machine(), "over_forward_mb": extra}
    print(json.dumps({**found, **facts}, indent=2))


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
