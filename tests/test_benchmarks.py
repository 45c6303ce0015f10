"""The benchmarks' arithmetic, and that their parts fit: the scripts themselves are run by hand."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from rich.console import Console

from monai_rd.cache import SkippingCacheDataset
from monai_rd.datasets import make_datalist
from monai_rd.networks import Student
from monai_rd.protocol.experiments import TABLES
from monai_rd.transforms import CTAugmentation

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import one of the scripts, which find each other beside them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_everybody_has_a_turn_in_every_round_and_the_first_is_not_counted(script: Any) -> None:
    timing, order = script("timing"), []
    turns = {name: lambda name=name: order.append(name) for name in "abc"}
    times = timing.in_turn(turns, rounds=2)
    assert order == [*"abc", *"bca", *"cab"]
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_the_middle_of_ratios_is_the_median_of_the_rounds(script: Any) -> None:
    timing = script("timing")
    assert timing.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == [2.0, 3.0, 1.0]
    assert timing.middle([2.0, 3.0, 1.0]) == "2.00 \\[1.50, 2.50]"
    assert timing.middle([0.5], "{:.0%}") == "50%"


def test_a_child_that_fails_is_an_error(script: Any, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        'import sys\nprint("words")\nprint(\'{"memory": 3}\')\nsys.exit(len(sys.argv) - 1)'
    )
    timing = script("timing")
    assert timing.in_child(tmp_path / "one.py") == {"memory": 3}
    with pytest.raises(RuntimeError, match=r"one\.py word ended with 1"):
        timing.in_child(tmp_path / "one.py", "word")


def test_skewed_data_have_the_shares_of_isic_in_every_split(script: Any, tmp_path: Path) -> None:
    skewed = script("skewed")
    assert sum(skewed.counts_of(10015).values()) == 10015
    assert skewed.counts_of(30) == {"MEL": 3, "NV": 20, "BCC": 2, "AKIEC": 1, "BKL": 3, "DF": 1, "VASC": 1}
    skewed.draw(tmp_path / "data", {"training": 12, "validation": 7, "test": 7})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    skewed.draw(tmp_path / "data", {"training": 12, "validation": 7, "test": 7})
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()} == before
    made = make_datalist(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    for split in ("training", "validation", "test"):
        assert min(made.class_counts(split)) == 1
        assert max(made.class_counts(split)) == made.class_counts(split)[made.class_names.index("NV")]
    with pytest.raises(ValueError, match="other numbers of images"):
        skewed.draw(tmp_path / "data", {"training": 30, "validation": 7, "test": 7})


def test_share_of_the_ceiling(script: Any) -> None:
    step = script("training_step")
    times = {"alone": [1.0, 2.0], "store": [1.25, 2.5], "plain": [5.0, 10.0], "teacher": [4.0, 8.0]}
    console = Console(width=150)
    with console.capture() as shown:
        console.print(step.tabulate("title", times, steps=1))
    (row,) = (line for line in shown.get().splitlines() if "plain PyTorch" in line)
    # 5 times the student alone, 4 times RD with the store, of a ceiling of (4 + 1) / 1.
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["5.00", "4.00", "80 %"]
    assert "the ceiling (T + 3 S) / 3 S is 5.00" in shown.get()


@pytest.mark.slow
def test_all_variants_train_and_those_of_rd_do_the_same_work(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, parts = script("training_step"), script("parts")
    made: list[Student] = []
    build = step.Work.network
    monkeypatch.setattr(step.Work, "network", lambda work: made.append(build(work)) or made[-1])
    teacher = parts.random_teacher("vit_tiny_patch16_224", 32)
    work = step.Work("resnet18", teacher, torch.device("cpu"), False, 8, False, grid=2)
    fixed = Compose([one for one in parts.transforms(32).transforms if not isinstance(one, CTAugmentation)])
    plain = SkippingCacheDataset(parts.write_images(tmp_path / "images", 8, 32), fixed)  # a batch
    said: list[str] = []
    turns = step.turns_of(work, step.DEFAULT, plain, step.taught(work, plain, tmp_path), said.append)
    assert {*step.DEFAULT} - {*turns} <= {"torchdistill"}, said
    before = step.Work.network(work)
    for turn in turns.values():
        turn()
    # AdamW's first step is the gradient's sign: of noise where there is hardly any gradient, so not of all alike.
    moves = {
        name: torch.cat([(p > q).flatten() for p, q in zip(one.parameters(), before.parameters(), strict=True)])
        for name, one in zip([name for name in turns if name != "teacher"], made, strict=False)
    }
    alike = {name: float((move == moves["plain"]).float().mean()) for name, move in moves.items()}
    assert min(alike[name] for name in alike if name not in ("alone", "timm")) > 0.999, alike
    assert max(alike["alone"], alike["timm"]) < 0.99, alike


def test_a_step_out_of_memory(script: Any, tmp_path: Path) -> None:
    step, parts = script("training_step"), script("parts")
    teacher = parts.random_teacher("vit_tiny_patch16_224", 32)
    work = step.Work("shufflenet_v2_x1_0", teacher, torch.device("cpu"), True, 4, True, grid=2)
    plain = SkippingCacheDataset(parts.write_images(tmp_path / "images", 4, 32), parts.transforms(32))
    turn = step.with_store(work, step.taught(work, plain, tmp_path))
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    turn()


def test_a_small_store_is_filled_and_read(script: Any, tmp_path: Path) -> None:
    store, parts = script("store"), script("parts")
    parts.write_images(tmp_path / "small", 4, store.SMALL)
    filled = store.fill_job(tmp_path, 4, 2)
    assert filled["bytes"] > 4 * 2 * (64 * store.GRID**2 + 256) * 2
    assert filled["began"] < filled["ended"]
    assert store.read_job(tmp_path, 4, 2)["memory"] > 0


@pytest.mark.slow
def test_formats_of_a_student_agree(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inference, parts = script("inference"), script("parts")
    monkeypatch.setattr(inference, "STEPS", 3)
    monkeypatch.setattr(inference, "PICTURES", 8)
    monkeypatch.setattr(inference, "FORMATS", {"torchscript": inference.FORMATS["torchscript"]})
    trained = inference.learnt("resnet18", 32, tmp_path)
    teacher = parts.random_teacher("vit_tiny_patch16_224", 32)
    said: list[str] = []
    table = inference.compare(trained, teacher, threads=1, rounds=1, say=said.append)
    assert said == []
    names, _, _, differences, same = (list(column.cells) for column in table.columns)
    assert names[1:] == ["PyTorch", "torchscript"]
    assert float(differences[2]) < 1e-5
    assert same[2] == "100.0%"


def test_what_lies_there_of_covid_ct_is_compared_as_the_docs_say(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare, results = script("compare"), str(BENCHMARKS / "results" / "covid_ct")
    monkeypatch.setattr("sys.argv", ["compare.py", results, "feature_views=8 max_epochs=60", "max_epochs=60"])
    compare.main()
    told = (BENCHMARKS.parent / "docs" / "guide" / "speed.md").read_text()
    lines = [line.split("│")[3:-1] for line in capsys.readouterr().out.splitlines() if "±" in line]
    assert len(lines) == 3  # accuracy and balanced accuracy in percent, then the AUC
    for cell in (text.strip() for line in lines[2:] for text in line[:2]):
        assert cell in told
    monkeypatch.setattr("sys.argv", ["compare.py", results, "feature_views=9", ""])
    with pytest.raises(SystemExit):
        compare.main()
    assert "no two runs differ by this alone" in capsys.readouterr().err


DEFAULT = 'unlabelled_share=0.75 method_options={"detach_teacher":true,"beta":[1.0,1.0],"calibrated":true}'


@pytest.mark.parametrize(
    ("folder", "which", "options", "seeds", "page", "cell"),
    [
        ("btc", "student=resnet18", DEFAULT, 5, "README.md", "`rd_calibrated` | {} ["),
        ("phantoms_default", "max_epochs=40", DEFAULT, 10, "phantoms.md", "| ROC AUC | 0.917 ± 0.018 | {} |"),
    ],
)
def test_seeds_with_labels_of_their_own_are_compared_together(
    folder: str,
    which: str,
    options: str,
    seeds: int,
    page: str,
    cell: str,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = str(BENCHMARKS / "results" / "unlabelled" / folder)
    monkeypatch.setattr("sys.argv", ["compare.py", results, f"{which} method=rd {options}", f"{which} method=ce"])
    script("compare").main()
    (line,) = (line.split("│") for line in capsys.readouterr().out.splitlines() if "roc_auc" in line)
    assert line[1].strip() == str(seeds)
    told = (BENCHMARKS.parent / "docs" / "results" / page).read_text()
    assert cell.format(line[3].strip()) in told
    assert line[5].strip() in told


def test_trainings_of_two_folders_are_compared(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(BENCHMARKS / "results" / "unlabelled" / f"phantoms_{name}") for name in ("bfloat16", "default")]
    monkeypatch.setattr("sys.argv", ["compare.py", ",".join(folders), "amp=true", ""])
    script("compare").main()
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "roc_auc" in line]
    told = (BENCHMARKS.parent / "docs" / "results" / "settings.md").read_text()
    assert [line[-7].strip() for line in lines] == ["10", "10"]
    for line in lines:
        ours, theirs, difference, p = (cell.strip() for cell in line[-5:-1])
        assert f"| ROC AUC | {ours} | {theirs} | {difference}, p = {float(p):.2f} |" in told


@pytest.mark.parametrize(("name", "times", "first_cell", "rows"), [("overview", 2, "`", 17), ("curve", 1, "C", 6)])
def test_the_tables_of_the_comparison_are_what_lies_there(
    name: str,
    times: int,
    first_cell: str,
    rows: int,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those that the page's own commands make, rows of at least two cells each."""
    told = (BENCHMARKS.parent / "docs" / "results" / "README.md").read_text()
    commands = re.findall(rf"python benchmarks/{name}.py (.*?)(?:\\\n *--draw|\n\n)", told, re.DOTALL)
    assert len(commands) == times
    monkeypatch.chdir(BENCHMARKS.parent)
    for command in commands:
        monkeypatch.setattr("sys.argv", [name, *shlex.split(command.replace("\\\n", " "))])
        script(name).main()
    made = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {first_cell}")]
    assert len(made) >= rows
    for line in made:
        wanted = re.sub(" +", " ", line).rstrip("| ")
        assert wanted in told or wanted.count("|") < 3, line  # tables of one student repeat those above


def test_raps_sums_probabilities_and_covers_what_it_promises(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raps, p = script("raps"), np.array([[0.2, 0.5, 0.3]])
    assert raps.scores(p, 0.1, 1, 0.0).tolist() == [pytest.approx([1.2, 0.5, 0.9])]
    assert raps.scores(p, 0.1, 1, 0.5).tolist() == [pytest.approx([1.1, 0.25, 0.75])]
    assert [raps.largest(np.arange(n)) for n in (9, 19)] == [8, 17]
    random, known = np.random.default_rng(0), {}
    for name, n in (("validation_", 150), ("", 300)):
        y = random.integers(3, size=n)
        p = np.exp(2 * random.normal(size=(n, 3)) + 3 * np.eye(3)[y])
        known |= {f"{name}probabilities": p / p.sum(axis=1, keepdims=True), f"{name}labels": y}
    (tmp_path / "cohort" / "runs" / "a").mkdir(parents=True)
    np.savez(tmp_path / "cohort" / "runs" / "a" / "predictions.npz", **known)
    monkeypatch.setattr("sys.argv", ["raps.py", "--resamplings", "100", str(tmp_path / "cohort" / "runs")])
    raps.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == list(raps.WAYS)
    for row in rows:
        assert float(row[2]) == pytest.approx(0.91, abs=0.02), row


def test_coverage_of_mixed_images_is_what_is_promised(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for run in "ab":
        (tmp_path / "cohort" / "runs" / run).mkdir(parents=True)
        known = {}
        for name, n, shift in (("validation_", 120, 1.5), ("", 200, 0.0)):  # a test set unlike the validation set
            y = random.integers(2, size=n)
            p = 1 / (1 + np.exp(-(random.normal(size=n) + (2 * y - 1) * shift)))
            known |= {f"{name}probabilities": np.stack([1 - p, p], axis=1), f"{name}labels": y}
        np.savez(tmp_path / "cohort" / "runs" / run / "predictions.npz", **known)
    given = ["conformal.py", "--resamplings", "100", str(tmp_path / "cohort" / "runs")]
    monkeypatch.setattr("sys.argv", given)
    script("conformal").main()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    sets = cells[2]
    assert sets[:3] == ["cohort", "2", "120, 200"]
    assert float(sets[3].split()[0]) < 0.8
    assert float(sets[7].split()[0]) == pytest.approx(0.905, abs=0.02)
    assert float(sets[8]) == pytest.approx(0.95, abs=0.05)
    assert float(sets[9]) == pytest.approx(0, abs=0.01)
    assert [row[1] for row in cells[-2:]] == ["sensitivity 0.95", "specificity 0.9"]
    assert float(cells[-1][4].split()[0]) == pytest.approx(0.9, abs=0.03)


def test_studies_per_second_are_those_between_the_first_and_the_last_answer(script: Any) -> None:
    seen = script("predict_workers").Watched([(0.0, 0), (9.0, 2), (11.0, 5), (13.0, 8), (20.0, 8)])
    assert seen.speed() == 1.5


def test_memory_is_told_at_a_share_of_the_answers(script: Any) -> None:
    memory = [(0, 1.0), (5, 2.0), (10, 3.0)]
    assert [script("predict_workers").memory_at(memory, number) for number in (0, 4, 10, 99)] == [1.0, 2.0, 3.0, 3.0]


def test_overview_tells_rows_apart_and_averages_what_is_whole(script: Any, tmp_path: Path) -> None:
    """Scores right in all images but the first `wrong` of each class, of two students and two seeds."""
    overview, labels = script("overview"), np.arange(40) % 2
    wrong = {"ce": 8, "kd": 4, "rd_calibrated": 2, "rd": 2}
    rows = {row.name: row for row in TABLES["unlabelled"].rows}
    for name, student, seed in product(wrong, ("resnet18", "mobilenet_v2"), range(2)):
        if (name, student, seed) == ("rd", "mobilenet_v2", 1):
            continue  # unfinished
        row, folder = rows[name], tmp_path / "runs" / f"{name}_{student}_{seed}"
        folder.mkdir(parents=True)
        words = [*row.words, "--data_list", f"sha256:{seed}"]
        cell = {"method": row.method, "method_options": row.options, "student": student, "seed": seed, "words": words}
        (folder / "run.json").write_text(json.dumps({"cell": cell}))
        score = labels.astype(float)
        score[: wrong[name]] = 1 - score[: wrong[name]]
        both, path = np.stack([1 - score, score], 1), np.stack([1 - labels, labels], 1)
        np.savez(folder / "predictions.npz", probabilities=both, labels=labels, path_probabilities=path)
        test = {"student": {"n": 40}} | ({} if name == "ce" else {"teacher": {"roc_auc": {"value": 1.0}}})
        (folder / "metrics.json").write_text(json.dumps({"test": test}))
    made = overview.lines(overview.read(tmp_path, {}), seeds=2)
    assert {name: one.students for name, one in made.items()} == {"ce": 2, "kd": 2, "rd_calibrated": 2, "rd": 1}
    area = {name: 1 - number / 40 for name, number in wrong.items()}
    for name, one in made.items():
        assert one.auc.mean == pytest.approx(area[name], abs=1e-6)
        if name != "ce":
            assert one.gain.estimate.mean == pytest.approx(area[name] - area["ce"], abs=1e-6)
    assert made["kd"].subject.estimate.mean == pytest.approx(area["rd_calibrated"] - area["kd"], abs=1e-6)
    assert made["rd_calibrated"].share.mean == pytest.approx((8 - 2) / 8, abs=1e-6)
    assert set(overview.read(tmp_path, {"student": "resnet18"})) == {(name, "resnet18") for name in wrong}
    assert overview.table(made).count("\n") == 1 + len(made)
    other = {"method": "rd", "unlabelled_share": "0.5"}
    assert overview.row_of(other) is None
    assert len(overview.draw({"a": made, "b": made}).axes) == 2
    curve = script("curve")
    (axis,) = curve.draw({"a": {9: made, 99: {"ce": made["ce"]}}}).axes
    drawn = {bars.get_label(): len(bars.lines[0].get_xdata()) for bars in axis.containers}
    assert drawn == {"the student alone": 2, "RD, with unlabelled images": 1}
    assert [line.split(" | ")[1] for line in curve.table({"a": {99: made, 9: made}}).splitlines()[2:]] == ["9", "99"]
