"""Opening the archive at a URL, whose scheme selects the protocol."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from monai_rd.integrations.archives.archive import Archive

__all__ = ["open_archive"]


def open_archive(url: str, ae_title: str = "MONAI_RD", listen: int | None = None) -> Archive:
    """Open the archive at a URL.

    Args:
        url: `http(s)://HOST/dicom-web` (DICOMweb) or `dimse://AE_TITLE@HOST:PORT` (DIMSE).
        ae_title: our own AE title for DIMSE.
        listen: port to receive images at by C-MOVE, for DIMSE archives without C-GET; the archive must know our title
            and address.

    Raises:
        ValueError: any other URL.
    """
    if "@" in urlsplit(url).netloc and url.startswith("http"):
        raise ValueError("an address that holds a password: set MONAI_RD_DICOMWEB_USER and MONAI_RD_DICOMWEB_PASSWORD")
    place = re.fullmatch(r"dimse://([^@/]{1,16})@([^:/@]+):(\d{1,5})", url)
    try:
        if re.match(r"https?://", url):
            from monai_rd.integrations.archives.dicomweb import DicomWeb

            return DicomWeb(url)
        if place:
            from monai_rd.integrations.archives.dimse import Dimse

            return Dimse(place[1], place[2], int(place[3]), ae_title, listen)
    except ModuleNotFoundError as error:
        raise ValueError(f'archives need the package {error.name}: pip install "monai_rd[dicom]"') from None
    raise ValueError(f"'{url}' is no archive: give http(s)://HOST/dicom-web or dimse://AE_TITLE@HOST:PORT")
