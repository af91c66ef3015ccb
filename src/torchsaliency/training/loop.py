"""The training loop: two stages, a checkpoint after each epoch, the test at the end.

`checkpoint.pt` is the state after the last epoch. At the end there are `model.safetensors` (with
class names and preprocessing), `report.json` and, where the test images were drawn here and not by
the data's folders, their list `test.csv`. Every file is whole and unchanged, or not there.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.explanation import versions
from torchsaliency.core.files import OutputFolder, json_bytes
from torchsaliency.core.scores import SIGMOID
from torchsaliency.data import DataSet, Sample
from torchsaliency.data.fingerprints import is_same_kind
from torchsaliency.data.tables import defuse
from torchsaliency.errors import CheckpointError, DataError, OptionError, out_of_memory
from torchsaliency.evaluation.batches import cut
from torchsaliency.evaluation.runner import hardware
from torchsaliency.evaluation.store import refuse_mixing
from torchsaliency.training.data import (
    TEST,
    TRAIN,
    VAL,
    Parts,
    data_contains,
    open_parts,
    read_batches,
)
from torchsaliency.training.report import (
    Accuracy,
    Epoch,
    LabelAccuracy,
    TrainingProgress,
    TrainingReport,
    Watch,
)
from torchsaliency.training.settings import FREE, Finetuning
from torchsaliency.zoo import Network, load_model
from torchsaliency.zoo.checkpoints import Note, tensors_sha256

CHECKPOINT, WEIGHTS = "checkpoint.pt", "model.safetensors"
REPORT, TEST_LIST = "report.json", "test.csv"

HEAD, ALL = "head", "all"


def finetune(
    settings: Finetuning, folder: str | Path, *, watch: Watch | None = None
) -> TrainingReport:
    """Fine-tune a network into a folder, from where an earlier session stopped.

    The process may be killed at any moment: every file is written whole or not at all, and the
    next session repeats at most one epoch and ends with the same weights, bit by bit (on the same
    machine with the same number of threads).

    Args:
        settings: what is learnt, and how.
        folder: new, or one that the same settings began.
        watch: called after every step and epoch.

    Raises:
        TorchSaliencyError: the data, the network or a setting does not work, or the folder holds
            another run.

    Example:
        >>> from torchsaliency.training import make_finetuning
        >>> facts = {"data": "shapes:64", "arch": "builtin/shapes_cnn"}
        >>> settings = make_finetuning({**facts, "epochs": 1, "head_epochs": 1})
        >>> report = finetune(settings, "finetuned")
        >>> [epoch.stage for epoch in report.history]
        ['head', 'all']
    """
    if data_contains(settings.data, Path(folder)):
        raise OptionError(
            f"{folder} lies in the data, {settings.data}, and would be read as a class; give a "
            "folder elsewhere."
        )
    parts = open_parts(settings.images or settings.data)
    settings = settings.for_data(parts.name)
    output = OutputFolder(folder)
    with output.lock(), _make_repeatable(settings.device):
        output.require_own([WEIGHTS, REPORT, TEST_LIST])
        torch.manual_seed(settings.seed)
        network, head = with_new_head(
            settings.model,
            parts.classes,
            weights=settings.weights,
            pretrained=settings.pretrained,
            device=settings.device,
        )
        network.preprocessing = network.preprocessing.frame(settings.fit)
        network.scores = SIGMOID if parts.several_labels else None
        modules = [network.module.get_submodule(path) for path in head]
        return Training(settings, parts, network, output, watch or (lambda _: None)).run(modules)


def with_new_head(
    name: str,
    classes: tuple[str, ...],
    *,
    weights: Path | None = None,
    pretrained: bool = True,
    device: str = "cpu",
) -> tuple[Network, tuple[str, ...]]:
    """Load a network, replace its classifier by a random one, and name the modules that are new.

    What belongs to the classifier is not looked up by name: it is what differs when the same
    network is built for another number of classes. Random values follow torch's generator.

    Raises:
        CheckpointError: the network or its weights cannot be had, or it has no such classifier.
    """
    network = load_model(
        name, weights=weights, pretrained=pretrained, device=device, dtype=torch.float32
    )
    fresh = load_model(name, pretrained=False, num_classes=len(classes)).module
    paths = _find_differing(network.module, fresh)
    if not paths:  # it had as many classes as the new one gets
        other = load_model(name, pretrained=False, num_classes=len(classes) + 1).module
        paths = _find_differing(fresh, other)
    if not paths or "" in paths:
        found = "a bare parameter" if paths else "not to be found"
        raise CheckpointError(
            f"The classifier of {name} is {found}, so it cannot be replaced; give a network whose "
            "last layer is a module with num_classes outputs."
        )
    for path in paths:
        parent, _, leaf = path.rpartition(".")
        setattr(network.module.get_submodule(parent), leaf, fresh.get_submodule(path))
    network.classes = classes
    return network.to(device).eval(), paths


def _find_differing(first: nn.Module, second: nn.Module) -> tuple[str, ...]:
    """Return the modules with a parameter or buffer of another shape, in order."""
    a, b = first.state_dict(), second.state_dict()
    names = [name for name in a if name in b and a[name].shape != b[name].shape]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


@final
class Training:
    """One session of a fine-tuning."""

    def __init__(
        self,
        settings: Finetuning,
        parts: Parts,
        network: Network,
        output: OutputFolder,
        watch: Watch,
    ) -> None:
        self.settings, self.parts, self.network = settings, parts, network
        self.output, self.watch = output, watch
        self.history: list[Epoch] = []  # that are finished, of both stages
        self.skipped: dict[str, dict[str, str]] = {}  # why an image is unreadable, by part and id
        self._identity = {
            **settings.model_dump(mode="json", exclude=set(FREE)),
            "classes": list(parts.classes),
            **{f"{part} images": data.fingerprint() for part, data in parts.sets.items()},
            "start weights": network.source.get("sha256"),
            "preprocessing": network.preprocessing.to_dict(),
            "processor": settings.device.partition(":")[0],
        }

    def run(self, head: Sequence[nn.Module]) -> TrainingReport:
        """Train what is missing, test, and write weights and report."""
        settings, border = self.settings, self.settings.head_epochs
        assert settings.head_rate is not None  # `for_data` settles it
        momentum = self._restore()
        before = len(self.history)
        if before < border:
            self._train(HEAD, head, settings.head_rate, border, momentum)
        if before < settings.total:
            begun = momentum if before > border else None
            self._train(ALL, [self.network], settings.rate, settings.total, begun)
        accuracy = {part: self._classify(part, report=True) for part in self.parts.sets}
        report = TrainingReport(
            settings=settings,
            data=self.parts.name,
            classes=self.parts.classes,
            accuracy=accuracy,
            history=tuple(self.history),
            skipped={part: found for part, found in self.skipped.items() if found},
            before=before,
        )
        self._export(report)
        return report

    # --- files -----------------------------------------------------------------------------------

    def _restore(self) -> dict[str, Any] | None:
        """Take up the state after the last epoch and return the optimizer's; None if new."""
        path = self.output.path / CHECKPOINT
        if not path.exists():
            return None
        damaged = DataError(
            f"{path} is damaged or no checkpoint of a fine-tuning in this folder; delete it to "
            "begin anew, or choose another folder."
        )
        if not self.output.owns(CHECKPOINT):
            raise damaged
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            begun = state["identity"]
        except Exception as error:  # torch raises many types for a file that is torn
            raise damaged from error
        for part, data in self.parts.sets.items():  # an old one's fingerprint is of another kind
            name = f"{part} images"
            if not is_same_kind(begun.get(name, ""), self._identity[name]):
                self._identity[name] = data.fingerprint(begun[name])
        refuse_mixing(self.output.path, begun, self._identity)
        if state["done"] > self.settings.total:
            raise OptionError(
                f"{self.output.path} has learnt for {state['done']} epochs and "
                f"{self.settings.total} are asked for; give another folder, or more epochs."
            )
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.skipped = state["skipped"]
        self.network.module.load_state_dict(state["model"])
        optimizer: dict[str, Any] = state["optimizer"]
        return optimizer

    def _save(self, optimizer: torch.optim.SGD) -> None:
        state = {
            "identity": self._identity,
            "done": len(self.history),
            "model": self.network.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "skipped": self.skipped,
        }
        with self.output.open_draft(CHECKPOINT) as file:
            torch.save(state, file)

    def _export(self, report: TrainingReport) -> None:
        """Write weights, the list of test images and, as the sign of an end, the report."""
        preprocessing = self.network.preprocessing
        tensors = {
            name: tensor.detach().cpu().contiguous().clone()  # two names of one tensor are refused
            for name, tensor in self.network.module.state_dict().items()
        }
        scores = SIGMOID.name if self.parts.several_labels else None
        note = Note(self.parts.classes, preprocessing, tensors_sha256(tensors), scores)
        self.output.write(WEIGHTS, safetensors.torch.save(tensors, note.metadata()))
        if self.parts.drawn and TEST in self.parts.sets:
            self.output.write(TEST_LIST, _label_list(self.parts.sets[TEST], self.parts.classes))
        facts = {
            **report.to_dict(),
            "preprocessing": preprocessing.to_dict(),
            "start": self.network.source,
            "versions": versions(),
            "hardware": hardware(self.settings.device),
        }
        self.output.write(REPORT, json_bytes(facts))

    # --- training --------------------------------------------------------------------------------

    def _train(
        self,
        stage: str,
        modules: Sequence[nn.Module],
        rate: float,
        last: int,
        momentum: dict[str, Any] | None,
    ) -> None:
        """Train modules, all others frozen, up to epoch `last`, a checkpoint after each."""
        self.network.requires_grad_(False)
        parameters = [p for module in modules for p in module.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.SGD(
            parameters,
            lr=rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        if momentum is not None:
            optimizer.load_state_dict(momentum)
        while len(self.history) < last:
            begun = time.monotonic()
            loss, accuracy = self._epoch(stage, modules, optimizer)
            val = self._classify(VAL).overall if VAL in self.parts.sets else None
            seconds = time.monotonic() - begun
            epoch = Epoch(len(self.history) + 1, stage, loss, accuracy, val, seconds)
            self.history.append(epoch)
            self._save(optimizer)
            count = len(self.parts.train)
            self._report(stage, epoch.number, count, count, epoch)

    def _epoch(
        self, stage: str, modules: Sequence[nn.Module], optimizer: torch.optim.SGD
    ) -> tuple[float, float]:
        """Go through the training images once; return mean loss and accuracy."""
        done, total = len(self.history), len(self.parts.train)
        self.network.eval()
        for module in modules:
            module.train()
        # a seed that no other epoch or run has
        digest = hashlib.sha256(f"{self.settings.seed}: epoch {done}".encode()).digest()
        seed = int.from_bytes(digest[:7])
        torch.manual_seed(seed)  # dropout
        losses, right, seen, passed = 0.0, 0.0, 0, 0
        for images, labels, count in self._batches(TRAIN, *self._draw(seed)):
            passed += count
            if len(images):
                logits = self.network(images)
                loss = self._loss(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                value = loss.item()
                if not math.isfinite(value):
                    raise OptionError(
                        f"The loss became {value} in epoch {done + 1} with the learning rate "
                        f"{optimizer.defaults['lr']}; give a lower "
                        f"{'head_rate' if stage == HEAD else 'rate'}."
                    )
                losses += value * len(images)
                right += self._count_right(logits.detach(), labels)
                seen += len(images)
            self._report(stage, done + 1, passed, total)
        if not seen:
            reason = next(iter(self.skipped[TRAIN].values()))
            raise DataError(f"None of the {total} training images can be used: {reason}")
        return losses / seen, right / seen

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        several = self.parts.several_labels
        return (F.binary_cross_entropy_with_logits if several else F.cross_entropy)(logits, labels)

    def _count_right(self, logits: Tensor, labels: Tensor) -> float:
        """Return how many images are classified right; of several labels, in shares of them."""
        if self.parts.several_labels:
            return float(((logits >= 0) == labels.bool()).float().mean(1).sum())
        return float((logits.argmax(1) == labels).sum())

    def _draw(self, seed: int) -> tuple[list[list[int]], set[str]]:
        """Return the epoch's batches, which images in which order, and the ids of those mirrored.

        They differ in size by one at most, so that no single image is left over for the last:
        batch normalisation cannot train on one value.
        """
        generator = torch.Generator().manual_seed(seed)
        count = len(self.parts.train)
        order = torch.randperm(count, generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.settings.flip else 0.0)
        groups = order.tensor_split(math.ceil(count / self.settings.batch_size))
        samples = itertools.compress(self.parts.train.samples, mirrored.tolist())
        return [group.tolist() for group in groups], {sample.id for sample in samples}

    def _classify(self, part: str, *, report: bool = False) -> Accuracy | LabelAccuracy:
        """Classify every image of a part that can be read."""
        found = [(torch.empty(0, len(self.parts.classes)),) * 2]
        self.network.eval()
        total, classes = len(self.parts.sets[part]), self.parts.classes
        pairs: Counter[tuple[int, int]] = Counter()
        done = 0
        for images, labels, count in self._batches(part, cut(total, self.settings.batch_size)):
            done += count
            if len(images):
                with torch.inference_mode():
                    logits = self.network(images)
                if self.parts.several_labels:
                    found.append((logits.float().cpu(), labels.cpu()))
                else:
                    pairs.update(zip(labels.tolist(), logits.argmax(1).tolist(), strict=True))
            if report:
                self._report(part, len(self.history), done, total)
        if self.parts.several_labels:
            return LabelAccuracy.of(classes, *map(torch.cat, zip(*found, strict=True)))
        numbers = range(len(classes))
        return Accuracy(classes, tuple(tuple(pairs[a, b] for b in numbers) for a in numbers))

    def _batches(
        self, part: str, groups: Sequence[Sequence[int]], mirrored: Collection[str] = ()
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield images and labels on the device, and the number of images to be read."""
        device = self.settings.device
        batches = read_batches(
            self.parts.sets[part],
            self.network.preprocessing,
            groups,
            mirrored=mirrored,
            workers=self.settings.workers,
            pinned=device.startswith("cuda"),
        )
        skipped = self.skipped.setdefault(part, {})
        for (images, labels, failed), group in zip(batches, groups, strict=True):
            skipped |= {sample.id: sample.reason for sample in failed}
            yield (
                images.to(device, non_blocking=True),
                labels.to(device, non_blocking=True),
                len(group),
            )

    def _report(
        self, what: str, epoch: int, done: int, total: int, ended: Epoch | None = None
    ) -> None:
        self.watch(TrainingProgress(what, epoch, self.settings.total, done, total, ended))


def _label_list(data: DataSet, classes: Sequence[str]) -> bytes:
    """Return a CSV of labels, as data sets are read with (`--labels`)."""
    words = ("|".join(classes[one] for one in _labels_of(sample)) for sample in data.samples)
    lines = [(defuse(s.id), defuse(word)) for s, word in zip(data.samples, words, strict=True)]
    frame = pd.DataFrame(lines, columns=["file", "labels" if data.several_labels else "label"])
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text.encode()


def _labels_of(sample: Sample) -> tuple[int, ...]:
    return (sample.label or 0,) if sample.labels is None else sample.labels


@contextmanager
def _make_repeatable(device: str) -> Iterator[None]:
    """Let the same numbers come out again, and leave the caller's generators as they are."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    on_gpu = device.startswith("cuda") or torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if on_gpu else range(0)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    except Exception as error:  # each library has errors of its own
        if not out_of_memory(error):
            raise
        raise OptionError(  # a smaller batch would be another run
            "The memory does not suffice for a training step; give a smaller batch size, and "
            "another folder."
        ) from error
    finally:
        cudnn.deterministic, cudnn.benchmark = before
