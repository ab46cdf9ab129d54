"""The same normalisation in training, validation and prediction."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import AsDiscreted, Compose
from PIL import Image
from torch import Tensor, nn

from medseg.bundle.description import Description
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.engines.trainer import Trainer
from medseg.inferers.multi_scale_flip import MultiScaleFlipInferer
from medseg.inferers.normalise import NormalisingInferer
from medseg.inferers.sliding_window import SlidingWindow
from medseg.io.load import LoadImagesd
from medseg.prediction.predictor import ImageFolder, Predictor
from medseg.runs.run import Run
from medseg.transforms.normalise import ImageNormalisation

CPU = torch.device("cpu")


class Recording(nn.Module):
    """Keep what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.head(x)
        return logits


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, Any]]:
    """Two colour pictures of 8 x 10 and their labels."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(2):
        row = {"image": str(tmp_path / "images" / f"{number}.png"), "label": str(tmp_path / f"{number}.png")}
        Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(row["image"])
        Image.fromarray(rng.integers(0, 2, (8, 10), dtype=np.uint8)).save(row["label"])
        rows.append(row)
    return rows


def description(intensity: dict[str, str]) -> Description:
    network = {"name": "toy", "in_channels": 3, "out_channels": 2}
    content = {"name": "toy", "network": network, "input": {"intensity": intensity}, "classes": ["none", "some"]}
    return Description.of(content)


def test_the_three_engines_show_the_network_the_same(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    """By hand: (value / 255 - mean) / std, from 8-bit samples."""
    mean, std = [0.5, 0.25, 0.125], [0.5, 0.25, 2.0]
    inferer = NormalisingInferer(ImageNormalisation(mean, std))
    network = Recording()
    load = [LoadImagesd(keys=["image", "label"], keep_uint8=True)]
    data = SegmentationDataset(entries, load)
    assert data[0]["image"].dtype == torch.uint8
    expected = [
        (np.asarray(Image.open(row["image"])).transpose(2, 0, 1) / 255 - np.reshape(mean, (3, 1, 1)))
        / np.reshape(std, (3, 1, 1))
        for row in entries
    ]

    evaluator = Evaluator(CPU, data, network, {0: "none", 1: "some"}, inferer=inferer, precision="fp32")
    evaluator.score(network)
    validated, network.seen = network.seen, []
    assert evaluator.result().cases[0]["image"].max() > 200  # pictures show what was read

    trainer = Trainer(
        max_epochs=1,
        device=CPU,
        dataset=data,
        network=network,
        loss_function=lambda logits, label: nn.functional.cross_entropy(logits, label[:, 0].long()),
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        run=Run(tmp_path / "run", tracking=False),
        inferer=inferer,
        precision="fp32",
    )
    for sample in (data[0], data[1]):
        image, _ = trainer.prepare_batch({key: value[None] for key, value in sample.items()}, CPU, False)
        trainer.inferer(image, trainer.network)
    trained, network.seen = network.seen, []

    model = description({"scheme": "imagenet"})
    folder = ImageFolder(tmp_path / "images", model, tmp_path / "masks")
    finish = Compose([AsDiscreted(keys="pred", argmax=True)])
    Predictor(CPU, folder, network, inferer, finish, description=model, precision="fp32").run()
    predicted = network.seen

    for seen in (validated, trained, predicted):
        assert len(seen) == 2
        for one, values in zip(seen, expected, strict=True):
            np.testing.assert_allclose(one[0].numpy(), values, atol=1e-5)


def test_without_normalisation_8_bit_images_reach_the_network_as_numbers(
    entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = description({"scheme": "none"})
    folder = ImageFolder(tmp_path / "images", model, tmp_path / "masks")
    network = Recording()
    finish = Compose([AsDiscreted(keys="pred", argmax=True)])
    Predictor(CPU, folder, network, SlidingWindow([8, 8]), finish, description=model, precision="fp32").run()
    assert network.seen[0].dtype == torch.float32
    assert len(list((tmp_path / "masks").glob("*.png"))) == len(entries)


def test_around_other_inferers() -> None:
    pixels = torch.randint(0, 256, (1, 3, 12, 15), dtype=torch.uint8)
    normalise = ImageNormalisation()
    network = Recording()
    inner = MultiScaleFlipInferer([0.5, 1.0], inferer=SlidingWindow([8, 8]))
    found = NormalisingInferer(normalise, inner)(pixels, network)
    torch.testing.assert_close(found, inner(normalise(pixels), network))
