"""Image archives (PACS): DICOMweb and the classic DICOM network."""
