"""The method that docs/guide/methods.md adds, as if its file lay on the path."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "methods.md"
EXAMPLE, EXAMPLE_TEST = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
ADDED = "cosine.CosineDistillation"

sys.modules["cosine"] = ModuleType("cosine")
exec(compile(EXAMPLE, "cosine.py", "exec"), sys.modules["cosine"].__dict__)
