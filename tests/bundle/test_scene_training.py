"""Trainings of scene bundles: from the weights of a whole network, and as the author of MFNet published it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle.test_fit import write
from monai.bundle import ConfigParser

from medseg.bundle import workflow
from medseg.bundle.networks import create
from medseg.errors import MedsegError
from medseg.runs.checkpoint import load_checkpoint, network_weights
from medseg.runs.run_folder import CONFIG, METRICS

BUNDLE = "df_dam_voc"
# a rate at which no weight moves, so that what comes out is what training started from
STILL: dict[str, Any] = {
    "network_def#encoder": "test_resnet", "network_def#channels": 8, "network_def#freeze_batch_norm": True,
    "network_def#norm": None, "device": "cpu", "mlflow": False, "max_epochs": 1, "batch_size": 2, "patch": [32, 32],
    "learning_rate": 1e-30, "fold": 0, "weight_decay": 1e-30,
}  # fmt: skip


def test_a_training_starts_from_whole_weights_and_fetches_none(tmp_path: Path) -> None:
    """As for a test server: the weights of one training, tuned on other images; the encoder's are not asked for."""
    data = write(tmp_path, [(64, 60)] * 6, channels=3)
    arguments = {"encoder": "test_resnet", "channels": 8, "norm": None, "freeze_batch_norm": True}
    network = create("df_dam", 2, 3, 2, seed=7, **arguments)
    torch.save(network.state_dict(), tmp_path / "other.pt")
    overrides = {**STILL, "start_from": str(tmp_path / "other.pt"), "output_dir": str(tmp_path / "run")}
    run = workflow.train(BUNDLE, data=data, overrides=overrides)
    found, given = network_weights(load_checkpoint(run / "model.pt")), network.state_dict()
    torch.testing.assert_close({**found}, {**given}, rtol=0, atol=0)
    (epoch,) = map(json.loads, (run / METRICS).read_text().splitlines())
    terms = {"loss_pred", "loss_aux_spatial", "loss_aux_context"}
    assert terms | {"val_mean_iou", "val_frequency_weighted_iou"} < epoch.keys()
    recorded = ConfigParser.load_config_file(run / CONFIG)
    assert (recorded["start_from"], recorded["encoder_weights"]) == (str(tmp_path / "other.pt"), "random")
    again = {**STILL, "start_from": str(run), "output_dir": str(tmp_path / "again")}
    second = workflow.train(BUNDLE, data=data, overrides=again)  # the folder of a run
    torch.testing.assert_close({**network_weights(load_checkpoint(second / "model.pt"))}, {**given}, rtol=0, atol=0)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path, [(64, 60)] * 6, channels=3)
    torch.save(create("df_dam", 2, 3, 2, encoder="test_resnet", channels=12).state_dict(), tmp_path / "other.pt")
    for start, message in ((tmp_path / "other.pt", "start_from .*other.pt"), (tmp_path / "none.pt", "none.pt")):
        with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
            workflow.train(BUNDLE, data=data, overrides={**STILL, "start_from": str(start)})
        error: BaseException | None = caught.value
        while error is not None and error.__cause__ is not None:
            error = error.__cause__
        assert isinstance(error, MedsegError)
        assert re.search(message, str(error))


def test_as_published_leaves_two_convolutions_as_they_start(tmp_path: Path) -> None:
    """Blurred, scaled and mirrored samples; the optimiser has the encoder, Y, Z and the decoder alone."""
    data = write(tmp_path, [(80, 76)] * 6, channels=3)
    small = {"encoder": "test_resnet", "multi_grid": [2], "channels": 8, "low_channels": 4, "factors": 3}
    overrides = {f"network_def#{key}": value for key, value in small.items()} | {
        **{"device": "cpu", "mlflow": False, "max_epochs": 1, "batch_size": 2, "patch": [33, 33], "fold": 0},
        **{"encoder_weights": "random", "handlers": [], "network_def#factor_size": [3, 3], "seed": 3},  # no warm-up
    }
    run = workflow.train(
        "mfnet_voc", data=data, overlays=["as_published"], overrides={**overrides, "output_dir": str(tmp_path / "run")}
    )
    options = {"inner_dropout": 0.5, "dropout": 0.1, "low_rank_path": False, "factor_size": [3, 3]}
    start = create("mfnet", 2, 3, 2, seed=3, **small, **options).state_dict()
    last = network_weights(load_checkpoint(run / "checkpoints" / "last.pt"))
    still = {name for name, value in last.items() if torch.equal(value, start[name])}
    assert {name for name in still if name.endswith("weight")} == {
        *("factorisation.conv1.weight", "conv2.conv.weight", "conv2.adn.N.weight")
    }
    assert not {"factorisation.bases", "factorisation.factors", "decoder.classify.weight"} & still
    (epoch,) = map(json.loads, (run / METRICS).read_text().splitlines())
    assert epoch["loss_recon"] > 0
    assert epoch["loss"] == pytest.approx(epoch["loss_pred"] / 2 + 0.1 * epoch["loss_recon"] / 2, rel=1e-3)
