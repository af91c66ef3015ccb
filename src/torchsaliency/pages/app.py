"""The page on which a photograph is dropped and its maps appear: gradio around a `Service`."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from torchsaliency.errors import TorchSaliencyError, require_extra

require_extra("app", "gradio")
# before gradio is imported: it asks its makers' server for nothing and tells it nothing
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware

from torchsaliency.pages.addresses import RequestGuard, refuse_addresses
from torchsaliency.pages.jobs import Choice, Job, Shown, Stopped
from torchsaliency.pages.layout import DEFAULT, Parts, lay_out, make_theme
from torchsaliency.pages.media import Upload, Volumes
from torchsaliency.pages.service import Service
from torchsaliency.pages.viewer import read_asset, render, viewer_assets, viewer_html
from torchsaliency.pages.views import format_probability

_KEY = "app"
_STOPPED = "Stopped; the maps that were finished are shown."
_OVER = "Stopped after the time that one job may take; choose fewer or quicker methods."
_FORGET = "() => [{__type__: 'update', choices: [], value: null}, null, null]"


@final
class App:
    """The page of one service: its parts, and what they do."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._jobs: dict[tuple[str, str], Job] = {}  # by session and kind
        self._guard = threading.Lock()
        volumes = isinstance(service.medium, Volumes)
        self._begin = "Drop a scan or a video." if volumes else "Drop a photo, or pick a sample."

    def build(self) -> gr.Blocks:
        """Return the page, not yet served."""
        with gr.Blocks(
            title="torchsaliency", analytics_enabled=False, delete_cache=(600, 3600)
        ) as page:
            self._connect(page, lay_out(self.service, self._begin))
        for part in page.blocks.values():
            refuse_addresses(part)
        page.queue(max_size=self.service.limits.waiting, default_concurrency_limit=1)
        return page

    def _connect(self, page: gr.Blocks, parts: Parts) -> None:
        """Say what each part of the page does."""
        state, self._archive = gr.State(None, time_to_live=3600), parts.archive
        answers = [parts.status, parts.shown, state]
        # all begin at once and wait in the service's own line, in which they can be stopped
        waits: dict[str, Any] = {
            "concurrency_id": "network",
            "concurrency_limit": self.service.limits.waiting + 2,
        }
        # in the browser: what was chosen for the upload before is not asked of this one
        parts.upload.change(
            None, None, [parts.top, parts.other, parts.expected], js=_FORGET,
            api_visibility="private",
        )  # fmt: skip
        parts.upload.change(
            self.classify, [parts.upload], [parts.top, parts.status], api_name="classify",
            trigger_mode="multiple", **waits,
        )  # fmt: skip
        parts.run.click(
            self.explain,
            parts.choices,
            answers,
            api_name="explain",
            show_progress="hidden",
            **waits,
        )
        parts.top.input(lambda: None, None, parts.other, api_visibility="private", queue=False)
        parts.stop.click(self.stop, None, None, api_name="stop", queue=False)
        parts.scores.click(self.score, [state], answers, api_name="score", **waits)
        parts.compare.click(
            self.contrast,
            [parts.upload, parts.expected, parts.methods, parts.layer, parts.masking],
            [parts.status, parts.contrast], api_name="contrast", **waits,
        )  # fmt: skip
        parts.prepare.click(
            self.download, [state], [parts.archive, parts.code], api_name="download"
        )
        page.unload(self.leave)

    def serve(self, page: gr.Blocks, port: int | None = None, **more: Any) -> tuple[Any, str, str]:
        """Serve the page on 127.0.0.1, and return at once; see `gradio.Blocks.launch`."""
        limits = self.service.limits
        served: tuple[Any, str, str] = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=limits.megabytes * 1_000_000,
            allowed_paths=[],
            show_error=False,
            strict_cors=True,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            run_history=False,
            footer_links=["api"],
            state_session_capacity=64,
            max_threads=limits.waiting + 24,  # those that wait keep one each
            app_kwargs={"middleware": [Middleware(RequestGuard)]},
            theme=make_theme(),
            css=read_asset("app.css"),
            head=str(viewer_assets()),
            **more,
        )
        return served

    # --- what the parts do; each is documented on the page of the API ---------------------------

    def classify(self, photo: Upload | None, request: gr.Request) -> tuple[Any, Any]:
        """Return the five likeliest classes of a photo, and a sentence."""
        if not photo:
            return gr.Radio(choices=[], value=None), _say(self._begin)
        with self._job(request, "classify") as job:
            try:
                found = self.service.classify(photo, job=job)
            except Stopped:
                return gr.skip(), _say_ended(job)
        choices = [(f"{name} · {format_probability(share)}", place) for name, place, share in found]
        value = found[0][1] if found else None
        return gr.Radio(choices=choices, value=value), _say("Ready to explain.")

    def explain(self, request: gr.Request, *parts: Any) -> Iterator[tuple[str, Any, Any]]:
        """Explain a photo; maps come one after the other."""
        photo, chosen, top, other, layer, masking, signed, second, words = parts
        _require_photo(photo)
        target = other if other is not None else top
        choice = Choice(
            tuple(chosen),
            target,
            (layer or "").strip() or None,
            masking,
            signed,
            second,
            (words or "").strip() or None,
        )
        total, found = len(chosen), None
        with self._job(request) as job:
            ahead = len(self.service.line)
            sentence = f"Making the first of {total} maps."
            if ahead:
                jobs = "another job" if ahead == 1 else f"{ahead} other jobs"
                sentence = f"Waiting: the network has {jobs} to do first."
            yield _say(sentence, 0.0), gr.skip(), gr.skip()
            try:
                for found in self.service.explain(photo, choice, job, _title(photo)):
                    done = len(found.explanations)
                    yield _progress(done, total, found.left), self._html(found), found
            except Stopped:
                yield _say_ended(job, some=found is not None), gr.skip(), gr.skip()

    def stop(self, request: gr.Request) -> None:
        """Stop what this session waits for, before the network's next pass."""
        with self._guard:
            jobs = [job for (session, _), job in self._jobs.items() if session == _session(request)]
        for job in jobs:
            job.stop()

    def leave(self, request: gr.Request) -> None:
        """Stop the work of a session whose page was closed."""
        self.stop(request)

    def score(self, state: Shown | None, request: gr.Request) -> tuple[str, Any, Any]:
        """Measure insertion and deletion of each map that is shown."""
        shown = _require_shown(state)
        with self._job(request) as job:
            try:
                scored = self.service.score(shown, job)
            except Stopped:
                return _say_ended(job), gr.skip(), gr.skip()
        return _say("Insertion and deletion stand below each map."), self._html(scored), scored

    def contrast(
        self,
        photo: Upload | None,
        expected: int | None,
        chosen: list[str],
        layer: str,
        masking: str,
        request: gr.Request,
    ) -> tuple[str, Any]:
        """Show what of a photo speaks for the expected class, and what for the predicted one."""
        if not photo or expected is None:
            raise gr.Error(
                "Choose a photo and the class that it should have been.", print_exception=False
            )
        choice = Choice(tuple(chosen) or DEFAULT, None, (layer or "").strip() or None, masking)
        with self._job(request) as job:
            try:
                views = self.service.contrast(photo, expected, choice, _title(photo), job)
            except Stopped:
                return _say_ended(job), gr.skip()
        return _say("Compared."), viewer_html(views, assets=False, key=_KEY)

    def download(self, state: Shown | None) -> tuple[str, str]:
        """Write overlays, raw maps and the manifest as a ZIP file, and the lines of Python."""
        shown = _require_shown(state)
        with _sentences(), tempfile.TemporaryDirectory(prefix="torchsaliency-") as folder:
            archive = self.service.write(shown, Path(folder))
            kept = self._archive.move_resource_to_block_cache(archive)  # deleted after an hour
        return kept, self.service.lines(shown)

    def _html(self, shown: Shown) -> str:
        return viewer_html(self.service.view(shown), assets=False, key=_KEY)

    @contextmanager
    def _job(self, request: gr.Request, kind: str = "explain") -> Iterator[Job]:
        """Begin a visitor's job in place of the earlier one of its kind."""
        limits, key = self.service.limits, (_session(request), kind)
        job = self.service.make_job()
        with self._guard:
            if len(self._jobs.keys() - {key}) > limits.waiting:
                raise gr.Error(
                    f"{limits.waiting} visitors wait already; try again in a minute.",
                    print_exception=False,
                )
            earlier = self._jobs.get(key)
            self._jobs[key] = job
        if earlier is not None:
            earlier.stop()
        try:
            with _sentences():
                yield job
        finally:
            job.stop()  # also where the visitor left
            with self._guard:
                if self._jobs.get(key) is job:
                    del self._jobs[key]


def _session(request: gr.Request) -> str:
    return request.session_hash or str(id(request))


def _title(upload: Upload) -> str:
    """Return a name for what was uploaded: of a series, that of its first file."""
    name = Path(upload if isinstance(upload, str) else upload[0]).name
    return name.removesuffix(".gz").rpartition(".")[0] or name


def _require_photo(photo: Any) -> None:
    if not photo:
        raise gr.Error("There is nothing to explain yet; drop a file.", print_exception=False)


def _require_shown(state: Shown | None) -> Shown:
    if state is None or not state.explanations:
        raise gr.Error("There are no maps yet; explain a photo first.", print_exception=False)
    return state


@contextmanager
def _sentences() -> Iterator[None]:
    """Show the library's errors as what they are: one sentence."""
    try:
        yield
    except TorchSaliencyError as error:
        raise gr.Error(
            render("sentence.html.jinja", text=str(error)), print_exception=False
        ) from error


def _progress(done: int, total: int, left: float | None) -> str:
    if done == total:
        return _say(f"{total} {'map is' if total == 1 else 'maps are'} ready.", 1.0)
    time_left = "" if left is None else f", about {max(1, round(left))} s left"
    return _say(f"{done} of {total} maps{time_left}.", done / total)


def _say_ended(job: Job, *, some: bool = False) -> str:
    """Say why a job ended early."""
    return _say(_OVER if job.over else _STOPPED if some else "Stopped.")


def _say(sentence: str, share: float | None = None) -> str:
    return render("status.html.jinja", sentence=sentence, share=share)
