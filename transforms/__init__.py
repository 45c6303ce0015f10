"""Transforms on the way into a student: one entry for every format, slice bags, modality windows."""

from monai_rd.transforms.bag import ChannelsToBagd, SliceStackd, bag_collate
from monai_rd.transforms.ct import CTAugmentation, HounsfieldWindowsd
from monai_rd.transforms.load import LoadDicomSeriesd, LoadImageOrSeriesd

__all__ = [
    "CTAugmentation",
    "ChannelsToBagd",
    "HounsfieldWindowsd",
    "LoadDicomSeriesd",
    "LoadImageOrSeriesd",
    "SliceStackd",
    "bag_collate",
]
