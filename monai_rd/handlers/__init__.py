"""Ignite handlers that add distillation, monitoring, checkpoints and resuming to MONAI's `SupervisedTrainer`."""

from monai_rd.handlers.checkpoint import RunCheckpoint
from monai_rd.handlers.cotraining import CoTrainingHandler
from monai_rd.handlers.cutmix import CutMixHandler
from monai_rd.handlers.history import HistoryHandler, read_history
from monai_rd.handlers.metrics import additional_metrics, key_metric
from monai_rd.handlers.precision import CPUAutocast, amp_settings, default_amp
from monai_rd.handlers.progress import ProgressHandler
from monai_rd.handlers.run_lock import RunLock
from monai_rd.handlers.run_log import RunLog
from monai_rd.handlers.scores import ScoreWriter
from monai_rd.handlers.seeding import EpochSeedHandler
from monai_rd.handlers.settings import run_settings
from monai_rd.handlers.speed import SpeedHandler
from monai_rd.handlers.watch import TeacherPathWatch

__all__ = [
    "CPUAutocast",
    "CoTrainingHandler",
    "CutMixHandler",
    "EpochSeedHandler",
    "HistoryHandler",
    "ProgressHandler",
    "RunCheckpoint",
    "RunLock",
    "RunLog",
    "ScoreWriter",
    "SpeedHandler",
    "TeacherPathWatch",
    "additional_metrics",
    "amp_settings",
    "default_amp",
    "key_metric",
    "read_history",
    "run_settings",
]
