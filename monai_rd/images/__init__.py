"""Reading of image files: NIfTI, MetaImage and NRRD volumes, PNG, JPEG, BMP and TIFF pictures.

The content of a file decides which single reader it is given to, and its suffix must agree with the content. No library
tries several of its readers on a file: nibabel gets only NIfTI headers, each Pillow reader only pictures of its own
format, numpy the voxels of MetaImage and NRRD. Any other file is refused without being read.
"""

from monai_rd.images.read import Image, read_image, read_picture

__all__ = ["Image", "read_image", "read_picture"]
