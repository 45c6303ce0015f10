"""A federation of two sites by MONAI's own client, with the server's mean written here; and the script of the docs."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from monai_rd.handlers import read_history
from monai_rd.integrations.federated import SiteClient
from monai_rd.networks import Student
from monai_rd.phantoms import phantom_cohort
from tests.bundles.commands import ROOT, copied

ROUNDS = 2
Weights = dict[str, torch.Tensor]


def site(name: str, cohort: Path, rows: list[dict[str, str]], to: Path) -> SiteClient:
    """A site: a copy of the bundle, and its own patients in a sheet."""
    root = copied("derm", to / name)
    sheet = to / name / "patients.csv"
    with open(sheet, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    words: dict[str, Any] = {
        "bundle_root": str(root),
        "dataset_dir": str(cohort),
        "data_list": str(sheet),
        "unlabelled": None,
        "total_epochs": ROUNDS,
        "image_size": 32,
        "batch_size": 4,
        "device": "cpu",
    }
    client = SiteClient(
        str(root),
        local_epochs=1,
        send_weight_diff=name == "site_b",
        train_kwargs=dict(words),
        config_evaluate_filename="default" if name == "site_a" else None,
        eval_kwargs=dict(words),
    )
    client.initialize({ExtraItems.CLIENT_NAME: name})
    return client


def mean_of(payloads: list[Weights]) -> Weights:
    """What a server makes of them: the plain mean, counters in their own type."""
    return {
        key: torch.stack([one[key].double() for one in payloads]).mean(dim=0).to(payloads[0][key].dtype)
        for key in payloads[0]
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:executing the bundle config", "ignore:parsing config_file")
def test_two_sites_train_a_student_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 8, "validation": 8, "test": 8})
    cohort = Path(phantom_cohort(tmp_path, "derm"))
    with open(cohort / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    clients = [
        site(name, cohort, [row for n, row in enumerate(rows) if n // 4 % 2 == k], tmp_path)
        for k, name in enumerate(("site_a", "site_b"))
    ]
    # The first weights are a site's, whether it will send weights or differences; MONAI's client fails at the latter.
    for client in clients:
        sent = client.get_weights()
        assert sent.weight_type == WeightType.WEIGHTS
        Student("resnet18", 4).load_state_dict(sent.weights)
    with pytest.raises(ValueError, match="`global_weights` is None"):
        MonaiAlgo.get_weights(clients[1])
    with pytest.raises(ValueError, match="No best model checkpoint"):
        clients[0].get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL})
    shared: Weights = clients[0].get_weights().weights
    first = {key: value.clone() for key, value in shared.items()}
    teachers = [client.train_workflow.parser.get_parsed_content("teacher_network") for client in clients]
    frozen = [{key: value.clone() for key, value in teacher.state_dict().items()} for teacher in teachers]
    alphas, rates = [], []
    for _ in range(ROUNDS):
        payloads = []
        for client in clients:
            before = {key: value.clone() for key, value in shared.items()}
            client.train(ExchangeObject(weights=shared))
            sent = client.get_weights()
            assert sent.weights.keys() == shared.keys()  # the student, whole and alone
            differs = sent.weight_type == WeightType.WEIGHT_DIFF
            payloads.append({k: v + before[k] if differs else v.clone() for k, v in sent.weights.items()})
            assert not torch.equal(payloads[-1]["classifier.weight"], before["classifier.weight"])
            alphas.append(client.trainer.state.term_weights["teacher_ce"])
            rates.append(client.trainer.optimizer.param_groups[0]["lr"])
        assert not torch.equal(payloads[0]["classifier.weight"], payloads[1]["classifier.weight"])
        assert all(torch.equal(value, first[key]) for key, value in shared.items())  # what a site sent is not its own
        shared = mean_of(payloads)
        first = {key: value.clone() for key, value in shared.items()}
    assert alphas == [1.0, 1.0, 0.0, 0.0]  # over both rounds, not anew in each; likewise the learning rate
    assert rates == pytest.approx([0.0005, 0.0005, 0.0, 0.0])
    with pytest.raises(ValueError, match="epoch 3 of a training of 2"):
        clients[0].train(ExchangeObject(weights=shared))
    for client, teacher, old in zip(clients, teachers, frozen, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in teacher.state_dict().items())
        history = read_history(Path(client.bundle_root) / "eval" / "history.json")
        assert [row["epoch"] for row in history] == [1, 2]
        best = client.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
        Student("resnet18", 4).load_state_dict(best)
    metrics = clients[0].evaluate(ExchangeObject(weights=shared)).metrics
    assert set(metrics) == {"val_accuracy", "val_auc"}
    evaluated = clients[0].evaluator.network.state_dict()
    assert all(torch.equal(evaluated[key], value) for key, value in shared.items())
    assert sum(value.nbytes for value in shared.values()) == pytest.approx(
        44.7e6, rel=0.01
    )  # what docs/guide/federated.md says


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:executing the bundle config", "ignore:parsing config_file")
def test_the_script_of_the_docs_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 4, "validation": 4, "test": 8})
    monkeypatch.setattr("monai_rd.phantoms.cohort.POOL", 4)
    monkeypatch.chdir(tmp_path)
    script, folder = ROOT / "docs" / "guide" / "federated.py", Path("federation")
    small = ("--local_epochs", "1", "--batch_size", "2", "--image_size", "32", "--report_page", "false")
    words = [str(script), str(folder), *small, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    models = []
    for name in ("site_a", "site_b"):
        for number in (1, 2):
            assert f"round {number} of 2: the common student on {name}'s validation set: val_accuracy" in printed
        assert f"student measured: {folder / name / 'models' / 'model.pt'}" in printed
        assert [row["epoch"] for row in read_history(folder / name / "eval" / "history.json")] == [1, 2]
        assert (folder / name / "eval" / "metrics.json").is_file()
        models.append((folder / name / "models" / "model.pt").read_bytes())
    assert models[0] == models[1]
    sheets = [set((folder / name / "patients.csv").read_text().splitlines()[1:]) for name in ("site_a", "site_b")]
    assert [len(sheet) for sheet in sheets] == [8, 8]
    assert not sheets[0] & sheets[1]
