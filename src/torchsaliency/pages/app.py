"""The page on which a photograph is dropped and its maps appear: gradio around a `Service`."""

from __future__ import annotations

import os
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

from torchsaliency.data import sample_paths
from torchsaliency.pages.jobs import MASKINGS, Choice, Job, Shown, Stopped
from torchsaliency.pages.service import Service
from torchsaliency.pages.viewer import read_asset, render, viewer_assets, viewer_html
from torchsaliency.pages.views import format_probability

DEFAULT = ("gradcam", "layercam", "mtsm")
"""Methods that are chosen at first: quick ones."""

_KEY = "app"
_STOPPED = "Stopped; the maps that were finished are shown."
_OVER = "Stopped after the time that one job may take; choose fewer or quicker methods."


@final
class App:
    """The page of one service: its parts, and what they do."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._jobs: dict[str, Job] = {}
        self._guard = threading.Lock()

    def build(self) -> gr.Blocks:
        """Return the page, not yet served."""
        service = self.service
        names = service.network.classes or ()
        classes = [(f"{name} ({place})", place) for place, name in enumerate(names)]
        with gr.Blocks(
            title="torchsaliency", analytics_enabled=False, delete_cache=(600, 3600)
        ) as page:
            gr.HTML(render("app.html.jinja", name=service.network.name))
            state = gr.State(None, time_to_live=3600)
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    photo = _photo_input("Photo: drop, paste or choose", "photo")
                    gr.Examples(
                        [str(path) for path in sample_paths().values()],
                        photo,
                        label="Samples",
                        example_labels=list(sample_paths()),
                    )
                    top = gr.Radio([], label="Class", elem_id="classes", visible=bool(names))
                    other = gr.Dropdown(
                        classes, value=None, label="Another class, by name", filterable=True,
                        elem_id="other", visible=bool(names),
                    )  # fmt: skip
                    chosen = gr.Dropdown(
                        service.list_methods(), value=list(DEFAULT), multiselect=True,
                        label="Methods", max_choices=service.limits.maps, elem_id="methods",
                    )  # fmt: skip
                    with gr.Accordion("More", open=False):
                        layer = gr.Textbox(
                            label="Layer", placeholder="the network's default layer", max_length=200
                        )
                        masking = gr.Radio(list(MASKINGS), value="mean", label="Masking")
                        signed = gr.Checkbox(False, label="Signs: for and against the class")
                        second = _photo_input("A second photo: show what both share", "second")
                        words = gr.Textbox(
                            label="Words (CLIP networks)",
                            placeholder="a cat asleep",
                            max_length=300,
                        )
                    with gr.Row():
                        run = gr.Button("Explain", variant="primary", elem_id="explain")
                        stop = gr.Button("Stop", elem_id="stop")
                with gr.Column(scale=3, min_width=320):
                    status = gr.HTML(_say("Drop a photo, or pick a sample."), elem_id="status")
                    with gr.Tabs():
                        with gr.Tab("Maps"):
                            shown = gr.HTML(
                                render("empty.html.jinja"), elem_id="maps", apply_default_css=False
                            )
                            scores = gr.Button("Insertion and deletion", elem_id="scores")
                        with gr.Tab("Expected against predicted", visible=bool(names)):
                            expected = gr.Dropdown(
                                classes, value=None, label="It should have been",
                                elem_id="expected", filterable=True,
                            )  # fmt: skip
                            compare = gr.Button("Compare", elem_id="compare")
                            contrast = gr.HTML("", elem_id="contrast", apply_default_css=False)
                        with gr.Tab("Download"):
                            prepare = gr.Button("Prepare files", elem_id="prepare")
                            archive = gr.File(label="Overlays, maps, manifest", elem_id="archive")
                            code = gr.Code(label="The same in Python", language="python")
            inputs = [photo, chosen, top, other, layer, masking, signed, second, words]
            queued: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
            # at once, in the browser: the class of the photo before is not explained of this one
            photo.change(None, None, top, js="() => null", api_visibility="private")
            photo.change(self.classify, [photo], [top, status], api_name="classify", **queued)
            run.click(
                self.explain, inputs, [status, shown, state], api_name="explain", **queued,
                show_progress="hidden",
            )  # fmt: skip
            top.input(lambda: None, None, other, api_visibility="private", queue=False)
            stop.click(self.stop, None, None, api_name="stop", queue=False)
            scores.click(self.score, [state], [status, shown, state], api_name="score", **queued)
            compare.click(
                self.contrast, [photo, expected, chosen, layer, masking], [status, contrast],
                api_name="contrast", **queued,
            )  # fmt: skip
            prepare.click(self.download, [state], [archive, code], api_name="download", **queued)
            page.unload(self.leave)
        page.queue(max_size=service.limits.waiting, default_concurrency_limit=1)
        return page

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
            theme=_theme(),
            css=read_asset("app.css"),
            head=str(viewer_assets()),
            **more,
        )
        return served

    # --- what the parts do; each is documented on the page of the API ---------------------------

    def classify(self, photo: str | None) -> tuple[Any, str]:
        """Return the five likeliest classes of a photo, and a sentence."""
        if photo is None:
            return gr.Radio(choices=[], value=None), _say("Drop a photo, or pick a sample.")
        try:
            with _sentences():
                found = self.service.classify(self.service.read(photo))
        except Stopped:
            return gr.skip(), _say(_OVER)
        choices = [(f"{name} · {format_probability(share)}", place) for name, place, share in found]
        value = found[0][1] if found else None
        return gr.Radio(choices=choices, value=value), _say("Ready to explain.")

    def explain(self, request: gr.Request, *parts: Any) -> Iterator[tuple[str, Any, Any]]:
        """Explain a photo; maps come one after the other."""
        photo, chosen, top, other, layer, masking, signed, second, words = parts
        if photo is None:
            raise gr.Error(
                "There is no photo yet; drop one, or pick a sample.", print_exception=False
            )
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
        job = self._begin(request)
        total, found = len(chosen), None
        yield _say(f"Making the first of {total} maps.", 0.0), gr.skip(), gr.skip()
        try:
            with _sentences():
                picture = self.service.read(photo)
                for found in self.service.explain(picture, choice, job, Path(photo).stem):
                    done = len(found.explanations)
                    yield _progress(done, total, found.left), self._html(found), found
        except Stopped:
            yield _say(_OVER if job.over else _STOPPED), gr.skip(), gr.skip()
        finally:
            job.stop()  # also where the visitor left

    def stop(self, request: gr.Request) -> None:
        """Stop what this session is waiting for, before the network's next pass."""
        with self._guard:
            job = self._jobs.get(request.session_hash or "")
        if job is not None:
            job.stop()

    def leave(self, request: gr.Request) -> None:
        """Stop the work of a session whose page was closed."""
        with self._guard:
            job = self._jobs.pop(request.session_hash or "", None)
        if job is not None:
            job.stop()

    def score(self, state: Shown | None, request: gr.Request) -> tuple[str, Any, Any]:
        """Measure insertion and deletion of each map that is shown."""
        shown = _require_shown(state)
        job = self._begin(request)
        try:
            with _sentences():
                scored = self.service.score(shown, job)
        except Stopped:
            return _say(_OVER if job.over else _STOPPED), gr.skip(), gr.skip()
        return _say("Insertion and deletion stand below each map."), self._html(scored), scored

    def contrast(
        self,
        photo: str | None,
        expected: int | None,
        chosen: list[str],
        layer: str,
        masking: str,
        request: gr.Request,
    ) -> tuple[str, Any]:
        """Show what of a photo speaks for the expected class, and what for the predicted one."""
        if photo is None or expected is None:
            raise gr.Error(
                "Choose a photo and the class that it should have been.", print_exception=False
            )
        choice = Choice(tuple(chosen) or DEFAULT, None, (layer or "").strip() or None, masking)
        job, title = self._begin(request), Path(photo).stem
        try:
            with _sentences():
                picture = self.service.read(photo)
                predicted = self.service.classify(picture, 1, job)[0][1]
                view = self.service.contrast(picture, expected, predicted, choice, title, job)
        except Stopped:
            return _say(_OVER if job.over else _STOPPED), gr.skip()
        return _say("Compared."), viewer_html([view], assets=False, key=_KEY)

    def download(self, state: Shown | None) -> tuple[str, str]:
        """Write overlays, raw maps and the manifest as a ZIP file, and the lines of Python."""
        shown = _require_shown(state)
        return str(self.service.write(shown)), self.service.lines(shown)

    def _html(self, shown: Shown) -> str:
        return viewer_html([self.service.view(shown)], assets=False, key=_KEY)

    def _begin(self, request: gr.Request) -> Job:
        job = Job(self.service.limits.seconds)
        with self._guard:
            earlier = self._jobs.get(request.session_hash or "")
            self._jobs[request.session_hash or ""] = job
        if earlier is not None:
            earlier.stop()
        return job


def _photo_input(label: str, name: str) -> gr.Image:
    """Return a part for a photograph that gives the file as it is: gradio would decode it."""
    part = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label=label,
        elem_id=name,
        height=230,
        buttons=[],
    )
    part.preprocess = _path_of
    return part


def _path_of(payload: Any) -> str | None:
    if payload is None:
        return None
    if not payload.path:
        raise gr.Error(
            "The photo did not arrive as a file; choose it again.", print_exception=False
        )
    return str(payload.path)


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


def _say(sentence: str, share: float | None = None) -> str:
    return render("status.html.jinja", sentence=sentence, share=share)


def _theme() -> Any:
    """Return gradio's plain theme in the viewer's colours, in the system's type."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=fonts,
        font_mono=["ui-monospace", "monospace"],
    ).set(  # its own grey is too pale to read
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300"
    )
