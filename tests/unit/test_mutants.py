"""`scripts/mutants.py` changes one place at a time, and only what a program runs."""

import ast
import runpy
from pathlib import Path

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "mutants.py"))

CODE = '''
def clip(x: int | None, most: float = 3) -> float:
    """Return x, at most 3."""
    if x is None or x < 0:
        raise ValueError("x")
    y = x + 1
    return y
'''


def test_every_change_is_another_program():
    base = ast.unparse(ast.parse(CODE))
    found = []
    for site, _ in enumerate(SCRIPT["changes"](ast.parse(CODE))):
        tree = ast.parse(CODE)
        node, field, value = list(SCRIPT["changes"](tree))[site]
        setattr(node, field, value)
        found.append(ast.unparse(ast.fix_missing_locations(tree)))
    assert base not in found
    assert len(set(found)) == len(found)
    for part in ("x <= 0", "x is not None", "x is None and", "return None", "x - 1", "x + 2",
                 "not (x is None or x < 0)", "most: float=4"):  # fmt: skip
        assert sum(part in text for text in found) == 1, part
    for gone in ("raise", "y = x"):
        assert sum(gone not in text for text in found) == 1, gone
    assert all("at most 3" in text for text in found)


def test_annotations_are_left_alone(tmp_path, monkeypatch):
    mutants_of = SCRIPT["mutants_of"]
    monkeypatch.setitem(mutants_of.__globals__, "ROOT", tmp_path)
    (tmp_path / "clip.py").write_text(CODE)
    changes = [mutant.change for mutant in mutants_of(tmp_path / "clip.py")]
    assert not [change for change in changes if "int | None becomes" in change]
    assert "if x is None or x < 0:: x < 0 becomes x <= 0" in changes
