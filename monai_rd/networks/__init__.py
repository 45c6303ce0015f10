"""The networks of distillation: frozen teachers, trained students, and the reprogramming module phi between them."""

from monai_rd.networks.features import Reads, StudentFeatures, TeacherFeatures
from monai_rd.networks.levels import Level, pair_levels
from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing
from monai_rd.networks.reprogramming import Reprogrammer, Reprogrammers
from monai_rd.networks.student.students import STUDENTS, DeployedStudent, Student, for_training, student_dims
from monai_rd.networks.teacher.foundation import FrozenFoundationModel
from monai_rd.networks.teacher.zoo import TEACHERS, StatedVolume, check_field, load_teacher, stated_volume

__all__ = [
    "STUDENTS",
    "TEACHERS",
    "DeployedStudent",
    "FrozenFoundationModel",
    "Level",
    "Preprocessing",
    "Reads",
    "Reprogrammer",
    "Reprogrammers",
    "StatedVolume",
    "Student",
    "StudentFeatures",
    "TeacherFeatures",
    "VolumePreprocessing",
    "check_field",
    "for_training",
    "load_teacher",
    "pair_levels",
    "stated_volume",
    "student_dims",
]
