"""The two methods that docs/guide/methods.md adds, as if their files lay on the path."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "methods.md"
EXAMPLE, _TEST, _MAPS, _MAPS_TEST = re.findall(
    r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
)
TESTS = _TEST, _MAPS_TEST
ADDED = ("cosine.CosineDistillation", "l1_attention.L1Attention")

for _name, _code in (("cosine", EXAMPLE), ("l1_attention", _MAPS)):
    sys.modules[_name] = ModuleType(_name)
    exec(compile(_code, f"{_name}.py", "exec"), sys.modules[_name].__dict__)
