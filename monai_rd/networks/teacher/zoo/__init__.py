"""The teacher zoo: builder, checkpoint layout, preprocessing, channels, licence and source of published teachers."""

from __future__ import annotations

from monai_rd.networks.teacher.zoo.entries import TEACHERS
from monai_rd.networks.teacher.zoo.entry import Hub, TeacherEntry
from monai_rd.networks.teacher.zoo.loading import check_teacher_name, load_teacher, save_teacher, teacher_names
from monai_rd.networks.teacher.zoo.stated import StatedVolume, check_field, stated_volume

__all__ = [
    "TEACHERS",
    "Hub",
    "StatedVolume",
    "TeacherEntry",
    "check_field",
    "check_teacher_name",
    "load_teacher",
    "save_teacher",
    "stated_volume",
    "teacher_names",
]
