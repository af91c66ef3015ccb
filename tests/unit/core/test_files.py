"""JSON as files and as text: what any reader can read again."""

import json
import math

import pytest

from torchsaliency.core.files import OutputFolder, json_bytes, json_text

VALUE = {"é": [1, 2.5, math.nan, -math.inf], "b": {"c": None, "d": (True, "\udcff")}}
READ = {"é": [1, 2.5, None, None], "b": {"c": None, "d": [True, "\udcff"]}}


@pytest.mark.parametrize("write", [json_bytes, json_text])
def test_what_is_written_can_be_read_again(write):
    assert json.loads(write(VALUE)) == READ
    assert json.loads(write(VALUE, indent=None)) == READ


def test_files_are_utf_8_and_text_is_ascii():
    assert "é".encode() in json_bytes(VALUE)
    assert json_text(VALUE).isascii()


def test_text_of_several_lines_ends_its_last_one_and_a_row_of_a_file_does_not():
    for written in (json_bytes(VALUE).decode(), json_text(VALUE)):
        assert written.count("\n") > 1
        assert written.endswith("}\n")
    assert json_text(VALUE, indent=None).count("\n") == 0


def test_what_was_written_is_known_to_whoever_looks_and_no_more_once_it_is_changed(tmp_path):
    folder = OutputFolder(tmp_path / "out")
    with folder.lock():
        folder.write("a", b"1")
    (tmp_path / "out" / "b").write_bytes(b"1")
    seen = OutputFolder(tmp_path / "out")
    assert seen.owns("a")
    assert [*seen.list_foreign()] == ["b"]
    (tmp_path / "out" / "a").write_bytes(b"2")
    assert sorted(OutputFolder(tmp_path / "out").list_foreign()) == ["a", "b"]
