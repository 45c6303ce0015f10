"""Attributes that distinguish images in the same plane: echoes, phases, b-values, reconstructions.

There are about forty of them, in the header or, in enhanced multi-frame objects, in the functional groups of the
frames. Only values known to be harmless are shown: numbers and words of a list. Other values are numbered ("2 of 3").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from monai_rd.dicom.values import all_numbers, parts, tag_of

__all__ = ["MARK_TAGS", "Key", "Marks", "frame_marks", "named", "shown_mark"]

Key = tuple[int, int]  # index of a mark in `_MARKS`, and index of one of its values
Value = tuple[float, ...] | str
Marks = dict[Key, Value]


@dataclass(frozen=True)
class _Mark:
    """An attribute by which images of one plane may differ.

    Attributes:
        name: name shown to users.
        keywords: DICOM keywords of the attribute, in plain and in enhanced objects.
        kind: how values are shown: "numbers", "words", "count" (values are numbered), "given" (given or not).
        unit: unit of the numbers.
    """

    name: str
    keywords: tuple[str, ...]
    kind: Literal["numbers", "words", "count", "given"] = "numbers"
    unit: str = ""


# In the order in which they are tried: acquisition parameters, then reconstruction, then time.
_MARKS = (
    _Mark("image component", ("ComplexImageComponent",), "words"),
    _Mark("image type", ("ImageType", "FrameType"), "words"),
    _Mark("echo time", ("EchoTime", "EffectiveEchoTime"), unit="ms"),
    _Mark("echo number", ("EchoNumbers",)),
    _Mark("b-value", ("DiffusionBValue",), unit="s/mm2"),
    _Mark("diffusion", ("DiffusionDirectionality",), "words"),
    _Mark("gradient", ("DiffusionGradientOrientation",)),
    _Mark("inversion time", ("InversionTime", "InversionTimes"), unit="ms"),
    _Mark("flip angle", ("FlipAngle",), unit="degrees"),
    _Mark("repetition time", ("RepetitionTime",), unit="ms"),
    _Mark("magnetization transfer", ("MagnetizationTransfer",), "words"),
    _Mark("velocity encoding", ("VelocityEncodingDirection",)),
    _Mark("sequence", ("ScanningSequence",), "words"),
    _Mark("scan option", ("ScanOptions",), "words"),
    _Mark("energy", ("MonoenergeticEnergyEquivalent",), unit="keV"),
    _Mark("tube voltage", ("KVP",), unit="kV"),
    _Mark("energy window", ("EnergyWindowVector",)),
    _Mark("kernel", ("ConvolutionKernel",), "words"),
    _Mark("reconstruction", ("ReconstructionAlgorithm",), "words"),
    _Mark("filter", ("FilterType",), "words"),
    _Mark("slice thickness", ("SliceThickness",), unit="mm"),
    _Mark("reconstruction diameter", ("ReconstructionDiameter",), unit="mm"),
    _Mark("contrast agent", ("ContrastBolusAgent",), "given"),
    _Mark("contrast administered", ("ContrastBolusAgentAdministered",), "words"),
    _Mark("correction", ("CorrectedImage",), "words"),
    _Mark("temporal position", ("TemporalPositionIdentifier", "TemporalPositionIndex")),
    _Mark("temporal offset", ("TemporalPositionTimeOffset",), unit="s"),
    _Mark("cardiac phase", ("NominalPercentageOfCardiacPhase",), unit="%"),
    _Mark("respiratory phase", ("NominalPercentageOfRespiratoryPhase",), unit="%"),
    _Mark("trigger time", ("TriggerTime", "NominalCardiacTriggerDelayTime"), unit="ms"),
    _Mark("time slot", ("TimeSlotVector",)),
    _Mark("RR interval", ("RRIntervalVector",)),
    _Mark("phase", ("PhaseVector",)),
    _Mark("detector", ("DetectorVector",)),
    _Mark("frame reference time", ("FrameReferenceTime",), unit="ms"),
    _Mark("acquisition", ("AcquisitionNumber", "FrameAcquisitionNumber")),
    _Mark("stack", ("StackID",), "words"),
    _Mark("series number", ("SeriesNumber",)),
    _Mark("acquisition time", ("AcquisitionDateTime", "FrameAcquisitionDateTime"), "count"),
    _Mark("acquisition time", ("AcquisitionTime",), "count"),
    _Mark("dimension", ("DimensionIndexValues",)),
    _Mark("multi-frame object", (), "count"),
)
_OF_TAG: dict[BaseTag, int] = {tag_of(keyword): n for n, mark in enumerate(_MARKS) for keyword in mark.keywords}
# Attributes whose values are separate marks; all values of another attribute together are one mark.
_APART = frozenset({"image type", "sequence", "scan option", "correction", "dimension"})
# One value for each frame of a nuclear medicine image (PS3.3 C.8.4.8).
_VECTORS = frozenset(
    place for place, mark in enumerate(_MARKS) if any(keyword.endswith("Vector") for keyword in mark.keywords)
)
_PLACES = {mark.name: place for place, mark in enumerate(_MARKS)}
_OBJECT = _PLACES["multi-frame object"]
# Private elements of scanners for attributes that were not standardised yet: private creator, VR, mark.
_PRIVATE = {
    tag_of(0x0019100C): ("SIEMENS MR HEADER", "IS", "b-value"),
    tag_of(0x0019100E): ("SIEMENS MR HEADER", "FD", "gradient"),
    tag_of(0x20011003): ("Philips Imaging DD 001", "FL", "b-value"),
    tag_of(0x00431039): ("GEMS_PARM_01", "IS", "b-value"),
    tag_of(0x0043102F): ("GEMS_PARM_01", "SS", "image component"),
}
_GE_COMPONENTS = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")
MARK_TAGS = frozenset(
    map(int, (*_OF_TAG, *_PRIVATE, *(tag & 0xFFFF0000 | 0x10 for tag in _PRIVATE)))  # each with its private creator
)
# The functional groups that hold the attributes (PS3.3 C.7.6.16, C.8.13 to C.8.15), with one nested sequence.
_MACROS = frozenset(
    tag_of(keyword)
    for keyword in (
        *("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence", "XRay3DFrameTypeSequence"),
        *("MREchoSequence", "MRDiffusionSequence", "DiffusionGradientDirectionSequence", "MRModifierSequence"),
        *("MRTimingAndRelatedParametersSequence", "MRVelocityEncodingSequence", "CardiacSynchronizationSequence"),
        *("RespiratorySynchronizationSequence", "TemporalPositionSequence", "FrameContentSequence"),
        *("CTReconstructionSequence", "CTXRayDetailsSequence", "CTAcquisitionTypeSequence"),
        *("ContrastBolusUsageSequence", "PixelMeasuresSequence"),
        *("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence"),
    )
)
_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
    ADC ASL ATTN AVERAGE AXIAL B0_MAP B1_MAP BMATRIX BODY BONE BONEPLUS BRAIN CAL CBF CBV CHEST CONTROL DECY DEFAULT
    DERIVED DETAIL DIFFUSION DIRECTIONAL DIS2D DIS3D DIXON DTIM DYNAMIC EDGE EE EMISSION EP F FA FAT FAT_FRACTION FC
    FF FFE FILTERED FILTER_BACK_PROJ FM FS GATED GR HELIX I IMAGINARY INV1 INV2 IN_OUT IN_PHASE IP IR ISOTROPIC
    ITERATIVE I_FFE I_IR I_SE LABEL LAO LUNG M MAG MAGNITUDE MAX MEAN MIN MINIP MIP MIXED MNORM MONOENERGETIC MOSAIC
    MPR MTT M_B0 M_B1 M_FFE M_IR M_PCA M_SE NASAL ND NO NONE NORM OFF_RESONANCE ON_RESONANCE OP OPP_PHASE ORIGINAL
    OTHER OUT_PHASE P PC PERFUSION PHASE PHASE_CONTRAST PHASE_MAP PRIMARY P_FFE P_IR P_SE QSM R R2_MAP R2_STAR_MAP
    RAN RCBF RCBV REAL RECON REST RM R_FFE R_IR R_SE SCAT SE SECONDARY SH SHARP SMOOTH SOFT SP STANDARD STATIC
    STRESS SUB SUBTRACTION SWI T1 T1_MAP T2 T2STAR T2_MAP T2_STAR T2_STAR_MAP TMAX TOMO TRACE TRACEW TRANSMISSION
    TTP ULTRA UNI VELOCITY VMI VOLUME VPCT W WATER YES
        """,
    )
)
# Names of kernels (such as B30f, Br40d, H31s, FC13), and short numbers.
_HARMLESS = re.compile(r"[A-Z][A-Za-z]?\d{2}[a-z]?|\d{1,3}|[A-Z]")


def frame_marks(
    dataset: Dataset, shared: Sequence[Dataset], per_frame: Sequence[Dataset], frames: int
) -> tuple[Marks, ...]:
    """Read the attributes that may distinguish frames of a file from others in the same plane.

    Args:
        dataset: header of the file.
        shared: functional groups shared by all frames.
        per_frame: functional groups of each frame.
        frames: number of frames.

    Returns:
        The marks of each frame, or one entry that applies to all frames.
    """
    whole = _read(dataset)
    for group in shared:
        whole |= _of_group(group)
    if per_frame:
        uid = "".join(parts(dataset, "SOPInstanceUID"))
        return tuple(whole | _of_group(group) | {(_OBJECT, 0): uid} for group in per_frame)
    vectors = {key: whole[key] for place in _VECTORS if (key := (place, 0)) in whole}
    if frames == 1 or not vectors:
        return (whole,)
    return tuple(whole | {key: of[n : n + 1] for key, of in vectors.items()} for n in range(frames))


def _of_group(group: Dataset) -> Marks:
    found: Marks = {}
    for tag in _MACROS & group.keys():
        try:
            item = group[tag].value[0]
            found |= _read(item) | _of_group(item)
        except Exception:  # an empty or damaged macro counts as absent
            continue
    return found


def _read(dataset: Dataset) -> Marks:
    found: Marks = {}
    for tag in _OF_TAG.keys() & dataset.keys():
        place, numeric = _OF_TAG[tag], _MARKS[_OF_TAG[tag]].kind == "numbers"
        try:
            found |= _marked(place, all_numbers(dataset, tag) if numeric else parts(dataset, tag))
        except Exception:  # an undecodable value counts as absent
            continue
    for private in _PRIVATE.keys() & dataset.keys():
        maker, kind, name = _PRIVATE[private]
        try:
            numbers = (
                all_numbers(dataset, private, kind) if parts(dataset, private & 0xFFFF0000 | 0x10) == (maker,) else ()
            )
            if maker.startswith("GEMS"):  # only the first number counts; a b-value may have 1e9 added
                numbers = (numbers[0] % 1e5,)
            own = _GE_COMPONENTS[int(numbers[0])] if name == "image component" else _rounded(numbers)
        except Exception:  # absent, or undecodable, which counts as absent
            continue
        if own:
            found.setdefault((_PLACES[name], 0), own)
    return found


@lru_cache(maxsize=1 << 14)
def _marked(place: int, stated: tuple[str, ...] | tuple[float, ...]) -> Marks:
    """Return the marks of an attribute's values; cached, as most files of a series have the same values."""
    mark = _MARKS[place]
    values: Sequence[Value]
    if mark.kind == "numbers":
        numbers = _rounded(map(float, stated))
        values = [(number,) for number in numbers] if mark.name in _APART else [numbers]
    elif mark.kind == "given":
        values = ["given"] if any(stated) else []
    else:
        words = tuple(map(str, stated))
        values = words if mark.name in _APART else ["\\".join(words)]
    return {_key(place, which): value for which, value in enumerate(values) if value}


@lru_cache(maxsize=1 << 12)
def _key(place: int, which: int) -> Key:
    return place, which


def _rounded(numbers: Iterable[float]) -> tuple[float, ...]:
    # To six significant digits, as files of one series may write the same number in different ways.
    return tuple(float(f"{value:.6g}") + 0.0 for value in numbers)


def named(key: Key, values: Iterable[Value | None]) -> dict[Value | None, str]:
    """Return a name for each value of a mark, in sorted order; names are distinct and known to be harmless.

    Args:
        key: key of the mark.
        values: values of the frames, None for frames without the mark.
    """
    mark = _MARKS[key[0]]
    ordered = sorted({value for value in values if value is not None}, key=lambda value: (str(type(value)), value))
    counted = mark.kind == "count" or not all(_harmless(value) for value in ordered)
    names: dict[Value | None, str] = {}
    for number, value in enumerate(ordered, start=1):
        if mark.kind == "given":
            names[value] = f"with {mark.name}"
        elif counted:
            names[value] = f"{mark.name} {number} of {len(ordered)}"
        else:
            shown = value.replace("\\", " ") if isinstance(value, str) else " ".join(f"{one:.6g}" for one in value)
            names[value] = " ".join(word for word in (mark.name, shown, mark.unit) if word)
    return names | {None: f"no {mark.name}"}


def shown_mark(marks: Marks, name: str) -> str:
    """Return a mark's value as it may be shown, such as "5 mm"; "" if there is none, "another" if it may be a name.

    Args:
        marks: of a frame.
        name: name of an attribute whose values are one mark.
    """
    value = marks.get((_PLACES[name], 0), "")
    if not _harmless(value):
        return "another"
    words = [value.replace("\\", " ")] if isinstance(value, str) else [f"{one:.3g}" for one in value]
    return " ".join([*words, _MARKS[_PLACES[name]].unit]).strip() if value else ""


def _harmless(value: Value) -> bool:
    if not isinstance(value, str):
        return True
    return all(word.upper() in _WORDS or _HARMLESS.fullmatch(word) for word in value.split("\\"))
