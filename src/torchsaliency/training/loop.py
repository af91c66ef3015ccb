"""The training itself: two stages, a checkpoint after each epoch, the test at the end."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.explanation import versions
from torchsaliency.core.files import json_bytes
from torchsaliency.data import DataSet
from torchsaliency.data.tables import defuse
from torchsaliency.errors import DataError, OptionError, out_of_memory
from torchsaliency.evaluation.runner import hardware
from torchsaliency.training.accuracy import Accuracy
from torchsaliency.training.heads import with_new_head
from torchsaliency.training.parts import TEST, TRAIN, VAL, Parts, lies_in, open_parts
from torchsaliency.training.reading import Key, read
from torchsaliency.training.report import Epoch, Moment, Report, Watch
from torchsaliency.training.saving import REPORT, TEST_LIST, WEIGHTS, Saved
from torchsaliency.training.settings import FREE, Finetuning
from torchsaliency.zoo import Network
from torchsaliency.zoo.checkpoints import Note, tensors_sha256

HEAD, ALL = "head", "all"


def finetune(settings: Finetuning, folder: str | Path, *, watch: Watch | None = None) -> Report:
    """Fine-tune a network into a folder, from where an earlier session stopped.

    The process may be killed at any moment: every file is written whole or not at all, and the
    next session repeats at most one epoch and ends with the same weights, bit by bit (on the same
    machine with the same number of threads).

    Args:
        settings: what is learnt, and how.
        folder: new, or one that the same settings began.
        watch: told of every step and epoch.

    Raises:
        TorchSaliencyError: the data, the network or a setting does not work, or the folder holds
            another run.

    Example:
        >>> settings = make_finetuning({"data": "kvasir-dataset-v2"})  # doctest: +SKIP
        >>> finetune(settings, "finetuned").accuracy["test"].overall  # doctest: +SKIP
        0.898
    """
    if lies_in(Path(folder), settings.data):
        raise OptionError(
            f"{folder} lies in the data, {settings.data}, and would be read as a class; give a "
            "folder elsewhere."
        )
    parts = open_parts(settings.data)
    settings = settings.for_data(parts.name)
    saved = Saved(Path(folder))
    with saved.held(), _repeatable(settings.device):
        torch.manual_seed(settings.seed)
        network, head = with_new_head(
            settings.model,
            parts.classes,
            weights=settings.weights,
            pretrained=settings.pretrained,
            device=settings.device,
        )
        network.preprocessing = network.preprocessing.framed(settings.fit)
        return Training(settings, parts, network, head, saved).go(watch or (lambda _: None))


@final
@dataclass(frozen=True, eq=False)
class _Stage:
    """Some epochs that train the same modules.

    Attributes:
        name: "head" or "all".
        modules: that are trained; all others are frozen, in evaluation mode.
        rate: of learning.
        first: epoch, from 0.
        last: epoch, exclusive.
    """

    name: str
    modules: tuple[nn.Module, ...]
    rate: float
    first: int
    last: int

    def parameters(self) -> list[nn.Parameter]:
        return [one for module in self.modules for one in module.parameters()]


@final
class Training:
    """One session of a fine-tuning.

    Attributes:
        settings: with nothing left open.
        parts: the data.
        network: that is trained.
        done: epochs that are finished, of both stages.
    """

    def __init__(
        self,
        settings: Finetuning,
        parts: Parts,
        network: Network,
        head: Sequence[str],
        saved: Saved,
    ) -> None:
        self.settings, self.parts, self.network, self._saved = settings, parts, network, saved
        self.done = 0
        self._history: list[Epoch] = []
        self._skipped: dict[str, dict[str, str]] = {}
        self._momentum: dict[str, Any] | None = None
        self._identity = self._decisive()
        border = settings.head_epochs
        modules = tuple(network.module.get_submodule(path) for path in head)
        assert settings.head_rate is not None  # `for_data` settles it
        self._stages = (
            _Stage(HEAD, modules, settings.head_rate, 0, border),
            _Stage(ALL, (network,), settings.rate, border, settings.total),
        )

    def go(self, watch: Watch) -> Report:
        """Train what is missing, test, and write weights and report."""
        self._restore()
        before = self.done
        for stage in self._stages:
            self._train(stage, watch)
        accuracy = {part: self._test(part, watch) for part in self.parts.sets}
        report = Report(
            settings=self.settings,
            data=self.parts.name,
            classes=self.parts.classes,
            accuracy=accuracy,
            history=tuple(self._history),
            skipped={part: found for part, found in self._skipped.items() if found},
            before=before,
        )
        self._export(report)
        return report

    # --- what is kept ----------------------------------------------------------------------------

    def _decisive(self) -> dict[str, Any]:
        """Return all that decides the weights, in JSON types."""
        return {
            **self.settings.model_dump(mode="json", exclude=set(FREE)),
            "classes": list(self.parts.classes),
            **{f"{part} images": mark for part, mark in self.parts.fingerprints().items()},
            "start weights": self.network.source.get("sha256"),
            "preprocessing": self.network.preprocessing.to_dict(),
            "processor": self.settings.device.partition(":")[0],
        }

    def _restore(self) -> None:
        state = self._saved.state(self._identity)
        if state is None:
            return
        if state["done"] > self.settings.total:
            raise OptionError(
                f"{self._saved.folder} has learnt for {state['done']} epochs and "
                f"{self.settings.total} are asked for; give another folder, or more epochs."
            )
        self.done, self._momentum = state["done"], state["optimizer"]
        self._history = [Epoch(**one) for one in state["history"]]
        self._skipped = state["skipped"]
        self.network.module.load_state_dict(state["model"])

    def _keep(self, optimizer: torch.optim.SGD) -> None:
        self._saved.keep_state(
            {
                "identity": self._identity,
                "done": self.done,
                "model": self.network.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": [asdict(one) for one in self._history],
                "skipped": self._skipped,
            }
        )

    def _export(self, report: Report) -> None:
        """Write weights, the list of test images and, as the sign of an end, the report."""
        tensors = {
            name: tensor.detach().cpu().contiguous().clone()  # two names of one tensor are refused
            for name, tensor in self.network.module.state_dict().items()
        }
        note = Note(self.parts.classes, self.network.preprocessing, tensors_sha256(tensors))
        self._saved.keep(WEIGHTS, safetensors.torch.save(tensors, note.metadata()))
        test = self.parts.sets.get(TEST)
        if self.parts.drawn and test is not None:
            self._saved.keep(TEST_LIST, _label_list(test, self.parts.classes).encode())
        facts = {
            **report.to_dict(),
            "preprocessing": self.network.preprocessing.to_dict(),
            "start": self.network.source,
            "versions": versions(),
            "hardware": hardware(self.settings.device),
        }
        self._saved.keep(REPORT, json_bytes(facts))

    # --- training --------------------------------------------------------------------------------

    def _train(self, stage: _Stage, watch: Watch) -> None:
        """Do the epochs of a stage that are missing, each with its checkpoint."""
        if self.done >= stage.last:
            return
        self.network.requires_grad_(False)
        for parameter in stage.parameters():
            parameter.requires_grad_(True)
        optimizer = torch.optim.SGD(
            stage.parameters(),
            lr=stage.rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        if self.done > stage.first and self._momentum is not None:
            optimizer.load_state_dict(self._momentum)
        while self.done < stage.last:
            begun = time.monotonic()
            loss, accuracy = self._epoch(stage, optimizer, watch)
            self.done += 1
            val = self._confusion(VAL, lambda _: None) if VAL in self.parts.sets else None
            ended = Epoch(
                number=self.done,
                stage=stage.name,
                loss=loss,
                train=accuracy,
                val=None if val is None else val.overall,
                seconds=time.monotonic() - begun,
            )
            self._history.append(ended)
            self._keep(optimizer)
            count = len(self.parts.train)
            watch(Moment(stage.name, self.done, self.settings.total, count, count, ended))

    def _epoch(
        self, stage: _Stage, optimizer: torch.optim.SGD, watch: Watch
    ) -> tuple[float, float]:
        """Go through the training images once; return mean loss and accuracy."""
        self.network.eval()
        for module in stage.modules:
            module.train()
        seed = _seed_of(self.settings.seed, self.done)
        torch.manual_seed(seed)  # dropout
        losses, right, seen, passed = 0.0, 0, 0, 0
        total = len(self.parts.train)
        for images, labels, count in self._batches(TRAIN, self._drawn(seed)):
            passed += count
            if len(images):
                with _enough_memory():
                    logits = self.network(images)
                    loss = F.cross_entropy(logits, labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                losses += self._finite(loss, stage) * len(images)
                right += int((logits.detach().argmax(1) == labels).sum())
                seen += len(images)
            watch(Moment(stage.name, self.done + 1, self.settings.total, passed, total))
        if not seen:
            reason = next(iter(self._skipped[TRAIN].values()))
            raise DataError(f"None of the {total} training images can be used: {reason}")
        return losses / seen, right / seen

    def _drawn(self, seed: int) -> list[list[Key]]:
        """Return the epoch's batches: which images in which order, and whether mirrored.

        They differ in size by one at most, so that no single image is left over for the last:
        batch normalisation cannot train on one value.
        """
        generator = torch.Generator().manual_seed(seed)
        count = len(self.parts.train)
        order = torch.randperm(count, generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.settings.flip else 0.0)
        groups = order.tensor_split(math.ceil(count / self.settings.batch_size))
        return [[(one, bool(mirrored[one])) for one in group.tolist()] for group in groups]

    def _finite(self, loss: Tensor, stage: _Stage) -> float:
        value = loss.item()
        if not math.isfinite(value):
            raise OptionError(
                f"The loss became {value} in epoch {self.done + 1} with the learning rate "
                f"{stage.rate}; give a lower {'head_rate' if stage.name == HEAD else 'rate'}."
            )
        return value

    # --- testing ---------------------------------------------------------------------------------

    def _test(self, part: str, watch: Watch) -> Accuracy:
        total = len(self.parts.sets[part])

        def tell(done: int) -> None:
            watch(Moment(part, self.done, self.settings.total, done, total))

        return self._confusion(part, tell)

    def _confusion(self, part: str, tell: Callable[[int], None]) -> Accuracy:
        """Classify every image of a part that can be read."""
        self.network.eval()
        size, count = self.settings.batch_size, len(self.parts.sets[part])
        groups = [
            [(one, False) for one in range(at, min(at + size, count))]
            for at in range(0, count, size)
        ]
        pairs: Counter[tuple[int, int]] = Counter()
        done = 0
        for images, labels, passed in self._batches(part, groups):
            done += passed
            if len(images):
                with torch.inference_mode(), _enough_memory():
                    predicted = self.network(images).argmax(1)
                pairs.update(zip(labels.tolist(), predicted.tolist(), strict=True))
            tell(done)
        numbers = range(len(self.parts.classes))
        rows = tuple(tuple(pairs[true, found] for found in numbers) for true in numbers)
        return Accuracy(self.parts.classes, rows)

    # --- reading ---------------------------------------------------------------------------------

    def _batches(
        self, part: str, groups: Sequence[Sequence[Key]]
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Give images and labels on the device, and how many were asked for; keep mishaps."""
        device = self.settings.device
        found = read(
            self.parts.sets[part],
            self.network.preprocessing,
            groups,
            workers=self.settings.workers,
            pinned=device.startswith("cuda"),
        )
        skipped = self._skipped.setdefault(part, {})
        for (images, labels, failed), group in zip(found, groups, strict=True):
            skipped |= {one.id: one.reason for one in failed}
            yield (
                images.to(device, non_blocking=True),
                labels.to(device, non_blocking=True),
                len(group),
            )


def _seed_of(seed: int, epoch: int) -> int:
    """Return a generator's seed that no other epoch or seed has."""
    digest = hashlib.sha256(f"{seed}: epoch {epoch}".encode()).digest()
    return int.from_bytes(digest[:7])


def _label_list(data: DataSet, classes: Sequence[str]) -> str:
    """Return a CSV of labels, as data sets are read with (`--labels`)."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("file", "label"))
    for one in data.samples:
        lines.writerow((defuse(one.id), defuse(classes[one.label or 0])))
    return text.getvalue()


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Say what helps when the memory ends; a smaller batch is another run, so nothing is halved."""
    try:
        yield
    except Exception as error:  # each library has errors of its own
        if not out_of_memory(error):
            raise
        raise OptionError(
            "The memory does not suffice for a training step; give a smaller batch size, and "
            "another folder."
        ) from error


@contextmanager
def _repeatable(device: str) -> Iterator[None]:
    """Let the same numbers come out again, and leave the caller's generators as they are."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    on_gpu = device.startswith("cuda") or torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if on_gpu else range(0)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
