"""What a network computes beside its weights: its own code and the options of its modules."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
import sysconfig
from pathlib import Path

from torchsaliency.zoo.network import Network
from torchsaliency.zoo.sources.userfile import is_user_file, split_options

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def code_sha256(network: Network) -> str:
    """Return the SHA-256 of what decides a network's numbers beside its weights.

    That is the tree of modules as it is printed, the file that makes the network, and the files in
    which the classes of its modules are defined, without comments and docstrings. Files of
    installed packages are left out: their versions are recorded elsewhere. What a `forward` calls
    from yet other files of the user's is not seen.

    Example:
        >>> from torchsaliency import load_model
        >>> len(code_sha256(load_model("builtin/shapes_cnn")))
        64
    """
    modules = list(network.module.modules())
    parts = {_read_class(one) for one in {type(module) for module in modules}}
    # what torch.fx and torch.jit wrote has no file
    parts |= {text for one in modules if isinstance(text := getattr(one, "code", ""), str)}
    if is_user_file(network.name):
        parts.add(_read_file(Path(split_options(network.name)[0].rpartition(":")[0])))
    tree = _ADDRESS.sub("", repr(network.module))
    return hashlib.sha256("\0".join([tree, *sorted(parts)]).encode()).hexdigest()


def _read_class(defined: type) -> str:
    """Return the code beside a class, or its own where it has no file; "" of a package's."""
    name = getattr(sys.modules.get(defined.__module__), "__file__", None)
    if name is not None:
        return "" if _is_installed(Path(name).resolve()) else _read_file(Path(name))
    try:
        return drop_comments(inspect.getsource(defined))  # a notebook's
    except (OSError, TypeError):
        return ""


def _read_file(path: Path) -> str:
    if not path.is_file():
        return ""
    return drop_comments(path.read_text(encoding="utf-8", errors="replace"))


def _is_installed(file: Path) -> bool:
    paths = sysconfig.get_paths()
    folders = [Path(__file__).parents[1], *(Path(paths[key]) for key in ("purelib", "stdlib"))]
    if {"site-packages", "dist-packages"}.intersection(file.parts):
        return True
    return any(file.is_relative_to(folder.resolve()) for folder in folders)


def drop_comments(source: str) -> str:
    """Return code without comments, docstrings and lines' places; as it is if it has faults."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # such as an indented class
        return source
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
