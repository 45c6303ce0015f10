"""Serving a trained bundle with MONAI Label."""
