"""Runs the application as a folder: `python FOLDER -i ... -o ... -m ...`, as the packaged application does."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("app.py")), run_name="__main__")
