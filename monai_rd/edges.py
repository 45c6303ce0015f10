"""How long the edge of a pixel or voxel may be, in whatever file it is stated."""

__all__ = ["LONGEST", "SHORTEST"]

# In mm: 10 nm, an electron microscope's, to 10 m, so that units mistaken for mm pass.
SHORTEST, LONGEST = 1e-5, 1e4
