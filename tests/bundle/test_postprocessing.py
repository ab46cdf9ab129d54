"""Postprocessing chosen on validation cases, kept with the weights, and the same in evaluation and prediction."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prediction.test_model import save

from medseg.bundle import workflow
from medseg.bundle.data import load_data
from medseg.bundle.description import DescriptionError
from medseg.bundle.postprocessing import CANDIDATES, Choice
from medseg.bundle.record import read_weights
from medseg.bundle.seen import seen_by
from medseg.bundle.workflow import WorkflowError
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.metrics.score import ScoredCase
from medseg.prediction.model import load
from medseg.runs.header import read_header
from medseg.transforms.postprocess import Postprocess, Steps

NAMES = ["a", "b", "c"]


def case(guess: Any, truth: Any, name: str = "x", affine: Any = None) -> ScoredCase:
    return ScoredCase(0, name, torch.from_numpy(guess), torch.from_numpy(truth), affine=affine)


def dice(one: Any, other: Any) -> float:
    whole = one.sum() + other.sum()
    return float(2 * (one & other).sum() / whole) if whole else math.nan


def test_candidates_are_the_simple_ones_first() -> None:
    assert CANDIDATES[0] == Steps()
    assert len(set(CANDIDATES)) == len(CANDIDATES) == 14
    assert [len(steps.plain()) for steps in CANDIDATES] == sorted(len(steps.plain()) for steps in CANDIDATES)


def test_the_best_of_all_candidates_by_brute_force() -> None:
    random = np.random.default_rng(0)
    choice = Choice(NAMES, 255)
    means: dict[tuple[int, Steps], list[float]] = {}
    for _ in range(6):
        truth, guess = np.zeros((30, 30), np.int64), np.zeros((30, 30), np.int64)
        truth[5:20, 5:20] = guess[5:20, 5:20] = 1
        guess[random.random(guess.shape) < 0.08] = 1  # specks, which are not there
        guess[6:19, 6:19][random.random((13, 13)) < 0.1] = 0  # holes
        truth[22:28, 22:28] = guess[22:28, 22:28] = 2
        truth[29] = 255
        choice.update(case(guess, truth))
        seen = truth != 255
        for index in (1, 2):
            for steps in CANDIDATES:
                done = Postprocess({NAMES[index]: steps.plain()}, NAMES)(guess, None)
                means.setdefault((index, steps), []).append(dice((done == index) & seen, truth == index))
    first, second = choice.chosen()
    by_hand = {steps: float(np.mean(values)) for (index, steps), values in means.items() if index == 1}
    assert first.steps == max(by_hand, key=lambda steps: by_hand[steps])
    assert first.steps.fill_holes
    assert (first.before, first.after) == pytest.approx((by_hand[Steps()], by_hand[first.steps]))
    assert second.steps == Steps()  # nothing to mend
    assert (second.before, second.cases) == (second.after, 6)


def test_a_class_without_truth_and_one_that_is_never_predicted_have_no_steps() -> None:
    truth, guess = np.zeros((9, 9), np.int64), np.zeros((9, 9), np.int64)
    truth[2:5, 2:5], guess[0, 0] = 1, 2
    choice = Choice(NAMES)
    choice.update(case(guess, truth))
    first, second = choice.chosen()
    assert (first.steps, first.before, second.steps) == (Steps(), 0.0, Steps())
    with pytest.raises(MedsegError, match="y has a spacing, the cases before have none"):
        choice.update(case(guess[..., None], truth[..., None], "y", np.eye(4)))


def blocks(*corners: tuple[int, int], edge: int = 8, value: int = 1) -> Any:
    made = np.zeros((40, 40), np.int64)
    for row, column in corners:
        made[row : row + edge, column : column + edge] = value
    return made


def test_a_second_lesion_that_was_found_is_not_taken_for_the_sake_of_the_mean() -> None:
    """Of ten cases one has a small second lesion; each has something that is none. Dice alone takes both."""
    choice = Choice(["background", "lesion"])
    for number in range(10):
        truth, guess = blocks((2, 2), edge=14), blocks((2, 2), edge=14)
        truth[30:34, 30:34] = guess[30:34, 30:34] = number == 0
        guess[25:31, 2:8] = 1  # larger than the second lesion: no size tells them apart
        choice.update(case(guess, truth))
    (chosen,) = choice.chosen()
    best = CANDIDATES[int(np.nanmean(np.stack(choice.dice)[:, 1], axis=0).argmax())]
    assert best == Steps(min_size=100.0)
    assert (choice.taken[1, CANDIDATES.index(best)] == (11, 1)).all()
    assert (choice.taken[1, CANDIDATES.index(Steps(largest=True))] == (11, 1)).all()
    assert chosen.steps == Steps()


def test_many_nuclei_keep_their_number() -> None:
    """Specks go; neither the largest part nor a size that takes small nuclei is chosen."""
    random, choice = np.random.default_rng(0), Choice(["background", "nucleus"])
    for _ in range(4):
        truth = blocks((2, 2), (2, 20), (20, 2), edge=7) + blocks((20, 20), (30, 30), edge=4)
        guess = truth.copy()
        guess[(random.random(truth.shape) < 0.03) & (truth == 0)] = 1
        choice.update(case(guess, truth))
    (chosen,) = choice.chosen()
    assert chosen.steps.min_size == 10
    assert chosen.after > chosen.before
    done = Postprocess({"nucleus": chosen.steps.plain()}, ["background", "nucleus"])(guess, None)
    assert all(done[row, column] == 1 for row, column in [(2, 2), (2, 20), (20, 2), (20, 20), (30, 30)])


def test_what_is_not_there_may_go_from_cases_without_it() -> None:
    choice = Choice(["background", "lesion"])
    choice.update(case(blocks((2, 2), edge=12), blocks((2, 2), edge=12)))
    choice.update(case(blocks((30, 30), edge=3), np.zeros((40, 40), np.int64)))
    (chosen,) = choice.chosen()
    assert (chosen.steps, chosen.before, chosen.after) == (Steps(min_size=10.0), 0.5, 1.0)


@pytest.mark.parametrize(("names", "steps"), [(["ground", "a"], Steps()), (["background", "a"], Steps(largest=True))])
def test_what_is_taken_must_not_cost_class_0_more(names: list[str], steps: Steps) -> None:
    """A third class's pixels were called a; taken from it, they become class 0, which is an object in one of two."""
    names, choice = [*names, "c"], Choice([*names, "c"])
    guess = np.full((40, 40), 2)
    guess[2:18, 2:18] = 1  # a
    guess[22:38, 22:38] = 1  # which truly is c
    guess[0] = 0
    truth = np.where(blocks((22, 22), edge=16) == 1, 2, guess)
    choice.update(case(guess, truth))
    place = CANDIDATES.index(Steps(largest=True))
    done = Postprocess({"a": {"largest": True}}, names)(guess, None)
    assert choice.first[0][1, place] == pytest.approx(dice(done == 0, truth == 0))
    assert choice.dice[0][1, place] == pytest.approx(dice(done == 1, truth == 1)) == 1
    assert choice.chosen()[0].steps.largest == steps.largest


def test_what_class_0_has_after_each_candidate_by_brute_force() -> None:
    random, choice = np.random.default_rng(1), Choice(NAMES, 255)
    guess, truth = (np.where(random.random((20, 20)) < 0.5, random.integers(0, 3, (20, 20)), 1) for _ in range(2))
    truth[3] = 255
    choice.update(case(guess, truth))
    for index in (1, 2):
        for place, steps in enumerate(CANDIDATES):
            done = Postprocess({NAMES[index]: steps.plain()}, NAMES)(guess, None)
            by_hand = dice((done == 0) & (truth != 255), truth == 0)
            assert choice.first[0][index, place] == pytest.approx(by_hand)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose network speckles; each truth is what it predicts, of class b the largest part alone."""
    steps = Postprocess({"b": {"largest": True}}, NAMES)
    return run_of(tmp_path, lambda guess, _: steps(guess, None))


def run_of(tmp_path: Path, truth: Callable[[Any, int], Any], **options: Any) -> Path:
    """Return a run of six images, whose truths are made of what it predicts and of their number."""
    run, data = tmp_path / "run", tmp_path / "data"
    for folder in (run, data / "images", data / "labels"):
        folder.mkdir(parents=True)
    save(run / "model.pt", **options)
    model, entries = load(run, device="cpu"), []
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (32, 32)).astype(np.uint8)
        Image.fromarray(image).save(data / "images" / f"{number}.png")
        guess = model.predict(data / "images" / f"{number}.png").mask
        label = truth(guess, number)
        Image.fromarray(label).save(data / "labels" / f"{number}.png")
        files = {"image": f"images/{number}.png", "label": f"labels/{number}.png"}
        entries.append({**files, "group": str(number), "fold": number % 3})
    content = {"name": "specks", "version": 1, "modality": ["EM"], "licence": "CC0", "source": "here"}
    content |= {"labels": dict(zip("012", NAMES, strict=True)), "ignore_index": None}
    content |= {"training": entries, "validation": [], "test": []}
    (data / "datalist.json").write_text(json.dumps(content))
    held = load_data(data)
    used = dict(zip(("training", "validation"), held.split(0)[:2], strict=True))
    (run / ".place.json").write_text(json.dumps({"datalist": str(held.path), "seen": seen_by(held, used)}))
    (run / "config.yaml").write_text("fold: 0\nmlflow: false\n")
    return run


def test_chosen_kept_and_the_same_everywhere(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_header(run / "model.pt")
    plain = workflow.evaluate(run, overrides={"device": "cpu"}).scores
    assert main(["evaluate", str(run), "--choose-postprocessing", "device=cpu"]) == 0
    said = capsys.readouterr().out
    assert "postprocessing chosen on 2 validation cases" in said
    record = json.loads((run / "postprocessing.json").read_text())
    row = record["classes"][0]
    assert row["before"] < row["after"] <= 1.0
    assert f"{row['before']:.3f}" in said
    trained = read_weights(run / "model.pt").description
    assert trained is not None
    assert trained.postprocess == record["postprocess"] == {"b": row["steps"]}
    after = read_header(run / "model.pt")
    assert before is not None
    assert after is not None
    assert after["sha256"] == before["sha256"]

    scores = workflow.evaluate(run, overrides={"device": "cpu"}, scores={"distances": {"tolerance": 3}}).scores
    assert scores["distances"]["tolerance"] == 3
    assert scores["per_case"]["classes"][1]["dice"] > plain["per_case"]["classes"][1]["dice"]
    values = []
    for number in (0, 3):  # the test cases
        images = run.parent / "data" / "images"
        mask = load(run, device="cpu").predict(images / f"{number}.png").mask
        truth = np.array(Image.open(images.parent / "labels" / f"{number}.png"))
        values.append(dice(mask == 1, truth == 1))
    assert scores["per_case"]["classes"][1]["dice"] == pytest.approx(np.mean(values))
    workflow.choose_postprocessing(run, overrides={"device": "cpu"})  # anew, from the bare prediction
    assert json.loads((run / "postprocessing.json").read_text()) == record


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"scored": "test"}, "scored is 'test', but postprocessing is chosen on validation cases alone"),
        ({"fold": 1}, "fold=1 was given, but the run's own validation cases choose"),
        ({"validation_fold": 0}, "validation_fold=0 was given"),
    ],
)
def test_other_cases_have_no_say(run: Path, overrides: Any, message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        workflow.choose_postprocessing(run, overrides=overrides)
    assert not (run / "postprocessing.json").exists()


def test_a_model_with_unknown_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="postprocess names the class 'd'; the classes are a, b, c"):
        save(tmp_path / "model.pt", postprocess={"d": {"largest": True}})


def test_a_volume_is_mended_as_a_whole(tmp_path: Path) -> None:
    """In the millimetres of its file, whatever the model's axes."""
    import nibabel

    save(tmp_path / "plain.pt", dims=3)
    save(tmp_path / "mended.pt", dims=3, postprocess={"b": {"min_size": 20.0}, "c": {"largest": True}})
    array = np.random.default_rng(0).integers(0, 256, (16, 18, 20)).astype(np.uint8)
    affine = np.array([[0.0, -0.5, 0, 3], [2, 0, 0, 4], [0, 0, 3, 5], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "x.nii.gz")
    plain, mended = (
        load(tmp_path / f"{n}.pt", device="cpu").predict(tmp_path / "x.nii.gz").mask for n in ("plain", "mended")
    )
    expected = Postprocess({"b": {"min_size": 20.0}, "c": {"largest": True}}, NAMES)(plain, affine)
    assert (mended != plain).any()
    np.testing.assert_array_equal(mended, expected)


def test_a_choice_for_pictures_that_are_stored_as_volumes() -> None:
    """What is chosen is what is done: holes of one slice are filled in both."""
    truth = np.zeros((20, 20, 1), np.int64)
    truth[4:16, 4:16] = 1
    guess = truth.copy()
    guess[8:10, 8:10] = 0
    choice = Choice(NAMES, None)
    choice.update(case(guess, truth, affine=np.eye(4)))
    first, _ = choice.chosen()
    assert (first.steps, first.after) == (Steps(fill_holes=True), 1.0)
    np.testing.assert_array_equal(Postprocess({"b": first.steps.plain()}, NAMES)(guess, np.eye(4)), truth)
