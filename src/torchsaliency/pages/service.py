"""What the app does, without a page: uploads are read within limits, explained, and stopped.

One network serves all sessions, one job at a time. A job ends before its next pass once it is
stopped or its time is over.
"""

from __future__ import annotations

import importlib
import json
import math
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from torchsaliency.core.detection import is_detections
from torchsaliency.core.embedding import similarity_to
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.freeze import frozen_eval
from torchsaliency.core.method import Needs, methods
from torchsaliency.core.network import unwrap
from torchsaliency.core.session import call_network
from torchsaliency.core.target import Contrast
from torchsaliency.errors import OptionError, TorchSaliencyError
from torchsaliency.pages.jobs import Choice, Job, Limits, Line, Shown
from torchsaliency.pages.masked import describe_masked
from torchsaliency.pages.media import Photographs, Source, Upload, choose_medium
from torchsaliency.pages.views import PhotoView, top_classes
from torchsaliency.zoo import Network, similarity_to_text


@final
class Service:
    """Explains uploads with one network for any number of visitors.

    Attributes:
        network: the explained one.
        medium: what its uploads are, and how they are shown.
        limits: what a visitor may ask for.
        line: jobs that wait for the network.
        chunk: images in one pass of derived images; None finds it.
        loading: what `load_model` was given beside the network's name, by name of the argument.
    """

    def __init__(
        self,
        network: Network,
        *,
        fit: str = "whole",
        limits: Limits | None = None,
        chunk: int | None = None,
        loading: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self.chunk = network, chunk
        self.loading = loading or {}
        self.limits = limits or Limits()
        self.medium = choose_medium(network, self.limits, fit)
        self.line = Line()
        self._seconds: dict[str, float] = {}  # that a method took, the last time

    def list_methods(self) -> list[str]:
        """Return the names of all methods that an upload alone serves."""
        none = Needs.NOTHING if self.detects else Needs.DETECTIONS
        return [name for name, entry in methods().items() if not entry.needs & none]

    @cached_property
    def detects(self) -> bool:
        """Whether the network finds boxes; takes a pass."""
        if not isinstance(self.medium, Photographs):
            return False
        x = self._prepare(Image.new("RGB", (64, 48), "gray"))
        with frozen_eval(self.network, x.device), torch.no_grad():
            return is_detections(call_network(self.network, x))

    def make_job(self) -> Job:
        """Return a job with the time that one may have."""
        return Job(self.limits.seconds)

    def warm_up(self) -> None:
        """Explain a grey photograph: the first visitor need not wait for what loads once."""
        if isinstance(self.medium, Photographs):
            grey = Image.new("RGB", (64, 48), "gray")
            with suppress(TorchSaliencyError):  # a detector finds nothing in it
                for shown in self.explain(grey, Choice(), Job(math.inf)):
                    self.view(shown)
        self._seconds.clear()
        names = ("torchsaliency.evaluation",)  # what scoring imports takes seconds
        threading.Thread(target=importlib.import_module, args=names, daemon=True).start()

    def read(self, upload: Upload | Path) -> Any:
        """Read an upload within the limits, see `Medium.read`."""
        return self.medium.read(upload)

    def classify(
        self, given: Source | Upload, count: int = 5, job: Job | None = None
    ) -> list[tuple[str, int, float]]:
        """Return the likeliest classes: names, numbers and probabilities; none of an encoder."""
        with self._turn(job or self.make_job()):
            found = self._explain(self._open(given), "gradcam", Choice(), None)
        output = found.output
        if not found.scores.classes or not isinstance(output, Tensor):
            return []
        best = found.scores.probabilities(output.float())[0].topk(min(count, output.shape[1]))
        names = [name for name, _ in top_classes(found, 0, self.network.classes, count)]
        return list(zip(names, best.indices.tolist(), best.values.tolist(), strict=True))

    def explain(
        self, given: Source | Upload, choice: Choice, job: Job | None = None, title: str = "photo"
    ) -> Iterator[Shown]:
        """Explain what was read or uploaded, and yield after each map what there is so far.

        Raises:
            OptionError: no method was chosen, or too many; two things to explain were; signs are
                asked of methods that all have none.
            TorchSaliencyError: something that was chosen does not fit the network.
            Stopped: the job was stopped, or its time is over.
        """
        if not 0 < len(choice.methods) <= self.limits.maps:
            raise OptionError(
                f"{len(choice.methods)} methods were chosen; choose 1 to {self.limits.maps}."
            )
        if choice.text is not None and choice.similar_to is not None:
            raise OptionError(
                "A second photo and words were given; leave one of the two out: one is explained."
            )
        if choice.signed and not any(methods()[name].signed for name in choice.methods):
            raise OptionError(
                f"{', '.join(choice.methods)} gives no signed values; choose a method such as "
                "gradcam or input-x-gradient, or switch signs off."
            )
        job = job or self.make_job()
        shown, target = None, None
        for place, name in enumerate(choice.methods, 1):
            with self._turn(job):
                begun = time.monotonic()
                if shown is None:
                    source = self._open(given)
                    shown, target = (
                        Shown(source, title, choice),
                        self._choose_target(choice),
                    )
                found = self._explain(shown.source, name, choice, target)
                masking = self.medium.baseline(shown.source, choice.masking)
                facts = describe_masked(self.network, found, masking)
                self._seconds[name] = time.monotonic() - begun
            shown = replace(
                shown,
                explanations={**shown.explanations, name: found},
                facts={**shown.facts, name: facts},
                left=self._left(choice.methods[place:]),
            )
            yield shown

    def score(self, shown: Shown, job: Job | None = None) -> Shown:
        """Return what is shown with insertion and deletion of each map.

        Raises:
            OptionError: the network is an encoder, which gives no probabilities.
        """
        from torchsaliency.evaluation import score  # noqa: PLC0415 (needs an extra)
        from torchsaliency.evaluation.setting import require_classes  # noqa: PLC0415
        from torchsaliency.metrics import create_metric  # noqa: PLC0415

        names = ["insertion", "deletion"]
        require_classes({name: create_metric(name) for name in names}, self.network, None)
        facts = {}
        for name, explanation in shown.explanations.items():
            with self._turn(job or self.make_job()):
                found = score(self.network, explanation, names)
            values = {metric: one.per_image[0].item() for metric, one in found.items()}
            words = " · ".join(f"{metric} {value:.1f} %" for metric, value in values.items())
            known = [line for line in shown.facts[name] if not line.startswith(f"{names[0]} ")]
            facts[name] = (*known, words)  # once, however often it is measured
        return replace(shown, facts=facts)

    def contrast(
        self,
        given: Source | Upload,
        expected: int,
        choice: Choice,
        title: str = "photo",
        job: Job | None = None,
    ) -> list[PhotoView]:
        """Return the maps of two classes and what speaks for each of them against the other.

        The differences are maps of the target y_e - y_p (`Contrast`) and y_p - y_e, not the
        differences of two maps, which were each stretched by themselves.

        Raises:
            OptionError: the network predicts just the expected class, or has no probabilities.
        """
        job, method, named = (
            job or self.make_job(),
            choice.methods[0],
            self.network.class_name,
        )
        with self._turn(job):
            source = self._open(given)
        predicted = next((place for _, place, _ in self.classify(source, 1, job)), None)
        if predicted is None:
            raise OptionError(
                f"{self.network.name} predicts no class, so nothing can be compared with it; use a "
                "classifier."
            )
        if expected == predicted:
            raise OptionError(
                "The network predicts just that class; choose another that it should have been."
            )
        targets: dict[str, Any] = {
            f"predicted: {named(predicted)}": predicted,
            f"expected: {named(expected)}": expected,
            f"{named(expected)} rather than {named(predicted)}": Contrast(
                torch.tensor([expected]), torch.tensor([[predicted]])
            ),
            f"{named(predicted)} rather than {named(expected)}": Contrast(
                torch.tensor([predicted]), torch.tensor([[expected]])
            ),
        }
        found, facts = {}, {}
        masking = self.medium.baseline(source, choice.masking)
        for label, target in targets.items():
            with self._turn(job):
                found[label] = self._explain(source, method, choice, target)
                facts[label] = describe_masked(self.network, found[label], masking)
        return self.medium.view(source, found, title=f"{title} by {method}", facts=facts)

    def view(self, shown: Shown) -> list[PhotoView]:
        """Return what is shown as the viewer takes it; methods without signs are shown as such."""
        views = []
        for name, one in shown.explanations.items():
            signed = shown.choice.signed and one.signed is not None
            lines = shown.facts.get(name, ())
            if shown.choice.signed and not signed:
                lines = (*lines, "gives no signed values")
            more = {"title": shown.title, "signed": signed, "facts": {name: lines}}
            views.append(self.medium.view(shown.source, {name: one}, **more))
        return [
            replace(alike[0], maps=tuple(one for view in alike for one in view.maps))
            for alike in zip(*views, strict=True)
        ]

    def write(self, shown: Shown, folder: Path) -> Path:
        """Write overlays, raw maps, manifest and the lines of Python that repeat it as a ZIP."""
        stem = self.medium.stem
        for one in shown.explanations.values():
            one.save(folder / "maps", [stem])
        files = self.medium.write(shown.source, shown.explanations, stem)
        if shown.choice.similar_to is not None:
            second = self.read(shown.choice.similar_to)
            files |= self.medium.write(second, {}, "second")
        files["again.py"] = self.lines(shown).encode()
        archive = folder / "maps.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted((folder / "maps").iterdir()):
                if path.is_file():
                    file.write(path, path.name)
            for name, content in files.items():
                file.writestr(name, content)
        return archive

    def lines(self, shown: Shown) -> str:
        """Return the lines of Python that make the same maps."""
        choice, medium = shown.choice, self.medium
        code = medium.write_code(shown.source, signed=choice.signed)
        target = [] if choice.target is None else [f"target={choice.target!r}"]
        if choice.text is not None:
            target = [f"target=torchsaliency.zoo.similarity_to_text(net, {choice.text!r})"]
        if choice.similar_to is not None:
            name = json.dumps(medium.name_file(medium.read(choice.similar_to), "second"))
            second = f"torchsaliency.preprocess({name}, {code.preparation})"
            target = [f"target=torchsaliency.similarity_to(net, {second})"]
        if choice.layer is not None:
            target.append(f"layer={choice.layer!r}")
        masking = f"masking={code.frame}.baseline({choice.masking!r})"
        loading = [f"{name}={value!r}" for name, value in self.loading.items()]
        first = json.dumps(medium.name_file(shown.source, "photo"))
        imports = [
            *(["import torch"] if "dtype" in self.loading else []),
            "import torchsaliency",
            *code.imports,
            *(["from torchsaliency.zoo import InputFacts"] if "given" in self.loading else []),
        ]
        return "\n".join(
            [
                *imports,
                "",
                f"net = torchsaliency.load_model({', '.join([repr(self.network.name), *loading])})",
                *code.setup,
                f"x = torchsaliency.preprocess({first}, {code.preparation})",
                f"methods = {list(shown.explanations)!r}",
                "found = torchsaliency.explain("
                f"{', '.join(['net', 'x', 'methods', *target, masking])})",
                "for name, explanation in found.items():",
                *(f"    {line}" for line in code.drawing),
                "",
            ]
        )

    def _open(self, given: Any) -> Any:
        """Return what was read of an upload, if it is not yet read."""
        uploaded = isinstance(given, str | Path | list | tuple)
        return self.read(given) if uploaded else given

    def _prepare(self, source: Any) -> Tensor:
        x = self.medium.prepare(source)
        like = next(self.network.parameters(), x)
        return x.to(like.device, like.dtype)

    def _choose_target(self, choice: Choice) -> Any:
        """Return what a visitor's choice explains."""
        if choice.text is not None:
            return similarity_to_text(self.network, choice.text)
        if choice.similar_to is not None:
            other = self._prepare(self.read(choice.similar_to))
            return similarity_to(self.network, other, chunk=self.chunk)
        return choice.target

    def _explain(self, source: Any, method: str, choice: Choice, target: Any) -> Explanation:
        found: Mapping[str, Explanation] = explain(
            self.network,
            self._prepare(source),
            [method],
            target,
            choice.layer,
            masking=self.medium.baseline(source, choice.masking),
            chunk=self.chunk,
        )
        return found[method]

    def _left(self, names: Sequence[str]) -> float | None:
        known = [self._seconds.get(name) for name in names]
        if not names or None in known:
            return None if names else 0.0
        return sum(seconds for seconds in known if seconds is not None)

    @contextmanager
    def _turn(self, job: Job) -> Iterator[None]:
        """Hold the network for a job, which ends before the pass after it was stopped."""
        with self.line.turn(job):
            hook = unwrap(self.network).register_forward_pre_hook(lambda *_: job.check())
            try:
                yield
            finally:
                hook.remove()
