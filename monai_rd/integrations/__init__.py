"""Integrations with other systems: DICOM reports, image archives, MONAI Label, MONAI Deploy, federated learning."""
