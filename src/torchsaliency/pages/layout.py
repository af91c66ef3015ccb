"""The parts of the app's page and where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import gradio as gr

from torchsaliency.data import sample_paths
from torchsaliency.pages.jobs import MASKINGS
from torchsaliency.pages.media import Volumes
from torchsaliency.pages.service import Service
from torchsaliency.pages.viewer import render

DEFAULT = ("gradcam", "layercam", "mtsm")
"""Methods that are chosen at first: quick ones."""


@final
@dataclass(frozen=True)
class Parts:
    """The parts of the page that do something.

    Attributes:
        upload: what is explained.
        top: the likeliest classes.
        methods: those that are chosen.
        layer: the layer's name.
        masking: the masking's name.
        choices: all that `App.explain` takes, in its order.
        run: begins.
        stop: ends.
        status: a sentence.
        shown: the maps.
        scores: measures the maps.
        other: any class by name.
        expected: the class that it should have been.
        compare: compares it with the predicted one.
        contrast: the maps of that comparison.
        prepare: writes the files.
        archive: the files.
        code: the same in Python.
    """

    upload: Any
    top: gr.Radio
    other: gr.Dropdown
    methods: gr.Dropdown
    layer: gr.Textbox
    masking: gr.Radio
    choices: list[Any]
    run: gr.Button
    stop: gr.Button
    status: gr.HTML
    shown: gr.HTML
    scores: gr.Button
    expected: gr.Dropdown
    compare: gr.Button
    contrast: gr.HTML
    prepare: gr.Button
    archive: gr.File
    code: gr.Code


def lay_out(service: Service, sentence: str) -> Parts:
    """Lay the page out, within `gradio.Blocks`; `sentence` is its first status."""
    gr.HTML(render("app.html.jinja", name=service.network.name))
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            choices = _lay_out_choices(service)
        with gr.Column(scale=3, min_width=320):
            results = _lay_out_results(service, sentence)
    return Parts(**choices, **results)


def _lay_out_choices(service: Service) -> dict[str, Any]:
    named, volumes = bool(service.network.classes), isinstance(service.medium, Volumes)
    upload_input = _volume_input if volumes else _photo_input
    noun = "scan or video" if volumes else "photo"
    hint = "drop or choose" if volumes else "drop, paste or choose"
    upload = upload_input(f"{noun.capitalize()}: {hint}", "photo")
    if not volumes:
        samples = sample_paths()
        files = [str(path) for path in samples.values()]
        gr.Examples(files, upload, label="Samples", example_labels=list(samples))
    top = gr.Radio([], label="Class", elem_id="classes", visible=named)
    other = gr.Dropdown(
        _list_classes(service), value=None, label="Another class, by name", filterable=True,
        elem_id="other", visible=named,
    )  # fmt: skip
    methods = gr.Dropdown(
        service.list_methods(), value=list(DEFAULT), multiselect=True, label="Methods",
        max_choices=service.limits.maps, elem_id="methods",
    )  # fmt: skip
    with gr.Accordion("More", open=False, elem_id="more"):
        layer = gr.Textbox(label="Layer", placeholder="the network's default layer", max_length=200)
        masking = gr.Radio(list(MASKINGS), value="mean", label="Masking")
        signed = gr.Checkbox(False, label="Signs: for and against the class")
        second = upload_input(f"A second {noun}: show what both share", "second")
        words = gr.Textbox(
            label="Words (CLIP networks)", placeholder="a cat asleep", max_length=300,
            elem_id="words",
        )  # fmt: skip
    with gr.Row():
        run = gr.Button("Explain", variant="primary", elem_id="explain")
        stop = gr.Button("Stop", elem_id="stop")
    return {
        "upload": upload,
        "top": top,
        "other": other,
        "methods": methods,
        "layer": layer,
        "masking": masking,
        "choices": [upload, methods, top, other, layer, masking, signed, second, words],
        "run": run,
        "stop": stop,
    }


def _lay_out_results(service: Service, sentence: str) -> dict[str, Any]:
    status = gr.HTML(render("status.html.jinja", sentence=sentence, share=None), elem_id="status")
    with gr.Tabs():
        with gr.Tab("Maps"):
            empty = render("empty.html.jinja")
            shown = gr.HTML(empty, elem_id="maps", apply_default_css=False)
            scores = gr.Button("Insertion and deletion", elem_id="scores")
        with gr.Tab("Expected against predicted", visible=bool(service.network.classes)):
            expected = gr.Dropdown(
                _list_classes(service), value=None, label="It should have been",
                elem_id="expected", filterable=True,
            )  # fmt: skip
            compare = gr.Button("Compare", elem_id="compare")
            contrast = gr.HTML("", elem_id="contrast", apply_default_css=False)
        with gr.Tab("Download"):
            prepare = gr.Button("Prepare files", elem_id="prepare")
            archive = gr.File(label="Overlays, maps, manifest", elem_id="archive")
            code = gr.Code(label="The same in Python", language="python")
    return {
        "status": status,
        "shown": shown,
        "scores": scores,
        "expected": expected,
        "compare": compare,
        "contrast": contrast,
        "prepare": prepare,
        "archive": archive,
        "code": code,
    }


def _list_classes(service: Service) -> list[tuple[str, int]]:
    names = service.network.classes or ()
    return [(f"{name} ({place})", place) for place, name in enumerate(names)]


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
        placeholder="Drop an image file here to upload",  # as its label for screen readers says
    )
    part.preprocess = _path_of
    return part


def _volume_input(label: str, name: str) -> gr.File:
    """Return a part for a scan, all files of a DICOM series, or a video."""
    return gr.File(type="filepath", file_count="multiple", label=label, elem_id=name, height=150)


def _path_of(payload: Any) -> str | None:
    if payload is None:
        return None
    if not payload.path:
        raise gr.Error(
            "The photo did not arrive as a file; choose it again.", print_exception=False
        )
    return str(payload.path)


def make_theme() -> Any:
    """Return gradio's plain theme in the viewer's colours, in the system's type."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=fonts,
        font_mono=["ui-monospace", "monospace"],
    ).set(  # its own grey and indigo are too pale to read; see also app.css
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        color_accent="*primary_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
