"""A federation of two sites on one machine, from the first weights to the common student on each site's test set.

    python docs/guide/federated.py FOLDER

FOLDER gets a site each in `site_a` and `site_b`: the bundle's configs, a list of its own patients, what it trains. The
data are phantoms, or those of `--dataset_dir DIR` with a sheet `labels.csv` that has the columns image, label and
split. `--bundle`, `--rounds` and `--local_epochs` (of each round) may be given; all other words, such as `--batch_size
16`, are for the bundle. In a real federation each site has its own machine, and what stands here under "the server" is
the federation's system.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path
from typing import Any

import torch
from monai.bundle import run
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from monai_rd.bundle import bundle_root, parse_overrides
from monai_rd.integrations.federated import SiteClient
from monai_rd.phantoms import phantom_cohort

Weights = dict[str, torch.Tensor]
SITES = ("site_a", "site_b")


def own_patients(rows: list[dict[str, str]], site: int) -> list[dict[str, str]]:
    """Every second row of each class of each split."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["split"], row["label"]), []).append(row)
    return [row for group in groups.values() for row in group[site :: len(SITES)]]


def settle(site: Path, bundle: str, rows: list[dict[str, str]], words: dict[str, Any]) -> dict[str, Any]:
    """Copy the bundle's configs and write the list of the site's patients; gives the words for its trainings."""
    shutil.copytree(Path(bundle_root(bundle)) / "configs", site / "configs", dirs_exist_ok=True)
    sheet = site / "patients.csv"
    with open(sheet, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return {**words, "bundle_root": str(site), "data_list": str(sheet)}


def settle_all(given: argparse.Namespace, words: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settle both sites; gives the words for the trainings of each."""
    data = given.dataset_dir or Path(phantom_cohort(given.folder, given.bundle.removeprefix("rd_")))
    with open(data / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    common = {
        "dataset_dir": str(data),
        "class_names": sorted({row["label"] for row in rows}),  # the same in the same order everywhere
        "total_epochs": given.rounds * given.local_epochs,
        **words,
    }
    return {
        name: settle(given.folder / name, given.bundle, own_patients(rows, number), common)
        for number, name in enumerate(SITES)
    }


def client_of(name: str, words: dict[str, Any], local_epochs: int) -> SiteClient:
    """The client of a site, which sends whole weights and not differences."""
    client = SiteClient(
        words["bundle_root"],
        local_epochs=local_epochs,
        send_weight_diff=False,
        train_kwargs=dict(words),
        eval_kwargs=dict(words),
    )
    client.initialize({ExtraItems.CLIENT_NAME: name})
    return client


def federate(own: dict[str, dict[str, Any]], rounds: int, local_epochs: int) -> Weights:
    """Let both sites train a student together; gives its weights."""
    clients = {name: client_of(name, own[name], local_epochs) for name in SITES}

    # The server: one site's first student for all, then in each round the mean of what all have made of it.
    shared: Weights = clients[SITES[0]].get_weights().weights
    for number in range(1, rounds + 1):
        answers: list[Weights] = []
        for client in clients.values():
            client.train(ExchangeObject(weights=shared))
            answers.append(client.get_weights().weights)
        shared = {key: mean_of([answer[key] for answer in answers]) for key in shared}
        for name, client in clients.items():
            metrics = client.evaluate(ExchangeObject(weights=shared)).metrics
            told = ", ".join(f"{key} {float(value):.3f}" for key, value in metrics.items())
            print(f"round {number} of {rounds}: the common student on {name}'s validation set: {told}")
    return shared


def mean_of(values: list[torch.Tensor]) -> torch.Tensor:
    """The plain mean; of whole numbers, such as the batches that batch norm has seen, a whole number."""
    return torch.stack([value.double() for value in values]).mean(dim=0).to(values[0].dtype)


def measure(shared: Weights, own: dict[str, dict[str, Any]]) -> None:
    """Give each site the common student as `models/model.pt`, and measure it on the site's test set."""
    for name, words in own.items():
        site = Path(words["bundle_root"])
        torch.save(shared, site / "models" / "model.pt")
        configs = [str(site / "configs" / file) for file in ("train.json", "evaluate.json")]
        print(f"the common student on {name}'s test set:")
        run(config_file=configs, **words)


def read_words(description: str) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read the words of the command; gives also those for the bundle."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", default="rd_ct")
    parser.add_argument("--dataset_dir", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--local_epochs", type=int, default=10)
    given, words = parser.parse_known_args()
    return given, parse_overrides(words)


def main() -> None:
    """Federate as the words say."""
    given, words = read_words(__doc__)
    own = settle_all(given, words)
    measure(federate(own, given.rounds, given.local_epochs), own)


if __name__ == "__main__":
    main()
