"""A temperature fitted on validation cases, kept with the weights, and applied wherever probabilities are made."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle.test_postprocessing import NAMES, run_of
from prediction.test_model import save

from medseg.bundle import temperature, workflow
from medseg.bundle.description import DescriptionError
from medseg.bundle.pack import pack
from medseg.bundle.record import read_weights
from medseg.bundle.temperature import Fit, best_temperature
from medseg.bundle.workflow import WorkflowError
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.metrics.score import ScoredCase
from medseg.prediction.model import load
from medseg.prediction.predict import predict
from medseg.runs.header import read_header


def sampled(logits: torch.Tensor, seed: int) -> torch.Tensor:
    """Return labels drawn by the probabilities of logits ``(voxels, classes)``."""
    return torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def drawn(seed: int, voxels: int = 3000, classes: int = 4) -> torch.Tensor:
    return 2 * torch.randn(voxels, classes, generator=torch.Generator().manual_seed(seed))


def test_it_is_what_another_optimiser_finds() -> None:
    true = [drawn(number) for number in range(3)]
    labels = [sampled(each, number) for number, each in enumerate(true)]
    logits = [2.5 * each for each in true]  # two and a half times too sure
    found = best_temperature(logits, labels)
    power = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([power], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        each = [
            torch.nn.functional.nll_loss((a.double() / power.exp()).log_softmax(1), b)
            for a, b in zip(logits, labels, strict=True)
        ]
        loss = torch.stack(each).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    assert found == pytest.approx(float(power.detach().exp()), rel=1e-4)
    assert found == pytest.approx(2.5, rel=0.05)


def see(fit: Fit, logits: torch.Tensor, labels: torch.Tensor, group: str, blocks: int = 1) -> None:
    for some, truth in zip(logits.chunk(blocks), labels.chunk(blocks), strict=True):
        fit.see(some.T[..., None], truth[:, None])
    fit.update(ScoredCase(0, group, labels[:, None], labels[:, None], group))


def test_voxels_are_drawn_evenly_over_blocks_and_without_those_that_count_for_nothing(monkeypatch: Any) -> None:
    monkeypatch.setattr(temperature, "DRAWN", 500)
    fit = Fit(NAMES, 255)
    logits = torch.zeros(4000, 3)
    logits[:, 0] = torch.arange(4000)
    labels = torch.zeros(4000, dtype=torch.long)
    labels[1000:2000] = 255
    see(fit, logits, labels, "a", blocks=8)
    places = fit.logits[0][:, 0]
    assert len(places) == len(set(places.tolist())) == 500
    assert not ((places >= 1000) & (places < 2000)).any()
    quarters = torch.histc(places, 4, 0, 4000)
    assert quarters[1] == 0
    assert ((quarters[[0, 2, 3]] - 500 / 3).abs() < 50).all()  # five deviations


def test_one_channel_is_the_logit_of_the_second_class() -> None:
    fit = Fit(["a", "b"])
    true = 2 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    labels = (torch.rand(4000, generator=torch.Generator().manual_seed(1)) < true[:, 0].sigmoid()).long()
    see(fit, 3 * true[:2000], labels[:2000], "a")
    see(fit, 3 * true[2000:], labels[2000:], "b")
    found = fit.fitted()
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.after.error < 0.03 < found.before.error


def test_what_helps_no_other_group_is_not_kept() -> None:
    fit = Fit(["a", "b", "c", "d"])
    for group, factor in (("a", 0.5), ("b", 4.0)):  # one half is unsure, the other too sure
        true = drawn(1)
        see(fit, factor * true, sampled(true, 2), group)
    found = fit.fitted()
    assert found.elsewhere is not None
    assert found.elsewhere.loss > found.before.loss
    assert (found.temperature, found.found > 1) == (1.0, True)
    assert "none is kept" in found.table().notes[0].lower()


def test_of_one_group_it_is_said_that_nothing_is_known_of_others() -> None:
    fit = Fit(["a", "b", "c", "d"])
    see(fit, 2 * drawn(1), sampled(drawn(1), 2), "a")
    found = fit.fitted()
    assert found.elsewhere is None
    assert found.temperature == pytest.approx(2, rel=0.1)
    assert "not known" in found.table().notes[1]
    with pytest.raises(MedsegError, match="no validation case has a labelled voxel"):
        Fit(["a", "b"]).fitted()


def blurred(guess: Any, number: int) -> Any:
    """Return labels of which most are drawn anew: the network is surer than it is right."""
    random = np.random.default_rng(number)
    anew = random.random(guess.shape) < 0.8
    return np.where(anew, random.integers(0, 3, guess.shape), guess).astype(np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(tmp_path, blurred, sure=1000.0)


def powered(probabilities: Any, of: float) -> Any:
    """Return what other probabilities become at a temperature: a softmax of their logarithms over it."""
    power = np.asarray(probabilities, np.float64) ** (1 / of)
    return power / power.sum(0)


def test_fitted_kept_and_the_same_everywhere(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = run.parent / "data" / "images" / "3.png"
    before = load(run, device="cpu").predict(image, probabilities=True, uncertainty=True)
    hashed, plain = read_header(run / "model.pt"), workflow.evaluate(run, overrides={"device": "cpu"}).scores
    assert main(["evaluate", str(run), "--calibrate", "device=cpu"]) == 0
    said = capsys.readouterr().out
    assert "temperature fitted to 2 validation cases" in said
    record = json.loads((run / "calibration.json").read_text())
    found = record["temperature"]
    trained, after = read_weights(run / "model.pt").description, read_header(run / "model.pt")
    assert trained is not None
    assert after is not None
    assert hashed is not None
    assert trained.temperature == found != 1
    assert after["sha256"] == hashed["sha256"]
    assert record["other_half"]["loss"] < record["before"]["loss"]

    here = load(run, device="cpu").predict(image, probabilities=True, uncertainty=True)
    assert before.probabilities is not None
    assert here.probabilities is not None
    np.testing.assert_array_equal(here.mask, before.mask)
    np.testing.assert_allclose(here.probabilities, powered(before.probabilities, found), atol=3e-3)
    assert (here.numbers["uncertainty"] > before.numbers["uncertainty"]) == (found > 1)
    again = workflow.evaluate(run, overrides={"device": "cpu"}).scores
    assert again["overlap"] == plain["overlap"]
    assert again["calibration"]["error"] < plain["calibration"]["error"]

    packed = load(pack(run, tmp_path / "packed.zip").path, device="cpu").predict(image, probabilities=True)
    np.testing.assert_array_equal(packed.probabilities, here.probabilities)  # type: ignore[arg-type]
    workflow.calibrate(run, overrides={"device": "cpu"})  # anew, from the bare logits
    assert json.loads((run / "calibration.json").read_text()) == record


def test_fitted_to_the_fold_that_was_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run that trained on all other folds; those cases are no test list, which is refused."""
    assert main(["evaluate", str(run), "--calibrate", "scored=test", "device=cpu"]) == 0
    assert "temperature fitted to 2 held-out cases" in capsys.readouterr().out
    record = json.loads((run / "calibration.json").read_text())
    assert (record["fitted_on"], record["cases"]) == ("held-out", 2)
    trained = read_weights(run / "model.pt").description
    assert trained is not None
    assert trained.temperature == record["temperature"] != 1
    assert not (run / "tested.json").exists()
    place = run.parent / "data" / "datalist.json"
    content = json.loads(place.read_text())
    rows = [{key: value for key, value in row.items() if key != "fold"} for row in content["training"]]
    place.write_text(json.dumps({**content, "training": rows[:2], "validation": rows[2:4], "test": rows[4:]}))
    (run / "config.yaml").write_text("fold: null\nmlflow: false\n")
    with pytest.raises(WorkflowError, match="it left none out: a test list is for testing alone"):
        workflow.calibrate(run, overrides={"scored": "test", "device": "cpu"}, allow_seen=True)
    assert json.loads((run / "calibration.json").read_text()) == record


def test_members_of_an_ensemble_have_their_own(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    save(tmp_path / "plain.pt", sure=1000.0)
    for name, of in (("a", 0.5), ("b", 3.0)):
        save(tmp_path / f"{name}.pt", sure=1000.0, temperature=of)
    bare = load(tmp_path / "plain.pt", device="cpu").predict(image, probabilities=True).probabilities
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    both = load(files, device="cpu").predict(image, probabilities=True).probabilities
    np.testing.assert_allclose(both, (powered(bare, 0.5) + powered(bare, 3.0)) / 2, atol=3e-3)


def test_probabilities_of_another_temperature_do_not_pass_for_these(run: Path, tmp_path: Path) -> None:
    images, output = run.parent / "data" / "images", tmp_path / "out"
    plain = {"device": "cpu", "num_workers": 0}
    predict(run, images, output, outputs=["probabilities"], overrides=plain)
    workflow.calibrate(run, overrides={"device": "cpu"})
    with pytest.raises(MedsegError, match="overwrite"):
        predict(run, images, output, outputs=["probabilities"], overrides=plain)


@pytest.mark.parametrize("of", [0, -1.0, math.nan, math.inf, "warm"])
def test_a_temperature_that_is_none_is_refused(tmp_path: Path, of: Any) -> None:
    with pytest.raises(DescriptionError, match=r"temperature is .*; give a number above 0"):
        save(tmp_path / "model.pt", temperature=of)


def test_other_cases_and_truths_without_a_fault_are_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(WorkflowError, match="scored is 'training', but a temperature is fitted on validation cases"):
        workflow.calibrate(run, overrides={"scored": "training"})
    (tmp_path / "sure").mkdir()
    sure = run_of(tmp_path / "sure", lambda guess, _: guess, sure=1000.0)
    kept = (sure / "model.pt").read_bytes()
    with pytest.raises(MedsegError, match="the best temperature is at the end of what is looked for"):
        workflow.calibrate(sure, overrides={"device": "cpu"})
    assert (sure / "model.pt").read_bytes() == kept
    assert not (sure / "calibration.json").exists()
    assert main(["evaluate", str(run), "--calibrate", "--json"]) == 2
