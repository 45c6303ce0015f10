"""`python -m monai_rd`, which is the console command `monai-rd`."""

from monai_rd.cli.app import main

if __name__ == "__main__":
    main()
