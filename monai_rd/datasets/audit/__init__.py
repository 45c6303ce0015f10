"""What is wrong with a data set before anything is trained on it.

Copies, leaks between the splits, contradicting labels, files that cannot be read, text burned into the pixels,
outliers, and shortcuts, by which a network could tell the label without looking at the patient. Nothing here names a
file or a patient: an item is its place in the data list and an id made of its content, or its UID.
"""

from monai_rd.datasets.audit.contact_sheet import write_contact_sheet
from monai_rd.datasets.audit.findings import AuditItem, AuditReport, Finding, SuspiciousPair
from monai_rd.datasets.audit.run import audit, fix

__all__ = ["AuditItem", "AuditReport", "Finding", "SuspiciousPair", "audit", "fix", "write_contact_sheet"]
