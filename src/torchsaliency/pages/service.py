"""What the app does, without a page: photographs are read within limits, explained, and stopped.

One network serves all sessions, one job at a time. A job ends before its next pass once it is
stopped or its time is over.
"""

from __future__ import annotations

import importlib
import json
import math
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from torchsaliency.core.embedding import similarity_to
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.method import Needs, methods
from torchsaliency.core.network import unwrap
from torchsaliency.core.target import Contrast
from torchsaliency.data import open_photo
from torchsaliency.errors import DataError, OptionError, TorchSaliencyError
from torchsaliency.pages.jobs import Choice, Job, Limits, Shown
from torchsaliency.pages.masked import describe_masked
from torchsaliency.pages.views import PhotoView, top_classes, view_photo
from torchsaliency.zoo import Network, similarity_to_text


@final
class Service:
    """Explains photographs with one network for any number of visitors.

    Attributes:
        network: the explained one.
        fit: how photographs fit its input, as `preprocess` takes it.
        limits: what a visitor may ask for.
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
        self.network, self.fit, self.chunk = network, fit, chunk
        self.loading = loading or {}
        self.limits = limits or Limits()
        self.preprocessing = network.frame(fit)
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}  # that a method took, the last time

    def list_methods(self) -> list[str]:
        """Return the names of all methods that a photograph alone serves."""
        none = Needs.DETECTIONS if self.network.classes else Needs.NOTHING
        return [name for name, entry in methods().items() if not entry.needs & none]

    def warm_up(self) -> None:
        """Explain a grey photograph: the first visitor need not wait for what loads once."""
        grey = Image.new("RGB", (64, 48), "gray")
        with suppress(TorchSaliencyError):  # a detector finds nothing in it
            for shown in self.explain(grey, Choice(), Job(math.inf)):
                self.view(shown)
        self._seconds.clear()
        names = ("torchsaliency.evaluation",)  # what scoring imports takes seconds
        threading.Thread(target=importlib.import_module, args=names, daemon=True).start()

    def read(self, path: str | Path) -> Image.Image:
        """Read a photograph within the limits.

        Raises:
            DataError: it is no photograph, too large, or damaged; the message names no folder.
        """
        file = Path(path)
        with _without_folder(file):
            if file.stat().st_size > self.limits.megabytes * 1_000_000:
                raise DataError(
                    f"The file has more than {self.limits.megabytes} MB; scale the photograph down."
                )
            return open_photo(file, max_pixels=self.limits.pixels)

    def classify(
        self, photo: Image.Image, count: int = 5, job: Job | None = None
    ) -> list[tuple[str, int, float]]:
        """Return the likeliest classes of a photograph: names, numbers and probabilities."""
        with self._job(job or Job(self.limits.seconds)):
            found = self._explain(photo, "gradcam", Choice())
        output = found.output
        if not found.scores.classes or not isinstance(output, Tensor):
            return []
        best = found.scores.probabilities(output.float())[0].topk(min(count, output.shape[1]))
        names = [name for name, _ in top_classes(found, 0, self.network.classes, count)]
        return list(zip(names, best.indices.tolist(), best.values.tolist(), strict=True))

    def explain(
        self, photo: Image.Image, choice: Choice, job: Job | None = None, title: str = "photo"
    ) -> Iterator[Shown]:
        """Explain a photograph, and yield after each map what there is so far.

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
        job = job or Job(self.limits.seconds)
        shown = Shown(photo, title, choice, left=self._left(choice.methods))
        for place, name in enumerate(choice.methods, 1):
            begun = time.monotonic()
            with self._job(job):
                found = self._explain(photo, name, choice)
                facts = describe_masked(self.network, found, self._baseline(choice))
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
            with self._job(job or Job(self.limits.seconds)):
                found = score(self.network, explanation, names)
            values = {metric: one.per_image[0].item() for metric, one in found.items()}
            words = " · ".join(f"{metric} {value:.1f} %" for metric, value in values.items())
            known = [line for line in shown.facts[name] if not line.startswith(f"{names[0]} ")]
            facts[name] = (*known, words)  # once, however often it is measured
        return replace(shown, facts=facts)

    def contrast(
        self,
        photo: Image.Image,
        expected: int,
        predicted: int,
        choice: Choice,
        title: str = "photo",
        job: Job | None = None,
    ) -> PhotoView:
        """Return the maps of two classes and what speaks for each of them against the other.

        The differences are maps of the target y_e - y_p (`Contrast`) and y_p - y_e, not the
        differences of two maps, which were each stretched by themselves.
        """
        if expected == predicted:
            raise OptionError(
                "The network predicts just that class; choose another that it should have been."
            )
        method, named = choice.methods[0], self.network.class_name
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
        job, found, facts = job or Job(self.limits.seconds), {}, {}
        for label, target in targets.items():
            with self._job(job):
                found[label] = self._explain(photo, method, choice, target)
                facts[label] = describe_masked(self.network, found[label], self._baseline(choice))
        return view_photo(
            photo,
            found,
            model=self.network,
            fit=self.fit,
            title=f"{title} by {method}",
            facts=facts,
        )

    def view(self, shown: Shown) -> PhotoView:
        """Return what is shown as the viewer takes it; methods without signs are shown as such."""
        views = []
        for name, one in shown.explanations.items():
            signed = shown.choice.signed and one.signed is not None
            lines = shown.facts.get(name, ())
            if shown.choice.signed and not signed:
                lines = (*lines, "gives no signed values")
            view = view_photo(
                shown.photo,
                {name: one},
                model=self.network,
                fit=self.fit,
                title=shown.title,
                signed=signed,
                facts={name: lines},
            )
            views.append(view)
        return replace(views[0], maps=tuple(one for view in views for one in view.maps))

    def write(self, shown: Shown) -> Path:
        """Write overlays, raw maps, manifest and the lines of Python that repeat it as a ZIP."""
        folder = Path(tempfile.mkdtemp(prefix="torchsaliency-"))
        for one in shown.explanations.values():
            one.save(folder / "maps", ["photo"])
        pictures = {"photo.png": shown.photo}
        if shown.choice.similar_to is not None:
            pictures["second.png"] = self.read(shown.choice.similar_to)
        for name, picture in pictures.items():
            picture.save(folder / name)
        (folder / "again.py").write_text(self.lines(shown), encoding="utf-8")
        archive = folder / "maps.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted((folder / "maps").iterdir()):
                if path.is_file():
                    file.write(path, path.name)
            for name in ("again.py", *pictures):
                file.write(folder / name, name)
        return archive

    def lines(self, shown: Shown) -> str:
        """Return the lines of Python that make the same maps of photo.png."""
        choice, fit = shown.choice, f"fit={json.dumps(self.fit)}"
        target = [] if choice.target is None else [f"target={choice.target!r}"]
        if choice.text is not None:
            target = [f"target=torchsaliency.zoo.similarity_to_text(net, {choice.text!r})"]
        if choice.similar_to is not None:
            second = f'torchsaliency.preprocess("second.png", net, {fit})'
            target = [f"target=torchsaliency.similarity_to(net, {second})"]
        if choice.layer is not None:
            target.append(f"layer={choice.layer!r}")
        masking = f"masking=net.frame({self.fit!r}).baseline({choice.masking!r})"
        loading = [f"{name}={value!r}" for name, value in self.loading.items()]
        drawing = ["net", fit]
        if choice.signed:
            drawing.append("signed=explanation.signed is not None")
        return "\n".join(
            [
                *(["import torch", ""] if "dtype" in self.loading else []),
                "import torchsaliency",
                *(["from torchsaliency.zoo import InputFacts"] if "given" in self.loading else []),
                "",
                f"net = torchsaliency.load_model({', '.join([repr(self.network.name), *loading])})",
                f'x = torchsaliency.preprocess("photo.png", net, {fit})',
                f"methods = {list(shown.explanations)!r}",
                "found = torchsaliency.explain("
                f"{', '.join(['net', 'x', 'methods', *target, masking])})",
                "for name, explanation in found.items():",
                '    picture = torchsaliency.overlay("photo.png", explanation, '
                f"{', '.join(drawing)})",
                '    picture.save(f"{name}.png")',
                "",
            ]
        )

    def _baseline(self, choice: Choice) -> Any:
        return self.preprocessing.baseline(choice.masking)

    def _explain(
        self, photo: Image.Image, method: str, choice: Choice, target: Any = None
    ) -> Explanation:
        x = self.preprocessing(photo)[None]
        like = next(self.network.parameters(), x)
        x = x.to(like.device, like.dtype)
        if target is None:
            target = choice.target
        if choice.text is not None:
            target = similarity_to_text(self.network, choice.text)
        if choice.similar_to is not None:
            other = self.preprocessing(self.read(choice.similar_to))[None].to(x)
            target = similarity_to(self.network, other, chunk=self.chunk)
        found: Mapping[str, Explanation] = explain(
            self.network,
            x,
            [method],
            target,
            choice.layer,
            masking=self._baseline(choice),
            chunk=self.chunk,
        )
        return found[method]

    def _left(self, names: Sequence[str]) -> float | None:
        known = [self._seconds.get(name) for name in names]
        if not names or None in known:
            return None if names else 0.0
        return sum(seconds for seconds in known if seconds is not None)

    @contextmanager
    def _job(self, job: Job) -> Iterator[None]:
        """Hold the network for a job, which ends before the pass after it was stopped."""
        while not self._lock.acquire(timeout=0.1):
            job.check()
        try:
            hook = unwrap(self.network).register_forward_pre_hook(lambda *_: job.check())
            try:
                yield
            finally:
                hook.remove()
        finally:
            self._lock.release()


@contextmanager
def _without_folder(file: Path) -> Iterator[None]:
    """Name no folder of the server in an error."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(file), "The file")) from None
    except OSError:
        raise DataError("The file cannot be read; choose it again.") from None
