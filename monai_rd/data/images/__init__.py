"""Image files: one reader for each kind, chosen by content that the name must agree with, and none other tried.

Nothing here asks a library which of its readers may fit: nibabel gets NIfTI, Pillow one format of pictures, SimpleITK
MetaImage or NRRD, each the opened file or its one reader by name. A file of anything else is refused unread.
"""

from monai_rd.data.images.read import Image, read_image, read_picture

__all__ = ["Image", "read_image", "read_picture"]
