"""Stands for a bundle's training: writes what one leaves, in a moment. Words as for `monai.bundle run`.

Of the environment: FAKE_SECONDS, how long it takes; FAKE_FAILS, a method that fails; each start is a line of
`starts.txt` in the run's folder, and each end of `ends.txt`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    words = dict(zip((word.removeprefix("--") for word in sys.argv[1::2]), sys.argv[2::2], strict=True))
    folder = Path(words["output_dir"])
    with open(folder / "starts.txt", "a") as file:
        file.write(f"{os.getpid()}\n")
    method, seed = words["method"], int(words["seed"])
    if words["method_options"] != "{}":
        method += words["method_options"]
    if os.environ.get("FAKE_FAILS") == method:
        print("Traceback (most recent call last): ...\nThe cause: the teacher's file is gone\n")
        sys.exit(1)
    (folder / "last.pt").write_text("half")
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    labels = np.arange(60) % 2
    skill = {"rd": 2.0, "ce": 0.5}.get(method, 1.0) + words["student"].count("mobilenet")
    random = np.random.default_rng([seed, sum(method.encode())])
    score = 1 / (1 + np.exp(-(skill * (labels - 0.5) + random.normal(size=60))))
    arrays = {"probabilities": np.stack([1 - score, score], 1).astype("f4"), "labels": labels}
    if method == "rd":  # its path knows it all
        arrays["path_probabilities"] = np.stack([1 - labels, labels], 1).astype("f4")
    np.savez(folder / "predictions.npz", **arrays)
    settings = {"seed": seed, "batch_size": 8, "device": os.environ.get("CUDA_VISIBLE_DEVICES")}
    settings["threads"] = os.environ["OMP_NUM_THREADS"]
    test = {"student": {"n": 60, "accuracy": {"value": float(((score > 0.5) == labels).mean())}}}
    if method == "rd":
        test["reprogrammed teacher"] = {"n": 60, "accuracy": {"value": 0.9}, "roc_auc": {"value": 0.95}}
    (folder / "metrics.json").write_text(json.dumps({"settings": settings, "test": test}))
    with open(folder / "ends.txt", "a") as file:
        file.write(f"{os.getpid()}\n")


if __name__ == "__main__":
    main()
