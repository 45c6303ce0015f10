"""Make the links of a page to files of this repository absolute, for a place without these files, such as PyPI.

    python tools/absolute_links.py README.md https://github.com/OWNER/NAME v0.1.0     # before `python -m build`

Continuous integration does so in its own checkout, where the address is known; in the repository the links stay
relative, so that they lead to the files of the same version, and work offline.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s#]+)(#[^)\s]*)?\)")


def absolute(text: str, folder: Path, address: str, version: str) -> str:
    """Return a page in Markdown with absolute links.

    Args:
        text: the page.
        folder: where the page lies, the root of the repository.
        address: of the repository, at GitHub or a service with the same paths.
        version: a tag, branch or commit.

    Raises:
        FileNotFoundError: a link leads to no file.
    """

    def one(found: re.Match[str]) -> str:
        image, words, path, anchor = found.groups("")
        if not (folder / path).is_file():
            raise FileNotFoundError(f"{path}: a link leads there, and there is no such file")
        return f"{image}[{words}]({address.rstrip('/')}/{'raw' if image else 'blob'}/{version}/{path}{anchor})"

    return _LINK.sub(one, text)


if __name__ == "__main__":
    page, *where = sys.argv[1:]
    made = absolute(Path(page).read_text(encoding="utf-8"), Path(page).parent, *where)
    Path(page).write_text(made, encoding="utf-8", newline="")
