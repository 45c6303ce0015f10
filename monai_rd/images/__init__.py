"""Image files: one reader for each kind, chosen by content that the name must agree with, and none other tried.

Nothing here asks a library which of its readers may fit: nibabel gets headers of NIfTI, a reader of Pillow pictures of
its format, numpy the voxels of MetaImage and NRRD. A file of anything else is refused unread.
"""

from monai_rd.images.read import Image, read_image, read_picture

__all__ = ["Image", "read_image", "read_picture"]
