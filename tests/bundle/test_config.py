"""Configuration keys that nothing reads, and arguments that nothing takes."""

import pytest

from medseg.bundle.config import ConfigError, check_config

BASE = {
    "device": "cpu",
    "network_def": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
    "learning_rate": 0.1,
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network_def.parameters()", "lr": "@learning_rate"},
    "train": {"trainer": {"_target_": "torch.nn.Identity", "x": "@optimizer"}, "extra": {"a": 1}},
    "run": ["$@train#trainer()", "$@train#extra#a"],
}
ENTRIES = ("initialize", "run", "finalize")


def test_a_sound_configuration_passes() -> None:
    check_config(BASE, ENTRIES)
    assert set(BASE) == {"device", "network_def", "learning_rate", "optimizer", "train", "run"}


def test_unknown_top_level_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"key `netwrok_def`.*did you mean `network_def`"):
        check_config({**BASE, "netwrok_def": {}}, ENTRIES)
    with pytest.raises(ConfigError, match=r"key `learning_rat`.*did you mean `learning_rate`"):
        check_config({**BASE, "learning_rat": 1}, ENTRIES)


def test_unknown_key_in_a_section() -> None:
    with pytest.raises(ConfigError, match=r"key `train#trainr`.*did you mean `train#trainer`"):
        check_config({**BASE, "train": {**BASE["train"], "trainr": 1}}, ENTRIES)  # type: ignore[dict-item]


def test_unknown_argument_names_the_component() -> None:
    network = {"_target_": "torch.nn.Linear", "in_features": 2, "out_feature": 3}
    with pytest.raises(ConfigError, match=r"torch\.nn\.Linear takes no `out_feature`.*did you mean `out_features`"):
        check_config({**BASE, "network_def": network}, ENTRIES)


def test_unknown_component() -> None:
    with pytest.raises(ConfigError, match=r"torch\.nn\.Liner, which cannot be imported"):
        check_config({**BASE, "network_def": {"_target_": "torch.nn.Liner"}}, ENTRIES)
