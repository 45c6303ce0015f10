"""MONAI dictionary transforms: loading of every format, slice bags or volumes, one intensity scale per modality."""

from monai_rd.transforms.bag import ChannelsToBagd, SliceStackd, bag_collate
from monai_rd.transforms.ct import CTAugmentation, HounsfieldWindowsd
from monai_rd.transforms.derm import ColourConstancyd, DermAugmentation, RandColourJitterd
from monai_rd.transforms.display import DisplayIntensityd
from monai_rd.transforms.load import LoadDicomSeriesd, LoadImageOrSeriesd
from monai_rd.transforms.mr import MRAugmentation, MRIntensityd
from monai_rd.transforms.resampling import ResizeVolumed
from monai_rd.transforms.resizing import ResizeImaged
from monai_rd.transforms.scope import HeaderInScoped, IntensitiesInScoped, scope_of
from monai_rd.transforms.sizes import ResizeForBothd, Sizes, chain, resize
from monai_rd.transforms.us import RandGaind, SpeckleNoised, UltrasoundRegiond, USAugmentation
from monai_rd.transforms.volumes import VolumeViewd
from monai_rd.transforms.xray import CollimationCropd, XrayAugmentation

__all__ = [
    "CTAugmentation",
    "ChannelsToBagd",
    "CollimationCropd",
    "ColourConstancyd",
    "DermAugmentation",
    "DisplayIntensityd",
    "HeaderInScoped",
    "HounsfieldWindowsd",
    "IntensitiesInScoped",
    "LoadDicomSeriesd",
    "LoadImageOrSeriesd",
    "MRAugmentation",
    "MRIntensityd",
    "RandColourJitterd",
    "RandGaind",
    "ResizeForBothd",
    "ResizeImaged",
    "ResizeVolumed",
    "Sizes",
    "SliceStackd",
    "SpeckleNoised",
    "USAugmentation",
    "UltrasoundRegiond",
    "VolumeViewd",
    "XrayAugmentation",
    "bag_collate",
    "chain",
    "resize",
    "scope_of",
]
