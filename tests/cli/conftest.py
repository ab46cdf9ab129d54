import numpy as np
import pytest
from PIL import Image

from medseg.data.datalist import Datalist


@pytest.fixture
def datalist(tmp_path):
    rng = np.random.default_rng(0)
    entries = []
    for n in range(14):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(tmp_path / f"i{n}.png")
        Image.fromarray(rng.integers(0, 2, (16, 16), dtype=np.uint8)).save(tmp_path / f"l{n}.png")
        entries.append({"image": f"i{n}.png", "label": f"l{n}.png", "group": f"g{n}", "fold": n % 2})
    return Datalist(
        name="toy",
        version=1,
        modality=("EM",),
        licence="CC0-1.0",
        source="here",
        labels={0: "a", 1: "b"},
        training=entries,
        path=tmp_path / "datalist.json",
    ).save()
