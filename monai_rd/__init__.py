"""Reprogramming Distillation (arXiv 2407.06504) for MONAI.

Importing this package is light on purpose: each room (`losses`, `networks`, `methods`, `handlers`, `data`,
`transforms`, `report`) imports what it needs itself.
"""

__version__ = "0.1.0"
