"""Losses of others, in two processes, are those of one with the whole batch; means of halves would not be."""

from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_processes import alone_and_shared

from medseg.errors import MedsegError
from medseg.losses.cross_entropy import CrossEntropyLoss
from medseg.losses.joined import JoinedLoss, over_processes
from medseg.losses.multi_output import MultiOutputLoss

CLASSES = 3
WEIGHTS = torch.tensor([0.2, 1.0, 5.0])


def of_two(outputs: Any, targets: Any) -> Tensor:
    """Of several outputs and targets, in an order that matters."""
    ordered = torch.arange(1, len(outputs["pred"]) + 1)[:, None, None, None]
    return (outputs["pred"] * ordered).square().mean() + (outputs["aux_1"] * targets["mask"]).sum() ** 2 / 100


def losses() -> list[Any]:
    dice_ce = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)
    return [
        dice_ce,
        DiceCELoss(softmax=True, to_onehot_y=True, weight=WEIGHTS),
        DiceLoss(softmax=True, to_onehot_y=True, batch=True, include_background=False, squared_pred=True),
        MultiOutputLoss([{"output": "pred", "loss": dice_ce}, {"output": "pred", "loss": CrossEntropyLoss([1, 2, 3])}]),
    ]


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, CLASSES, (4, 1, 6, 7), generator=generator)
    label[1::2] = (label[1::2] == 2).long()  # the second process sees few pixels of class 1, and none of class 2
    mask = torch.rand(4, 1, 6, 7, generator=generator) < 0.5
    return {"image": torch.randn(4, CLASSES, 6, 7, generator=generator), "label": label.to(torch.uint8), "mask": mask}


def results(rank: int | None) -> dict[str, Any]:
    batch = {name: value if rank is None else value[rank::2] for name, value in data().items()}
    found = []
    for loss in [*losses(), of_two]:
        torch.manual_seed(0)
        network: nn.Module = nn.Sequential(nn.Conv2d(CLASSES, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, CLASSES, 1))
        trained = network if rank is None else DistributedDataParallel(network)
        logits = trained(batch["image"])
        several = loss is of_two
        whole = over_processes(loss)
        value = whole({"pred": logits, "aux_1": 2 * logits}, batch) if several else whole(logits, batch["label"])
        value.backward()
        terms = getattr(whole, "last_terms", {})
        found.append({"loss": value.detach(), "terms": terms, "gradients": [p.grad for p in network.parameters()]})
    refused = ""
    if rank is not None:
        try:
            JoinedLoss(DiceLoss())(torch.ones(1, 1, 4 + rank), torch.ones(1, 1, 4 + rank))
        except MedsegError as error:
            refused = str(error)
    return {"losses": found, "refused": refused}


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    expected, found = alone_and_shared(results, tmp_path)
    for each in found:
        torch.testing.assert_close(each["losses"], expected["losses"], rtol=1e-5, atol=1e-6)
        assert each["refused"].startswith("the batches of 2 processes differ in size (1x1x4, 1x1x5)")


def test_means_of_halves_would_differ() -> None:
    """Else the test above could not tell."""
    batch = data()
    for loss in losses():
        halves = [float(loss(batch["image"][rank::2], batch["label"][rank::2])) for rank in range(2)]
        assert abs(sum(halves) / 2 - float(loss(batch["image"], batch["label"]))) > 1e-4


def test_one_process_keeps_its_loss() -> None:
    for loss in losses():
        assert over_processes(loss) is loss
    assert float(JoinedLoss(nn.MSELoss())(torch.ones(2), torch.zeros(2))) == 1
