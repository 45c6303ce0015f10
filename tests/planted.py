"""Names planted in every place where a name can stand, and the search for them in whatever is said and written.

Each place has a word of its own, so that a leak says where it came from. Names of class folders are labels, which are
shown: none is planted there, but in the folders of patients below them and in those that are no class.
"""

from __future__ import annotations

import base64
import io
import os
import re
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from openpyxl import Workbook
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.dicom_files import make_series, set_bytes, several

STEM = "plantqz"
PLACES: set[str] = set()

# Text that may be a name, or hold one.
HEADER = [
    *("IssuerOfPatientID", "OtherPatientNames", "OtherPatientIDs", "PatientBirthName"),
    *("PatientMotherBirthName", "PatientAddress", "PatientTelephoneNumbers", "PatientComments", "Occupation"),
    *(
        "AdditionalPatientHistory",
        "MedicalRecordLocator",
        "AdmissionID",
        "OrderEnteredBy",
        "InterpretationAuthor",
        "MilitaryRank",
        "EthnicGroup",
        "ResponsiblePerson",
    ),
    *("InstitutionAddress", "InstitutionalDepartmentName", "StationName", "OperatorsName"),
    *("PerformingPhysicianName", "ReferringPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy"),
    *("RequestingPhysician", "AccessionNumber", "StudyID", "StudyDescription", "ProtocolName", "ImageComments"),
    *("DeviceSerialNumber", "SoftwareVersions", "ConsultingPhysicianName", "MedicalAlerts", "Allergies"),
    *("RequestedProcedureDescription", "PerformedProcedureStepDescription", "ConvolutionKernel", "SequenceName"),
    *("ContrastBolusAgent", "DerivationDescription", "FilterType", "AcquisitionComments", "ViewPosition"),
]
# Text that is shown (docs/guide/data.md, docs/guide/inference.md): without what it repeats of the names in the header.
SHOWN = ("SeriesDescription", "BodyPartExamined", "Manufacturer", "ManufacturerModelName", "InstitutionName")
WHO = (
    *("PatientName", "PatientID", "OtherPatientNames", "OtherPatientIDs", "PatientBirthName", "ResponsiblePerson"),
    *("PatientMotherBirthName", "AccessionNumber", "ReferringPhysicianName", "OperatorsName", "RequestingPhysician"),
    *("PhysiciansOfRecord", "ConsultingPhysicianName", "NameOfPhysiciansReadingStudy", "PerformingPhysicianName"),
    *("MedicalRecordLocator", "AdmissionID", "OrderEnteredBy", "InterpretationAuthor", "OtherPatientIDsSequence"),
)
# What a DICOM object of a study says of it as its images do (PS3.3 C.7.1.1 Patient, C.7.2.1 General Study, C.7.2.2
# Patient Study), so that the archive files it there. Nothing else that is written may hold any of it.
OF_THE_STUDY = {
    *("patientname", "patientid", "issuerofpatientid", "otherpatientnames", "responsibleperson", "patientcomments"),
    *("studyid", "studydescription", "accessionnumber", "referringphysicianname", "consultingphysicianname"),
    *("physiciansofrecord", "nameofphysiciansreadingstudy", "procedurecode", "oddpatientage", "oddpatientsex"),
    *(
        "additionalpatienthistory",
        "medicalalerts",
        "allergies",
        "occupation",
        "oddpatientbirthdate",
        "oddstudydate",
        "otherpatientidssequence",
        "admissionid",
    ),
}
# Bytes that are no value of their kind.
ODD = {
    "StudyInstanceUID": "UI",
    "FrameOfReferenceUID": "UI",
    "SeriesInstanceUID": "UI",
    "InstanceNumber": "IS",
    "RescaleSlope": "DS",
    "PatientBirthDate": "DA",
    "PatientAge": "AS",
    "PatientSex": "CS",
    "Modality": "CS",
    "ImageType": "CS",
    "PhotometricInterpretation": "CS",
    "PixelSpacing": "DS",
    "SpecificCharacterSet": "CS",
    "SOPInstanceUID": "UI",
    "SOPClassUID": "UI",
    "SeriesNumber": "IS",
    "AcquisitionNumber": "IS",
    "StudyDate": "DA",
    "BurnedInAnnotation": "CS",
    "PresentationLUTShape": "CS",
    "ImageOrientationPatient": "DS",
}
# Words by which the volumes of one series may differ.
VOLUMES = ("ConvolutionKernel", "ImageType", "SequenceName", "ScanOptions", "ContrastBolusAgent", "FilterType")


def planted(place: str) -> str:
    """The name that stands in a place."""
    PLACES.add(place.lower())
    return f"Plantqz{place}"


def planted_series(folder: Path, seed: int, slices: int = 1, **more: Any) -> str:
    """Write a CT series whose header has a name wherever there is room for text; return its UID."""
    study = generate_uid()

    def change(k: int, ds: Dataset) -> None:
        for keyword in HEADER:
            word = planted(keyword)
            setattr(ds, keyword, word.upper() if dictionary_VR(keyword) == "CS" else word)
        ds.PatientName, ds.PatientID = f"{planted('PatientName')}^Eva", f"{planted('PatientID')}-{seed:03d}"
        for number, keyword in enumerate(SHOWN):
            word = f"Thorax of {planted(WHO[(seed * len(SHOWN) + number) % len(WHO)])}"
            setattr(ds, keyword, word.upper() if dictionary_VR(keyword) == "CS" else word)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", planted("ImageType").upper()]
        ds.StudyInstanceUID, ds.SpecificCharacterSet = study, "ISO_IR 192"
        block = ds.private_block(0x0009, planted("PrivateCreator"), create=True)
        block.add_new(1, "LO", planted("PrivateText"))
        block.add_new(2, "OB", planted("PrivateBytes").encode())
        code, other = Dataset(), Dataset()
        code.CodeMeaning, other.PatientID = planted("ProcedureCode"), planted("OtherPatientIDsSequence")
        ds.ProcedureCodeSequence, ds.OtherPatientIDsSequence = [code], [other]

    with disable_value_validation():
        uid, _ = make_series(folder, slices=slices, shape=(32, 36), change=change, seed=seed, **more)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(file.with_name(f"{planted('DicomFile')}_{number}.dcm"))
    return uid


def planted_volumes(folder: Path) -> None:
    """Write series of two volumes each, which words tell apart."""

    def change(k: int, ds: Dataset, keyword: str, own: str) -> None:
        word = planted(f"{keyword}{own}").upper()
        setattr(ds, keyword, ["ORIGINAL", "PRIMARY", "AXIAL", word] if keyword == "ImageType" else word)

    for number, keyword in enumerate(VOLUMES):
        with disable_value_validation():
            several(
                folder / str(number), [partial(change, keyword=keyword, own=own) for own in ("One", "Two")], slices=2
            )


def planted_picture(path: Path, seed: int) -> None:
    """Write a PNG, JPEG or TIFF with what cameras and programs add."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 36), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x013B], exif[0x010E] = planted("Artist"), planted("ImageDescription")
    if path.suffix == ".png":
        text = PngInfo()
        text.add_text("Author", planted("PngText"))
        text.add_text("Comment", planted("PngCompressed"), zip=True)
        text.add_itxt("Title", planted("PngInternational"))
        image.save(path, pnginfo=text, exif=exif)
    elif path.suffix == ".jpg":
        image.save(path, exif=exif, comment=planted("JpegComment"))
    else:
        image.save(path, tiffinfo={270: planted("TiffDescription"), 315: planted("TiffArtist")})


def planted_volume(path: Path, seed: int) -> None:
    """Write a NIfTI, MetaImage or NRRD file with names in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(-900, 900, (8, 32, 36)).astype(np.int16)
    if ".nii" in path.name:
        image = nib.Nifti1Image(voxels.T, np.eye(4))
        for field in ("descrip", "aux_file", "intent_name", "db_name"):  # of 80 to 16 bytes
            image.header[field] = planted(field[:6]).encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", planted("NiftiExtension").encode()))
        nib.save(image, path)
        return
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetMetaData(planted("HeaderKey"), planted("HeaderValue"))
    image.SetMetaData("Comment", planted("HeaderComment"))
    SimpleITK.WriteImage(image, str(path))
    if path.suffix == ".nrrd":
        content = path.read_bytes()
        end = content.index(b"\n") + 1
        path.write_bytes(content[:end] + f"# {planted('NrrdComment')}\n".encode() + content[end:])


def planted_damage(folder: Path, seed: int) -> None:
    """Write what cannot be read: cut-off, misnamed, vanished, odd."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".jpg", ".tif", ".nii.gz", ".nii", ".mha", ".nrrd", ".dcm", ".webp", ".zip"):
        (folder / f"{planted('DamagedFile')}{suffix}").write_bytes(f"{planted('DamagedContent')}{suffix}".encode())
    (folder / f"{planted('DeadLink')}.png").symlink_to(folder / f"{planted('LinkTarget')}.png")
    os.mkfifo(folder / f"{planted('Pipe')}.nii.gz")
    planted_series(folder / planted("CutFolder"), seed)
    (cut,) = (folder / planted("CutFolder")).iterdir()
    cut.write_bytes(cut.read_bytes()[:-500])
    planted_series(folder / planted("CutHeaderFolder"), seed + 1)
    (cut,) = (folder / planted("CutHeaderFolder")).iterdir()
    cut.write_bytes(cut.read_bytes()[:700])
    planted_series(folder / planted("GapFolder"), seed + 2, slices=5, skip=(2,))
    for number, (keyword, vr) in enumerate(ODD.items()):
        place = folder / planted(f"Odd{keyword}Folder")
        planted_series(place, seed + 3 + number, slices=2)
        set_bytes(place, keyword, vr, f"{planted(f'Odd{keyword}')}^Eva".encode())


def planted_sheet(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a sheet with columns that nobody asked for."""
    more = {planted("SheetColumn"): planted("SheetCell"), "PatientName": planted("SheetName")}
    table = [[*rows[0], *more], *([*row.values(), *more.values()] for row in rows)]
    if path.suffix == ".csv":
        path.write_text("".join(",".join(row) + "\n" for row in table))
        return
    book = Workbook()
    book.properties.creator, book.active.title = planted("SheetAuthor"), planted("SheetTab")
    for row in table:
        book.active.append(row)
    book.save(path)


# ------------------------------------------------------------------------------------------------------- the search


def names_in(content: bytes | str) -> set[str]:
    """Of which places the names stand in some bytes: in any case, UTF-8, -16, -32, over line breaks, packed."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    plain = re.sub(rb"[\s\0]+", b"", content).lower()
    found = {_place(word[:40].decode("latin-1")) for word in plain.split(STEM.encode())[1:]}
    for part in _unpacked(content):
        found |= names_in(part)
    return found


def names_below(folder: Path) -> dict[str, set[str]]:
    """Of which places the names stand in the files below a folder, and in their names, by the path in the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        names = names_in(os.fsencode(inside)) | (names_in(path.read_bytes()) if path.is_file() else set())
        if names:
            found[inside.as_posix()] = names
    return found


def _place(word: str) -> str:
    known = [place for place in PLACES if word.startswith(place)]
    return max(known, key=len, default=f"?{word}")


def _unpacked(content: bytes) -> list[bytes]:
    """What is packed in a zip (so in .npz, .pt, .xlsx), gzip, the text of a PNG, or a web page.

    A tensor's bytes may begin like a packed file by chance: then nothing is packed in them.
    """
    if content[:4] == b"PK\3\4" and zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return [
                part for info in file.infolist() for part in (info.filename.encode(), info.comment, file.read(info))
            ]
    if content[:2] == b"\x1f\x8b":
        try:
            return [zlib.decompressobj(wbits=31).decompress(content)]
        except zlib.error:
            return []
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return _chunks(content)
    return [base64.b64decode(found) for found in re.findall(rb"data:[\w/+.-]+;base64,([A-Za-z0-9+/=]+)", content)]


def _chunks(content: bytes) -> list[bytes]:
    found, place = [], 8
    while place < len(content):
        (size,) = struct.unpack_from(">I", content, place)
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            for start in (n + 1 for n, byte in enumerate(data) if byte == 0):
                try:
                    found.append(zlib.decompress(data[start + (kind != b"iTXt") :]))
                except zlib.error:
                    continue
        place += 12 + size
    return found
