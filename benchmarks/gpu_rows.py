"""What `benchmarks.gpu` measures and trains, by worth; rows and printed figures of papers are those of the studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from medseg.studies.paper_figures import printed
from medseg.studies.study import StudyRow, read_study

_NETWORKS = "medseg.networks"
HALF, QUARTER = (32, 64, 128, 256, 512), (16, 32, 64, 128, 256)  # of U-Net's widths
_VOLUME = (48, 64, 48)  # what every hippocampus fits into


@dataclass(frozen=True)
class Measured:
    """A network at its paper's crop and batch, its bundle's where the paper names none.

    Attributes:
        name: of the row.
        target: dotted path of the class below `medseg.networks`.
        size: of the image.
        batch: images a step.
        in_channels: channels of the image.
        out_channels: classes.
        kwargs: arguments of the constructor that are not its defaults.
        compiled: measured through ``torch.compile`` too.
    """

    name: str
    target: str
    size: tuple[int, ...] = (256, 256)
    batch: int = 8
    in_channels: int = 3
    out_channels: int = 2
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    compiled: bool = False

    @property
    def path(self) -> str:
        """Dotted path of the class."""
        return f"{_NETWORKS}.{self.target}"


def _tissue(name: str, target: str, **kwargs: Any) -> Measured:
    return Measured(f"Drosophila: {name}", target, in_channels=1, out_channels=5, **kwargs)


def _lesion(name: str, target: str, **kwargs: Any) -> Measured:
    return Measured(f"ISIC: {name}", target, kwargs=kwargs)


def _nuclei(name: str, target: str, **kwargs: Any) -> Measured:
    return Measured(f"nuclei: {name}", target, kwargs=kwargs)


def _scene(name: str, target: str, edge: int, batch: int, classes: int, **kwargs: Any) -> Measured:
    return Measured(name, target, (edge, edge), batch, out_channels=classes, kwargs=kwargs)


def _volume(name: str, target: str) -> Measured:
    kwargs = {"channels": (32, 64, 128, 256), "norm": ("instance", {"affine": True})}
    return Measured(f"hippocampus: {name}", target, _VOLUME, 8, 1, 3, kwargs)


MEASURED = (
    _tissue("LFA U-Net", "lfa_unet.LFAUNet", compiled=True),
    _tissue("U-Net", "unet.UNet", compiled=True),
    _tissue("Attention U-Net", "attention_unet.AttentionUNet"),
    _tissue("R2U-Net (t = 2)", "r2unet.R2UNet"),
    _tissue("SA-UNet", "sa_unet.SAUNet"),
    _tissue("U-Net + self-attention", "self_attention_unet.SelfAttentionUNet"),
    _volume("LFA U-Net", "lfa_unet.LFAUNet"),
    _volume("U-Net", "unet.UNet"),
    _nuclei("FocusNet++ light", "focusnet_pp.FocusNetPP", configuration="light"),
    _nuclei("U-Net", "unet.UNet", channels=QUARTER),
    _nuclei("BCDU-Net", "bcdu_net.BCDUNet", channels=(32, 64, 128, 256)),
    _nuclei("Attention U-Net", "attention_unet.AttentionUNet", channels=QUARTER),
    _nuclei("FocusNet", "focusnet.FocusNet", channels=(32, 64, 128, 256)),
    Measured("ISIC: FocusNet++", "focusnet_pp.FocusNetPP", compiled=True),
    _lesion("U-Net", "unet.UNet", channels=HALF),
    _lesion("UNet++", "unet_pp.UNetPP"),
    _lesion("BCDU-Net", "bcdu_net.BCDUNet"),
    _lesion("FocusNet", "focusnet.FocusNet"),
    _lesion("FCN-8s", "fcn8s.FCN8s", norm="batch"),
    _scene("DF-DAM, ResNet-18, Cityscapes", "df_dam.DFDAM", 1024, 8, 19),
    _scene("DF-DAM, ResNet-50, VOC", "df_dam.DFDAM", 512, 16, 21, encoder="resnet50.tv_in1k"),
    _scene("MFNet", "mfnet.MFNet", 513, 4, 21),
    _scene("DeepLabv3+", "deeplabv3_plus.DeepLabV3Plus", 513, 4, 21),
    _scene("EMANet", "emanet.EMANet", 513, 4, 21),
    _scene("refinement, LargeFOV", "multi_scale.MultiScaleRefinement", 321, 10, 21, base="largefov"),
    _scene("attention to scale", "multi_scale.AttentionToScale", 321, 10, 21),
    _scene("merge by maximum", "multi_scale.MultiScalePooling", 321, 10, 21),
    _scene("DeepLab-LargeFOV", "deeplab_largefov.DeepLabLargeFOV", 321, 10, 21),
    _scene("refinement, ResNet-34", "multi_scale.MultiScaleRefinement", 384, 16, 150, base="resnet34_dilated"),
    _scene("PSPNet", "psp_net.PSPNet", 384, 16, 150, grid_channels=512),
    _scene("ResNet-34-dilated-8", "dilated_resnet.DilatedResNet", 384, 16, 150),
)


@dataclass(frozen=True)
class Training:
    """A training: what is trained on what, and which measured step it takes.

    Attributes:
        item: that it belongs to: ``"drosophila"`` or ``"dsb2018"``.
        network: as the paper calls it.
        overlays: of the bundle, in order.
        split: ``"fold"`` (sections), ``"fold_random"`` or ``"lists"``.
        fold: that is left out.
        images: that it trains on, whole data set given.
        measured: name of the row of `MEASURED` whose step it takes.
        variant: what is not the paper's, as a reader calls it.
        settings: of the configuration that make it so.
        passes: over the data, where they are not those that were planned for all rows of the item.
    """

    item: str
    network: str
    overlays: tuple[str, ...]
    split: str
    fold: int | None
    images: int
    measured: str
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 0

    @property
    def name(self) -> str:
        """Key of the row."""
        part = {"fold": "section fold", "fold_random": "random fold", "lists": "the paper's division"}[self.split]
        network = f"{self.network} ({self.variant})" if self.variant else self.network
        return f"{network}, {part}" + ("" if self.fold is None else f" {self.fold}")


_CALLED = {"R2U-Net": "R2U-Net (t = 2)"}  # as the records of earlier calls have it


def _rows(study: str) -> dict[str, StudyRow]:
    """Return the rows of a shipped study by the network's name."""
    return {_CALLED.get(row.name, row.name): row for row in read_study(study).rows}


def _in_print(study: str) -> dict[str, tuple[float, ...]]:
    """Return the paper's figures of a shipped study by the network's name, in the order of the printed columns."""
    table = printed(read_study(study).paper)
    return {name: tuple(float(figure) for figure in table.rows[row.paper]) for name, row in _rows(study).items()}


_TABLE_1, _TABLE_3 = "lfa_unet_1", "focusnet_pp_3"
_BY_WORTH = ("LFA U-Net", "U-Net", "Attention U-Net", "SA-UNet", "U-Net + self-attention", "R2U-Net (t = 2)")
_NUCLEI_BY_WORTH = ("FocusNet++ light", "U-Net", "BCDU-Net", "Attention U-Net", "FocusNet")
TISSUE = {name: _rows(_TABLE_1)[name].overlays for name in _BY_WORTH}
NUCLEI = {name: _rows(_TABLE_3)[name].overlays for name in _NUCLEI_BY_WORTH}
BUNDLE = {item: read_study(name).rows[0].bundle for item, name in (("drosophila", _TABLE_1), ("dsb2018", _TABLE_3))}
CLASSES = tuple(name for _, name in printed(_TABLE_1).columns if name)
TABLE_1 = _in_print(_TABLE_1)  # mean IoU and IoU of CLASSES in per cent
TABLE_3 = _in_print(_TABLE_3)  # precision and recall


def _tissues(networks: Mapping[str, tuple[str, ...]], split: str, fold: int) -> list[Training]:
    return [
        Training("drosophila", name, overlays, split, fold, 192, f"Drosophila: {name}")
        for name, overlays in networks.items()
    ]


_FIRST = {name: TISSUE[name] for name in ("LFA U-Net", "U-Net")}
_OTHERS = {name: overlays for name, overlays in TISSUE.items() if name not in _FIRST}
_LONG = 350  # passes
_LFA = _tissues(TISSUE, "fold_random", 0)[0]
TRAININGS = (  # by worth
    *_tissues(_FIRST, "fold_random", 0),
    # bfloat16 keeps 8 bits: are they too few for a softmax over products that nothing scales?
    replace(_LFA, variant="fp32", settings={"precision": "fp32"}),
    replace(_LFA, variant="scaled softmax", settings={"network_def#scale": None}),
    *_tissues({"U-Net": TISSUE["U-Net"]}, "fold", 0),
    *(Training("dsb2018", name, overlays, "lists", None, 161, f"nuclei: {name}") for name, overlays in NUCLEI.items()),
    *_tissues({"LFA U-Net": TISSUE["LFA U-Net"]}, "fold", 0),
    *_tissues(_OTHERS, "fold_random", 0),
    # does LFA U-Net learn its training crops, once it has more passes?
    *(replace(row, variant=f"{_LONG} passes planned", passes=_LONG) for row in _tissues(_FIRST, "fold_random", 0)),
    *(row for fold in range(1, 5) for row in _tissues(_FIRST, "fold_random", fold)),
    *_tissues(_OTHERS, "fold", 0),
)
