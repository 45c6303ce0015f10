"""The federation of federated.py by NVIDIA FLARE: its simulator runs the server and both sites, each in its process.

    python docs/guide/flare.py FOLDER

Words as for federated.py, and the same student comes out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from federated import SITES, client_of, measure, read_words, settle_all
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe.sim_env import SimEnv


def main() -> None:
    """Federate as the words say."""
    given, words = read_words(__doc__)
    place = given.folder = given.folder.resolve()  # FLARE starts the sites in other folders
    given.dataset_dir = given.dataset_dir and given.dataset_dir.resolve()
    own = settle_all(given, words)
    for name, of_site in own.items():
        known = {"words": of_site, "local_epochs": given.local_epochs}
        (place / name / "words.json").write_text(json.dumps(known))
    torch.save(client_of(SITES[0], own[SITES[0]], 1).get_weights().weights, place / "first.pt")
    recipe = FedAvgRecipe(
        name="federation",
        min_clients=len(SITES),
        num_rounds=given.rounds,
        model_persistor=PTFileModelPersistor(source_ckpt_file_full_name=str(place / "first.pt")),
        train_script=str(Path(__file__).with_name("flare_site.py")),
        train_args=str(place),
        launch_external_process=True,
        command=f"{sys.executable} -u",
    )
    recipe.execute(SimEnv(clients=list(SITES), workspace_root=str(place / "flare")))
    (left,) = (place / "flare").rglob("FL_global_model.pt")
    measure(torch.load(left, weights_only=True)["model"], own)


if __name__ == "__main__":
    main()
