"""The structure of the code: files that know each other in one direction, and that one can read in a sitting; tests.

An import inside a function is an arrow like any other: it runs, and only later. One under `TYPE_CHECKING` never runs;
but whoever reads the file has to know the other one too. So the two graphs are looked at one by one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from monai_rd.cache.fingerprints import READING
from monai_rd.datasets.audit import checks, copies
from monai_rd.methods import METHODS

ROOT = Path(__file__).parents[1]
PLACES = {"monai_rd": "monai_rd", "monai_rd.transforms": "transforms"}
WRITTEN = ("benchmarks", "docs", "monai_rd", "tests", "tools", "transforms")  # where the project has Python files
MOST_LINES = 400
Graph = dict[str, set[str]]


def files(root: Path = ROOT) -> dict[str, Path]:
    """The files of the package by the names of their modules."""
    found = {}
    for package, place in PLACES.items():
        for path in sorted((root / place).rglob("*.py")):
            parts = path.relative_to(root / place).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(node: ast.AST, types: bool) -> Iterator[tuple[str, str]]:
    """Module and name ("" for the module itself) of every import; those for types alone too, or not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((one.name, "") for one in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "an import says the whole name of its module"
            yield from ((child.module or "", one.name) for one in child.names)
        elif not isinstance(child, ast.expr) and (types or not for_types_alone(child)):
            yield from imports(child, types)


def for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@cache
def graph(types: bool, root: Path = ROOT) -> Graph:
    """Which modules each module imports. A name that a package has from a file of its own is an import of that file.

    The package itself is no arrow then, as it is none where a file of it is named: it is but the way there.
    """
    modules = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files(root).items()}
    homes = {
        (package, name): module
        for package, path in files(root).items()
        if path.name == "__init__.py"
        for module, name in imports(modules[package], types=True)
    }

    def place(module: str, name: str) -> str:
        below = f"{module}.{name}"
        return below if below in modules else homes.get((module, name), module)

    arrows = {one: {place(*found) for found in imports(tree, types)} for one, tree in modules.items()}
    return {one: {other for other in others if other in modules and other != one} for one, others in arrows.items()}


def rooms(arrows: Graph) -> Graph:
    """The same between the folders and single files right below the package."""

    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    found: Graph = {}
    for one, others in arrows.items():
        found.setdefault(room(one), set()).update(room(other) for other in others if room(other) != room(one))
    found.pop("monai_rd", None)  # its __init__, which holds the version
    return {one: others - {"monai_rd"} for one, others in found.items()}


def circles(arrows: Graph) -> list[list[str]]:
    """Groups in which each leads to each."""
    names = sorted(arrows)
    there = np.array([[other in arrows[one] for other in names] for one in names])
    group = connected_components(csr_array(there), connection="strong")[1]
    members = [[name for name, own in zip(names, group, strict=True) if own == one] for one in np.unique(group)]
    return [one for one in members if len(one) > 1]


@pytest.mark.parametrize("types", [False, True], ids=["imports that run", "imports for types too"])
def test_no_circle_of_files_or_of_folders(types: bool) -> None:
    arrows = graph(types=types)
    assert len(arrows) > 200
    assert circles(arrows) + circles(rooms(arrows)) == []


def test_what_decides_an_item_is_what_its_name_in_the_cache_counts() -> None:
    arrows, reached = graph(types=False), set()
    waiting = {name for name in arrows if name.startswith("monai_rd.transforms")}
    while waiting:
        reached.add(one := waiting.pop())
        waiting |= arrows[one] - reached
    assert {"monai_rd.dicom.pixels", "monai_rd.images.nifti", "monai_rd.walk"} <= reached
    home = {name: name if files()[name].name == "__init__.py" else name.rpartition(".")[0] for name in reached}
    assert {name for name in reached if home[name] not in READING} == set()


def test_every_package_is_installed() -> None:
    (listed,) = re.findall(
        r"^packages = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S
    )
    packages = {name for name, path in files().items() if path.name == "__init__.py"}
    assert packages - set(re.findall(r'"([\w.]+)"', listed)) == set()


def test_files_can_be_read_in_a_sitting() -> None:
    found = [path for place in WRITTEN for path in (ROOT / place).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in found}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    assert lines["monai_rd/methods/rd.py"] <= 100  # RD reads as its equation, on one screen


def test_tests_mirror_the_tree() -> None:
    """A folder of tests is named as the package that it is about, and every room has one."""
    places = {Path(*name.split(".")[1:]) for name, path in files().items() if path.name == "__init__.py"}
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders - places == {Path("bundles")}
    assert {place for place in places if len(place.parts) == 1} - folders == set()


LOSSES = [f"losses/test_{path.stem}.py" for path in (ROOT / "monai_rd" / "losses").glob("[!_]*.py")]
OF_METHODS = [f"methods/test_{one.__module__.rpartition('.')[2]}.py" for one in METHODS.values()]
OF_AUDITS = [f"datasets/audit/test_{check}.py" for check in (*checks.__all__, *copies.__all__)]


@pytest.mark.parametrize("file", [*LOSSES, *OF_METHODS, *OF_AUDITS])
def test_every_loss_method_and_audit_check_has_a_test_file_of_its_own(file: str) -> None:
    assert "\ndef test_" in (ROOT / "tests" / file).read_text(encoding="utf-8")


LAZY = [name for name, path in files().items() if "lazy_names(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("package", [name for name in LAZY if name != "monai_rd.lazy"])
def test_lazy_packages_give_what_they_promise_and_tell_type_checkers_the_same(package: str) -> None:
    module, tree = import_module(package), ast.parse(files()[package].read_text(encoding="utf-8"))
    told = {name: home for home, name in imports(tree, types=True) if home.startswith(f"{package}.")}
    assert sorted(told) == sorted(module.__all__)
    for name, home in told.items():
        assert getattr(module, name) is getattr(import_module(home), name)


def test_circles_are_found(tmp_path: Path) -> None:
    written = {
        "monai_rd/__init__.py": "",
        "monai_rd/a.py": "def f():\n    from monai_rd.room import B\n",  # through a package that is lazy
        "monai_rd/room/__init__.py": "if TYPE_CHECKING:\n    from monai_rd.room.b import B\n",
        "monai_rd/room/b.py": "import monai_rd.a\n",
        "monai_rd/c.py": "if TYPE_CHECKING:\n    from monai_rd import d\n",
        "monai_rd/d.py": "from monai_rd.c import C\n",
        "transforms/__init__.py": "from monai_rd.d import D\n",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    ring, for_types = ["monai_rd.a", "monai_rd.room.b"], ["monai_rd.c", "monai_rd.d"]
    assert circles(graph(types=False, root=tmp_path)) == [ring]
    assert sorted(circles(graph(types=True, root=tmp_path))) == [ring, for_types]
    assert circles(rooms(graph(types=False, root=tmp_path))) == [["monai_rd.a", "monai_rd.room"]]
