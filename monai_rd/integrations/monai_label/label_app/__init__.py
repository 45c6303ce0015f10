"""The app that MONAI Label runs, copied by `monai-rd label-app`; imported only in MONAI Label's environment."""
