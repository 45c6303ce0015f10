"""How long the edge of a pixel or voxel may be, in whatever file it is stated."""

__all__ = ["MAX_SPACING_MM", "MIN_SPACING_MM"]

# In mm: 10 nm, an electron microscope's, to 10 m, so that units mistaken for mm pass.
MIN_SPACING_MM, MAX_SPACING_MM = 1e-5, 1e4
