"""The pages of docs/start are notebooks: what `RUN_PAGES=1 mkdocs build` makes of such a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = """# A page

Text before, and a [link](../index.md).

```shell
exit 1    # is shown, and not run
```

```bash
pwd > made.txt && printf '\\033[31mhello\\033[0m\\n' && cat made.txt
```

```python
import pandas
from matplotlib import pyplot

pyplot.plot([1, 2])
pandas.DataFrame({"name": [open("made.txt").read()[:1]]})
```

Text after.
"""


def build(folder: Path, page: str) -> Path:
    """Build a site of one such page and return the folder of the site."""
    for name in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra notebooks)")
    build = pytest.importorskip("mkdocs.commands.build", reason="mkdocs is not installed (extra docs)")
    from mkdocs.config import load_config

    (folder / "docs" / "start").mkdir(parents=True)
    (folder / "docs" / "index.md").write_text("# Home\n", encoding="utf-8")
    (folder / "docs" / "start" / "one.md").write_text(page, encoding="utf-8")
    settings = {"site_name": "one", "docs_dir": "docs", "site_dir": "site", "hooks": [str(ROOT / "tools/notebooks.py")]}
    (folder / "mkdocs.yml").write_text(json.dumps(settings), encoding="utf-8")
    build.build(load_config(str(folder / "mkdocs.yml"), strict=True))
    return folder / "site"


@pytest.mark.skipif(sys.platform == "win32", reason="cells of bash need Linux, macOS or WSL")
def test_the_site_shows_what_cells_print_draw_and_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_PAGES", "1")
    site = build(tmp_path, PAGE)
    shown = (site / "start" / "one" / "index.html").read_text(encoding="utf-8")
    order = ["Text before", "exit 1", "made.txt", "hello\nwork", "pyplot.plot", "<td>/</td>", "image/png", "Text after"]
    places = [shown.find(one) for one in order]
    assert places == sorted(places), dict(zip(order, places, strict=True))
    assert -1 not in places
    assert "\x1b" not in shown
    notebook = json.loads((site / "start" / "one.ipynb").read_text(encoding="utf-8"))
    assert [cell["cell_type"] for cell in notebook["cells"]] == ["markdown", "code", "code", "markdown"]
    assert 'href="../one.ipynb"' in shown
    assert not [path for path in tmp_path.rglob("made.txt")]


def test_a_cell_that_fails_fails_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_PAGES", "1")
    with pytest.raises(Exception, match="no such student"):
        build(tmp_path, '# A page\n\n```python\nraise ValueError("no such student")\n```\n')


def test_pages_are_run_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUN_PAGES", raising=False)
    site = build(tmp_path, '# A page\n\n```python\nraise ValueError("no such student")\n```\n')
    assert not (site / "start" / "one.ipynb").exists()
