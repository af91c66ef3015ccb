"""What is released: the public names, the citation, the issue forms, and the script's checks."""

import runpy
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import yaml

import torchsaliency
from torchsaliency import registry

ROOT = Path(__file__).parents[2]
RELEASE = runpy.run_path(str(ROOT / "scripts" / "release.py"))
ReleaseError = RELEASE["ReleaseError"]


def test_the_public_names_are_those_of_the_file():
    script = runpy.run_path(str(ROOT / "scripts" / "api_surface.py"))
    made, written = script["surface"](), (ROOT / "api.txt").read_text(encoding="utf-8")
    old, new = set(written.splitlines()), set(made.splitlines())
    assert (sorted(old - new), sorted(new - old)) == ([], []), (
        "the public names changed: run scripts/api_surface.py, and say so in CHANGELOG.md"
    )
    assert made == written, "run scripts/api_surface.py"


def test_names_that_moved_warn():
    for package, names in registry._moved.items():
        for name, place in names.items():
            module = __import__(package, fromlist=["x"])
            with pytest.warns(DeprecationWarning, match=f"{package}.{name} is {place}.{name} now"):
                getattr(module, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torchsaliency.explain


def test_the_citation_has_both_papers():
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert facts["cff-version"] == "1.2.0"
    assert [len(paper["authors"]) for paper in facts["references"]] == [5, 4]
    for needed in ("message", "title", "authors", "version", "license"):
        assert facts[needed], needed


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda p: p.name
)
def test_issue_forms_have_what_a_form_needs(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        return
    assert {"name", "description", "body"} <= form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    ids = [part["id"] for part in fields]
    assert len(ids) == len(set(ids))
    assert all(part["attributes"]["label"] for part in fields)
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert {part["type"] for part in form["body"]} <= kinds


CHANGELOG = """# Changelog

## [Unreleased]

### Added

- a

## [0.2.0] - 2026-01-02

- b

## [0.1.0]
- c
"""


def test_the_section_of_a_version():
    assert RELEASE["read_section"](CHANGELOG, "0.2.0") == "- b"
    assert RELEASE["read_section"](CHANGELOG, "Unreleased") == "### Added\n\n- a"
    with pytest.raises(ReleaseError, match=r"no section \[0.3.0\]"):
        RELEASE["read_section"](CHANGELOG, "0.3.0")
    with pytest.raises(ReleaseError, match="no date"):
        RELEASE["read_section"](CHANGELOG, "0.1.0")
    with pytest.raises(ReleaseError, match="says nothing"):
        RELEASE["read_section"]("## [Unreleased]\n\n### Added\n", "Unreleased")


def write_wheel(path, names, *, version="0.1.0", body="See [it](https://example.org)."):
    about = f"Name: torchsaliency\nVersion: {version}\nRequires-Python: >=3.11\n\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
        archive.writestr(f"torchsaliency-{version}.dist-info/METADATA", about + body)
    return path


MANUAL = "torchsaliency-0.1.0.data/data/share/man/man1/torchsaliency.1"


@pytest.mark.parametrize(
    ("names", "about", "fault"),
    [
        (["torchsaliency/a.py", MANUAL], {}, ""),
        ([MANUAL], {}, "lacks torchsaliency/a.py"),
        (["torchsaliency/a.py", "torchsaliency/b.py", MANUAL], {}, "has torchsaliency/b.py"),
        (["torchsaliency/a.py"], {}, "lacks the manual"),
        (["torchsaliency/a.py", MANUAL], {"body": "[it](docs/x.md)"}, "relative address"),
        (["torchsaliency/a.py", MANUAL], {"body": ""}, "is empty"),
    ],
)
def test_what_a_wheel_holds(tmp_path, names, about, fault):
    wheel = write_wheel(tmp_path / "one.whl", names, **about)
    given = (wheel, "0.1.0", ["torchsaliency/a.py"], ">=3.11")
    if not fault:
        RELEASE["check_wheel"](*given)
        return
    with pytest.raises(ReleaseError, match=fault):
        RELEASE["check_wheel"](*given)


def test_a_wheel_of_another_version_or_python_is_refused(tmp_path):
    wheel = write_wheel(tmp_path / "one.whl", ["torchsaliency/a.py", MANUAL])
    with pytest.raises(ReleaseError, match=r"Version 0.1.0, and it must be 0.2.0"):
        RELEASE["check_wheel"](wheel, "0.2.0", ["torchsaliency/a.py"], ">=3.11")
    with pytest.raises(ReleaseError, match="Requires-Python"):
        RELEASE["check_wheel"](wheel, "0.1.0", ["torchsaliency/a.py"], ">=3.12")
    with pytest.raises(ReleaseError, match=r"CITATION.cff has version 0.1.0; write 0.2.0"):
        RELEASE["check_citation"]("version: 0.1.0\n", "0.2.0")


def test_sources_without_tests_are_refused(tmp_path):
    archive = tmp_path / "torchsaliency-0.1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(ROOT / "LICENSE", "torchsaliency-0.1.0/LICENSE")
    with pytest.raises(ReleaseError, match=r"lacks CHANGELOG.md, .*tests/conftest.py"):
        RELEASE["check_sources"](archive, "0.1.0")
