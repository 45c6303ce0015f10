"""The app that MONAI Label runs, as `monai-rd label-app` copies it; imported in MONAI Label's environment only."""
