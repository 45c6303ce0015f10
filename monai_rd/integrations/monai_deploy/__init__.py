"""Packaging a trained bundle as a MONAI Deploy application."""
