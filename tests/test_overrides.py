"""What people set for a bundle: keys that exist, values that fit, text that stays text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from monai_rd.bundle import parse_overrides
from monai_rd.dicom import SeriesRule
from monai_rd.errors import Policy, original_error
from monai_rd.overrides import OverrideError, overridden, settled, typed_arguments, unread_ids

BUNDLES = Path(__file__).parents[1] / "bundles"
TRAIN = json.loads((BUNDLES / "rd_ct" / "configs" / "train.json").read_text())
MAIN = str(Path("monai", "bundle", "__main__.py"))


def command(monkeypatch: pytest.MonkeyPatch, *words: str, config: str = "train.json", **given: Any) -> Any:
    """What MONAI's command makes of words, up to the check of the settings."""
    monkeypatch.setattr(sys, "argv", [MAIN, "run", *words])
    file = BUNDLES / "rd_ct" / "configs" / config
    read = {**words_of_fire(words), **given, "initialize": [f"$bundle.check_overrides('rd_ct', '{config}')"]}
    workflow = ConfigWorkflow(str(file), logging_file=False, **read)
    try:
        workflow.initialize()
    except RuntimeError as error:
        raise original_error(error) from None
    return workflow.parser


def words_of_fire(words: tuple[str, ...]) -> dict[str, Any]:
    """The arguments that fire makes of words, without those that MONAI drops."""
    import fire

    found: dict[str, Any] = fire.Fire(lambda **given: given, command=list(words), serialize=lambda given: None)
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    "word",
    ["20240131", "1e5", "None", "true", "[a]", "007", "0x10", "1_000", "(1,2)", "data#1", "a b", "{a: 1}", "3.10"],
)
def test_paths_and_names_stay_as_they_are_typed(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("dataset_dir", "output_dir", "bundle_root", "cache_dir", "teacher", "student", "method")
    apart = [part for key in keys for part in (f"--{key}", word)]
    joined = [f"--{key.replace('_', '-')}={word}" for key in keys]
    read = overridden(TRAIN, parse_overrides(apart))
    for config in (command(monkeypatch, *apart), command(monkeypatch, *joined), read):
        assert {key: config.get_parsed_content(key) for key in keys} == dict.fromkeys(keys, word)


@pytest.mark.parametrize("word", ["None", "null"])
def test_nothing_is_nothing_where_a_key_may_be_without_value(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "--data_list", word, "--adapter", word)["data_list"] is None
    with pytest.raises(OverrideError, match=f"--max_epochs: a whole number of at least 1 is needed, got '{word}'"):
        command(monkeypatch, "--max_epochs", word)


def test_expressions_are_left_to_monai(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--output_dir", "$@bundle_root + '/x'", "--max_epochs", "$3 + 4", "--features_dir", "@cache_dir")
    config = command(monkeypatch, *words)
    assert [config[name[2:]] for name in words[::2]] == list(words[1::2])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_epoch", "1"], "nothing reads --max_epoch (did you mean 'max_epochs'?)"),
        (["--datasetdir", "x"], "nothing reads --datasetdir (did you mean 'dataset_dir'?)"),
        (["--Student", "resnet18"], "nothing reads --Student (did you mean 'student'?)"),
        (["--tracing", "mlflow"], "nothing reads --tracing (did you mean 'tracking'?)"),
        (["--lr", "nan"], "nothing reads --lr"),
        (["--train#interval", "3"], "nothing reads --train#interval"),
        (["--nodataset_dir"], "--dataset_dir: text (a name or a path) is needed, got False"),
        (["--dataset_dir", "--seed", "3"], "--dataset_dir: text (a name or a path) is needed, got no value"),
        (["--dataset_dir", ""], "--dataset_dir: text (a name or a path) is needed, got ''"),
        (["--max_epochs", "0"], "--max_epochs: a whole number of at least 1 is needed, got 0"),
        (["--max_epochs", "-1"], "--max_epochs: a whole number of at least 1 is needed, got -1"),
        (["--max_epochs", "1.5"], "got 1.5"),
        (["--max_epochs", "abc"], "got 'abc'"),
        (["--max_epochs"], "got no value"),
        (["--image_size", "0"], "--image_size: a whole number of at least 1 is needed, got 0"),
        (["--image_size", "64,64"], "--image_size: a whole number of at least 1 is needed, got (64, 64)"),
        (["--num_workers", "-2"], "--num_workers: a whole number of at least 0"),
        (["--seed", "x"], "--seed: a whole number"),
        (["--learning_rate", "nan"], "--learning_rate: a number above 0 is needed, got 'nan'"),
        (["--learning_rate", "1e999"], "--learning_rate: a number above 0 is needed, got inf"),
        (["--learning_rate", "-0.1"], "--learning_rate: a number above 0"),
        (["--resume", "yes"], "--resume: true or false is needed, got 'yes'"),
        (["--amp", "1.0"], "--amp: true or false is needed, got 1.0"),
        (["--policy", "skip"], "--policy: a table"),
        (["--policy", "{MISSING_SLICES: skip"], "--policy: a table"),
        (["--series_rule", "[CT]"], "--series_rule: a table"),
        (["--method_options", "4"], "--method_options: a table"),
        (
            ["--teacher_options", "BGR"],
            "--teacher_options: a table, such as \"{'channel_order': 'BGR', 'tap': 'layer3'}\",",
        ),
        (["--teacher_options", "[{},3]"], "--teacher_options: a table"),
        (["--licences", "MIT"], "--licences: a table, such as \"{'teacher': 'MIT'}\","),
        (["--device", "gpu"], "--device: a device, such as cpu or cuda:0, is needed, got 'gpu'"),
        (["--device", "cuda:77"], "there is no such device here"),
        (
            ["--operating_point", "sensitivity"],
            "--operating_point: 'sensitivity SHARE' or 'specificity SHARE' is needed",
        ),
        (
            ["--operating_point", "recall 0.9"],
            "such as 'sensitivity 0.95', with a share above 0 and at most 1, got 'rec",
        ),
        (["--operating_point", "sensitivity 95"], "at most 1, got 'sensitivity 95'"),
        (["--operating_point", "0.95"], "at most 1, got '0.95'"),
        (["--conformal_groups", "hospital"], "--conformal_groups: 'scanner' or 'site' is needed, got 'hospital'"),
        (["--num_classes", "1"], "--num_classes: a whole number of at least 2"),
        (["--cross_fit", "1"], "--cross_fit: a whole number of at least 2"),
    ],
)
def test_a_wrong_key_or_value_is_named(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OverrideError) as caught:
        command(monkeypatch, *words)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("['clear','covid']", ["clear", "covid"]),
        ("clear,covid", ["clear", "covid"]),
        ("[1, 2.0, 007]", ["1", "2.0", "007"]),
        ("None,True", ["None", "True"]),
        ("(a b,'c, d')", ["a b", "c, d"]),
        ("one", ["one"]),
        ("grade #1,grade @2", ["grade #1", "grade @2"]),
    ],
)
def test_class_names_are_text(word: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "--class_names", word).get_parsed_content("class_names") == names


def test_values_are_read_as_they_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--resume", "true", "--amp", "False", "--max_epochs", "1e1", "--seed", "007", "--windows", "lung"]
    config = command(monkeypatch, *words, "--policy", "{TILTED_STACK: warn}", "--learning_rate=1e-4")
    found = [config[key] for key in ("resume", "amp", "max_epochs", "seed", "windows", "policy", "learning_rate")]
    assert found == [True, False, 10, 7, ["lung"], {"TILTED_STACK": "warn"}, 1e-4]


def test_teacher_options_are_a_table_or_one_for_each_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    table, read = ({"mean": [0.1, 0.2, 0.3], "size": size, "turn": "RAS"} for size in ("null", None))
    for value, wanted in ((table, read), ([{}, table], [{}, read])):
        assert command(monkeypatch, "--teacher_options", str(value)).get_parsed_content("teacher_options") == wanted
    assert command(monkeypatch, "--teacher_options", "None").get_parsed_content("teacher_options") is None


@pytest.mark.parametrize("key", ["method_options", "adapter_options"])
def test_options_know_the_words_of_json(key: str) -> None:
    given = {"a": "true", "b": "false", "c": "null", "d": "channels", "e": 0.5}
    assert settled({key: given}, {}) == {key: {"a": True, "b": False, "c": None, "d": "channels", "e": 0.5}}


def test_in_python_a_path_may_be_a_path_and_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert command(monkeypatch, dataset_dir=tmp_path)["dataset_dir"] == str(tmp_path)
    with pytest.raises(OverrideError, match=r"--dataset_dir: text \(a name or a path\) is needed, got 20240131"):
        command(monkeypatch, dataset_dir=20240131)
    with pytest.raises(OverrideError, match="--class_names: a list of names"):
        command(monkeypatch, class_names=[0, 1])
    with pytest.raises(OverrideError, match="max_epoch "):
        command(monkeypatch, max_epoch=1)


def test_what_only_another_config_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OverrideError, match="nothing reads --max_epochs"):
        command(monkeypatch, "--max_epochs", "3", config="inference.json")
    with pytest.raises(OverrideError, match="nothing reads --labelled"):
        command(monkeypatch, "--labelled", "true")


@pytest.mark.parametrize("bundle", sorted(path.name for path in BUNDLES.iterdir()))
def test_everything_in_the_bundles_is_read(bundle: str) -> None:
    """And so whatever is not has been misspelt."""
    from monai.bundle import ConfigParser

    configs = BUNDLES / bundle / "configs"
    for names in (["train"], ["train", "evaluate"], ["train", "paper"], ["train", "multi_gpu_train"], ["inference"]):
        parser = ConfigParser()
        parser.read_config([str(configs / f"{name}.json") for name in names])
        assert unread_ids(parser.config) == []


def test_what_an_override_leaves_unread_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """As federated learning does: the trainer is run for some epochs at a time."""
    given = {"total_epochs": 6, "train#trainer#max_epochs": 2, "run_name": "site 1"}
    assert command(monkeypatch, **given)["train#trainer#max_epochs"] == 2


def test_ids_of_an_own_config_may_be_read_by_it_or_run() -> None:
    own = {"my_rate": 0.1, "learning_rate": "@my_rate", "tune": ["$print(1)"], "_note": "mine", "forgotten": 3}
    assert unread_ids({**TRAIN, **own}) == ["forgotten"]
    assert unread_ids({**TRAIN, "start": "$print(1)"}, ["start"]) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"max_epoch": 3}, "did you mean 'max_epochs'"),
        ({"trainer#max_epochs": 3}, "nothing reads --trainer#max_epochs"),
        ({"train#handler": 3}, "did you mean 'train#handlers'"),
        ({"dataset_dir": 3}, "--dataset_dir"),
    ],
)
def test_overrides_of_our_own_commands(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(OverrideError, match=said):
        overridden(TRAIN, overrides)
    assert overridden(TRAIN, {"train#trainer#max_epochs": 3})["train#trainer#max_epochs"] == 3


@pytest.mark.parametrize("words", [["--seed"], ["--dataset_dir", "--seed", "3"], ["seed", "3"]])
def test_words_that_are_no_pairs(words: list[str]) -> None:
    with pytest.raises(ValueError, match="words for the bundle are ids and values"):
        parse_overrides(words)


def test_only_monais_own_command_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["monailabel", "--dataset_dir", "3"])
    assert typed_arguments() == {}
    assert settled({"dataset_dir": "x", "unknown": 3}, {}) == {"dataset_dir": "x"}


def test_wrong_words_of_policy_and_rule_name_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no code 'MISSING_SLICE'; .* \(did you mean 'MISSING_SLICES'"):
        Policy({"MISSING_SLICE": "skip"})
    with pytest.raises(ValueError, match="policy: 1 for MISSING_SLICES is none of error, skip, warn"):
        Policy({"MISSING_SLICES": 1})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"series_rule: no 'modalty'; .* \(did you mean 'modality'"):
        SeriesRule.of({"modalty": "CT"})
    with pytest.raises(ValueError, match="series_rule: description is text, in quotes, not 5"):
        SeriesRule.of({"description": 5})  # type: ignore[dict-item]
