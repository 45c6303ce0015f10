"""The teacher zoo: builder, checkpoint layout, preprocessing, channels, licence and source of published teachers."""

from __future__ import annotations

from monai_rd.networks.teacher.zoo.entries import TEACHERS
from monai_rd.networks.teacher.zoo.entry import Hub, TeacherEntry
from monai_rd.networks.teacher.zoo.loading import check_teacher_name, load_teacher, save_teacher, teacher_names

__all__ = [
    "TEACHERS",
    "Hub",
    "TeacherEntry",
    "check_teacher_name",
    "load_teacher",
    "save_teacher",
    "teacher_names",
]
