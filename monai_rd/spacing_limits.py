"""Limits of the edge length of a pixel or voxel, for all file formats."""

__all__ = ["MAX_SPACING_MM", "MIN_SPACING_MM"]

# In mm: from 10 nm (an electron microscope) to 10 m, so that files with other units than mm pass.
MIN_SPACING_MM, MAX_SPACING_MM = 1e-5, 1e4
