"""A trained bundle behind MONAI Label's server."""
