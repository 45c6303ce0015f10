"""The commands of `monai-rd`, one per file."""
