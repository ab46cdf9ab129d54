"""Loading scenes is measured of what a bundle's training loads: pictures of the asked size, cut to its crop."""

import time
from pathlib import Path

import pytest

from benchmarks import scene_loading
from benchmarks.scene_loading import Release


@pytest.mark.parametrize("bundle", scene_loading.SCENES)
def test_samples_are_the_training_s(bundle: str, tmp_path: Path) -> None:
    classes = ["background", "thing", "other"]
    scene_loading.write_release(tmp_path, Release(160, 128, ".jpg"), classes, 2)
    dataset, crop = scene_loading.dataset_of(bundle, tmp_path)
    whole, cut = dataset.whole(1), dataset[1]
    assert tuple(whole["image"].shape) == (3, 128, 160)
    assert set(whole["label"].unique().tolist()) <= {0, 1, 2}
    assert len(whole["label"].unique()) > 1
    assert tuple(cut["image"].shape) == (3, *crop)
    assert dataset.augmentation is not None


def test_what_takes_processor_time_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by 3 ms a sample that is read, 2 a sample augmented, and not where nothing is done."""
    clock = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    real = scene_loading.dataset_of

    def slow(bundle: str, folder: Path) -> object:
        dataset, crop = real(bundle, folder)
        whole, augmented = dataset.whole, dataset.augmented

        def reading(index: int) -> object:
            clock[0] += 0.003
            return whole(index)

        def augmenting(sample: object, seed: int) -> object:
            clock[0] += 0.002
            return augmented(sample, seed)  # type: ignore[arg-type]

        dataset.whole, dataset.augmented = reading, augmenting  # type: ignore[method-assign, assignment]
        return dataset, crop

    monkeypatch.setattr(scene_loading, "dataset_of", slow)
    found = scene_loading.measured("refine_multi_scale_voc", 4, 2, Release(160, 128, ".jpg"))
    assert (found["read"], found["augment"], found["ready_tensors"]) == pytest.approx((3, 2, 0))
    assert (found["pictures"], found["crop"], found["format"]) == ([160, 128], [321, 321], "jpg")
