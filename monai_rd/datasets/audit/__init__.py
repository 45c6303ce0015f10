"""The audit of a data set before training: finds what would make it unfit to train on or to report on.

It finds duplicates, leaks between splits, contradicting labels, unreadable files, text burned into the pixels,
outliers, and shortcuts, by which a network could predict the label without looking at the patient. No file or patient
is named: an item is identified by its position in the data list and by its UID or an ID made from its content.
"""

from monai_rd.datasets.audit.contact_sheet import write_contact_sheet
from monai_rd.datasets.audit.findings import AuditItem, AuditReport, Finding, SuspiciousPair
from monai_rd.datasets.audit.run import audit, fix

__all__ = ["AuditItem", "AuditReport", "Finding", "SuspiciousPair", "audit", "fix", "write_contact_sheet"]
