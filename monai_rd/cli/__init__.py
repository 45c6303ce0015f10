"""The commands of `monai-rd`, one a file."""
