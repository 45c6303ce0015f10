"""Where people work: DICOM reports, archives, MONAI Label, MONAI Deploy, federated learning."""
