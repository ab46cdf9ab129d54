"""The fastest bundle of natural images learns four real ones by heart; `benchmarks.overfit` does it with all."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from bundles.helpers import ROOT, SMALL_ENCODER, configs, monai_bundle

from benchmarks.overfit import overfit


def test_four_images_are_learnt(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "pascal_voc2012"
    script = [sys.executable, str(ROOT / "data_scripts" / "voc2012.py"), "--source", str(source), "--allow-partial"]
    subprocess.run([*script, "--output", str(tmp_path / "voc")], check=True, capture_output=True)

    def run(bundle: Path, overlays: list[Path | str], **options: Any) -> None:
        files = configs(bundle, *map(str, overlays))
        given = {name: value if isinstance(value, bool) else str(value) for name, value in options.items()}
        monai_bundle("run", cwd=tmp_path, config_file=files, device="cpu", **given)

    options = argparse.Namespace(
        work=tmp_path, voc=tmp_path / "voc", images=4, edge=65, encoder=SMALL_ENCODER, epochs=120, minutes=None,
        learning_rate=0.003, seed=0,
    )  # fmt: skip
    row = overfit("df_dam_voc", options, run)
    assert row["images"] == 4
    assert row["mean_iou"] > 0.9
    assert row["agreement_of_masks"] > 0.95
    assert row["mean_iou_multi_scale_flip"] > 0.3  # the network saw one scale alone
