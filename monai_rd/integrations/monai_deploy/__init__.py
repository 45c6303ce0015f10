"""A trained bundle as an application of MONAI Deploy."""
