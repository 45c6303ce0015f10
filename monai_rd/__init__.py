"""Reprogramming Distillation (arXiv 2407.06504) for MONAI.

Importing this package is fast on purpose: each subpackage (`losses`, `networks`, `methods`, ...) imports what it needs
itself.
"""

__version__ = "0.1.0"
