"""What papers say that networks cost, beside the network and the settings that the figure belongs to.

To add a row, add one ``Row(...)`` to `ROWS`: its table, the label in the paper, the class, and the paper's figures.

C. Kaul et al., "FocusNet++", ISBI 2021, https://arxiv.org/abs/1912.02079, tables 2 and 3, prints "Params" and "FLOPs",
both in units of 10^8. Neither can be meant so:

- 10^8 is 10^6: U-Net with widths 32 to 512 has 7.8 million parameters, not 794 million.
- "FLOPs" are what a graph profiler gives without an image size: 2.00 to 2.03 per parameter for U-Net, Attention U-Net
  and FocusNet++ in table 2 (1.92 for BCDU-Net, 4.7 and 4.8 for UNet++ and FocusNet). No multiply-adds of an image
  compare with them; they are kept as printed.
- Table 3 has the columns of U-Net and FocusNet++ in the wrong order, those of BCDU-Net and FocusNet in the right one:
  no profiler counts less than one operation a parameter, and the text gives FocusNet++ "fewer than one million" of what
  the column calls FLOPs. So the smaller figure of each of these rows is taken for the parameters.
- Attention U-Net's 2.32 and 1.84 of table 3 are left as printed: at a quarter of U-Net's widths it has 2.18 million
  parameters here, nearer to 2.32. 1.84 operations for them are too few either way; FocusNet++'s row has 1.84 as well.

It prints no widths of the networks that it compares with: where a network's own are not near the figure, those here are
a half or a quarter of U-Net's, and of FocusNet and BCDU-Net in table 3 a half of their own. All stay within 7 % of the
figure taken, and the bundles' overlays build the same networks: tests/bundle/test_paper_tables_medical.py holds both.

R. Furukawa, K. Hotta, "Localized Feature Aggregation Module for Semantic Segmentation", SMC 2021,
https://arxiv.org/abs/2112.01702, compares six networks and prints neither parameters nor operations of any (only that
local windows cost 0.0466 of attention over whole maps); its rows are here so that they can be measured under its
settings.

N. R. Gurram, "Learning context with factorization techniques in semantic segmentation" (MFNet), figure 6, prints the
parameters of networks on ResNet-50 at output stride 16 for the 21 classes of PASCAL VOC.

Z. Xiong et al., "Differentiating Features for Scene Segmentation Based on Dedicated Attention Mechanisms" (DF-DAM),
https://arxiv.org/abs/1911.08149, tables 4 and 6, prints "GFLOPs" at 3x640x320. They are multiply-adds: the bare ResNets
alone take 7.40 and 31.83 of them, and twice as many operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from medseg.errors import MedsegError


@dataclass(frozen=True)
class Row:
    """A network, how it is built and fed, and what a paper says of it.

    Attributes:
        name: label of the row.
        target: dotted path of the class.
        in_channels: channels of the image.
        out_channels: classes.
        size: of the image in pixels, one edge for each spatial axis.
        kwargs: arguments of the constructor that are not its defaults.
        table: what chooses the row on the command line; empty for a network that is no row of a paper.
        source: paper and table that the figures are from.
        paper_parameters: in millions, digits as printed.
        paper_macs: multiply-adds of one image of that size in 10^9, digits as printed.
        paper_flops: a figure that the paper calls FLOPs without being that of an image, as printed.
    """

    name: str
    target: str
    in_channels: int
    out_channels: int
    size: tuple[int, ...] = (256, 256)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    table: str = ""
    source: str = ""
    paper_parameters: str = ""
    paper_macs: str = ""
    paper_flops: str = ""


_NETWORKS = "medseg.networks"
_HALF, _QUARTER = (32, 64, 128, 256, 512), (16, 32, 64, 128, 256)  # of U-Net's widths
_ISIC = Row("", "", 3, 1, table="2", source="FocusNet++, table 2")
_NUCLEI = Row("", "", 3, 1, table="3", source="FocusNet++, table 3")
_DROSOPHILA = Row("", "", 1, 5, table="lfa_unet", source="LFA U-Net, table 1")
_VOC = Row("", "", 3, 21, (513, 513), table="mfnet", source="MFNet, figure 6")
_CITYSCAPES = Row("", "", 3, 19, (640, 320), table="df_dam", source="DF-DAM, table 4")
_VOC_DAM = Row("", "", 3, 21, (640, 320), table="df_dam", source="DF-DAM, table 6")


def _row(
    like: Row, name: str, network: str, parameters: str = "", flops: str = "", macs: str = "", **kwargs: Any
) -> Row:
    """Return a row with the settings of its table."""
    return replace(
        like,
        name=name,
        target=f"{_NETWORKS}.{network}",
        kwargs=kwargs,
        paper_parameters=parameters,
        paper_flops=flops,
        paper_macs=macs,
    )


ROWS = (
    _row(_ISIC, "U-Net", "unet.UNet", "7.94", "16.12", channels=_HALF),
    _row(_ISIC, "UNet++", "unet_pp.UNetPP", "9.04", "42.44"),
    _row(_ISIC, "BCDU-Net", "bcdu_net.BCDUNet", "20.66", "39.76"),
    _row(_ISIC, "Attention U-Net", "attention_unet.AttentionUNet", "8.91", "17.82", channels=_HALF),
    _row(_ISIC, "FocusNet", "focusnet.FocusNet", "19.07", "91.36"),
    _row(_ISIC, "FocusNet++", "focusnet_pp.FocusNetPP", "7.80", "15.64"),
    _row(_NUCLEI, "U-Net", "unet.UNet", "1.89", "3.62", channels=_QUARTER),
    _row(_NUCLEI, "BCDU-Net", "bcdu_net.BCDUNet", "5.22", "9.98", channels=(32, 64, 128, 256)),
    _row(_NUCLEI, "Attention U-Net", "attention_unet.AttentionUNet", "2.32", "1.84", channels=_QUARTER),
    _row(_NUCLEI, "FocusNet", "focusnet.FocusNet", "5.03", "22.38", channels=(32, 64, 128, 256)),
    _row(_NUCLEI, "FocusNet++ light", "focusnet_pp.FocusNetPP", "0.98", "1.84", configuration="light"),
    _row(_DROSOPHILA, "U-Net", "unet.UNet"),
    _row(_DROSOPHILA, "Attention U-Net", "attention_unet.AttentionUNet"),
    _row(_DROSOPHILA, "R2U-Net (t = 2)", "r2unet.R2UNet"),
    _row(_DROSOPHILA, "SA-UNet", "sa_unet.SAUNet"),
    _row(_DROSOPHILA, "U-Net + self-attention", "self_attention_unet.SelfAttentionUNet"),
    _row(_DROSOPHILA, "LFA U-Net", "lfa_unet.LFAUNet"),
    _row(_VOC, "MFNet", "mfnet.MFNet", "29.73"),
    _row(_VOC, "DeepLabv3+", "deeplabv3_plus.DeepLabV3Plus", "40.45"),
    _row(_VOC, "EMANet", "emanet.EMANet", "34.65"),
    _row(_CITYSCAPES, "DF-DAM, ResNet-18", "df_dam.DFDAM", "11.57", macs="10.31"),
    _row(_VOC_DAM, "DF-DAM, ResNet-101", "df_dam.DFDAM", "43.24", macs="35.52", encoder="resnet101"),
)


@dataclass(frozen=True)
class Printed:
    """A table of scores as a paper prints it.

    Args:
        source: paper and table.
        kind: ``"pooled"`` over all pixels, or ``"per_case"``: most likely means over the images.
        unit: ``"%"``, or empty for shares of 1.
        columns: score and class of each, the class empty for the mean over the classes.
        rows: figures by the row's name in the paper, digits as printed.
        data: how the names of the data sets begin that the figures are of, as ``data_scripts`` names them.
        remark: what else a reader must know.
    """

    source: str
    kind: str
    unit: str
    columns: Sequence[tuple[str, str]]
    rows: Mapping[str, Sequence[str]]
    data: str
    remark: str = ""

    @property
    def note(self) -> str:
        """How the figures are meant."""
        how = "pooled over all pixels" if self.kind == "pooled" else "most likely means over the images"
        return f"{'in per cent' if self.unit else 'shares of 1'}, {how}{f'; {self.remark}' if self.remark else ''}"

    def cells(self, row: str) -> dict[str, str | None]:
        """Return the figures of a row under their headings; ``None`` where the paper has no such row."""
        figures = self.rows.get(row, [None] * len(self.columns))
        return {self._heading(*column): figure for column, figure in zip(self.columns, figures, strict=True)}

    def value(self, row: str, score: str, of_class: str) -> str | None:
        """Return one figure as printed, or ``None`` where it is not.

        Args:
            row: its name in the paper.
            score: such as ``iou``.
            of_class: a class, or empty for the mean.
        """
        return self.cells(row).get(self._heading(score, of_class))

    def share(self, row: str, score: str, of_class: str) -> str | None:
        """Return one figure as a share of 1, as ours are, with the digits that are printed; see `value`."""
        figure = self.value(row, score, of_class)
        return str(Decimal(figure).scaleb(-2)) if figure and self.unit else figure

    def shares(self, row: str) -> dict[str, str | None]:
        """Return the figures of a row as shares of 1 under their headings; ``None`` where there is no such row."""
        return {named(*column): self.share(row, *column) for column in self.columns}

    def other_data(self, name: str) -> str:
        """Return a sentence that the figures are of other data than those of this name; nothing where they are not."""
        if name.lower().startswith(self.data):
            return ""
        return (
            f"{self.source} is of other data than this table: the printed figures are of {self.data}, ours of "
            f"{name!r}; they do not compare"
        )

    def _heading(self, score: str, of_class: str) -> str:
        return named(score, of_class) + (f", {self.unit}" if self.unit else "")


def named(score: str, of_class: str) -> str:
    """Return the heading of a score of a class.

    Args:
        score: such as ``iou``.
        of_class: a class, or empty for the mean.
    """
    return " ".join(part for part in (_SCORES.get(score, score), of_class) if part)


_SCORES = {
    "iou": "IoU", "dice": "Dice", "accuracy": "pixel accuracy", "frequency_weighted_iou": "frequency-weighted IoU",
}  # fmt: skip


def _printed(
    source: str,
    columns: Sequence[tuple[str, str]],
    rows: str,
    *,
    data: str,
    kind: str = "pooled",
    unit: str = "%",
    remark: str = "",
) -> Printed:
    """Return a table of lines ``row: figure figure ...``."""
    lines = [line.rpartition(":") for line in rows.strip().splitlines()]
    held = {name.strip(): figures.split() for name, _, figures in lines}
    return Printed(source, kind, unit, columns, held, data, remark)


_CELL_IOU = [("iou", name) for name in ("", "membrane", "mitochondria", "synapse", "extracellular", "intracellular")]
_LUNG_IOU = [("iou", name) for name in ("", "background", "lungs other", "ground glass", "consolidation")]
_VOC_IOU = [("iou", "")] + [("iou", name) for name in (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)]  # fmt: skip
_MEAN_IOU = [("iou", "")]
_SERVER = "of the test server, whose labels nobody else has"

TABLES: Mapping[str, Printed] = {
    "lfa_unet_1": _printed("LFA U-Net, table 1", _CELL_IOU, """
        U-net: 71.34 73.16 81.16 43.35 66.23 92.78
        Attention U-Net: 71.97 72.76 82.57 45.14 66.73 92.65
        RU-Net (time-step = 2): 72.20 73.34 82.49 45.16 67.05 92.94
        SA-UNet: 72.18 73.36 82.08 45.24 67.24 92.95
        U-net + self-attention: 72.01 73.15 82.14 46.36 65.64 92.77
        U-net with ours: 72.80 73.22 82.43 49.06 66.56 92.71
    """, remark="the text has 72.69 for RU-Net", data="drosophila"),
    "lfa_unet_2": _printed("LFA U-Net, table 2", _LUNG_IOU, """
        U-net: 44.33 95.06 31.03 43.37 7.86
        Attention U-Net: 44.43 94.91 31.07 42.90 8.86
        RU-Net (time-step = 2): 44.97 95.62 31.29 44.85 8.12
        SA-UNet: 44.75 95.73 29.38 48.88 5.02
        U-net + self-attention: 44.69 95.15 31.73 42.31 9.58
        U-net with ours: 46.93 95.49 36.00 44.69 11.55
    """, data="covid"),
    "lfa_unet_3": _printed("LFA U-Net, table 3", _LUNG_IOU, """
        3: 46.62 94.32 36.61 40.13 15.44
        5: 46.77 95.25 36.09 44.00 11.74
        7: 46.95 95.19 37.32 45.05 10.25
        9: 46.74 95.30 35.05 44.82 11.77
        11: 47.05 95.37 35.87 44.97 12.00
    """, data="covid"),
    "lfa_unet_4": _printed("LFA U-Net, table 4", _LUNG_IOU, """
        Encoder: 46.95 95.19 37.32 45.05 10.25
        Decoder: 42.03 93.49 30.48 37.79 6.39
        None: 41.97 94.03 28.31 35.42 10.12
    """, data="covid"),
    "focusnet_pp_1": _printed("FocusNet++, table 1", [("precision", ""), ("recall", ""), ("dice", ""), ("iou", "")], """
        FCN: 0.7176 0.8966 0.7861 0.7013
        U-Net: 0.7398 0.9043 0.8167 0.7268
        Wide UNet: 0.7439 0.9167 0.8224 0.7334
        R2U-Net: 0.7381 0.9122 0.8271 0.7511
        BCU-Net: 0.7576 0.9272 0.8637 0.7665
        UNet++: 0.7516 0.8889 0.8437 0.7435
        Attn U-Net: 0.7526 0.9286 0.8741 0.7813
        FocusNet: 0.7805 0.9328 0.8676 0.7751
        FocusNet++: 0.8322 0.9471 0.9014 0.8271
    """, kind="per_case", unit="", remark="of the lesion alone", data="isic2018"),
    "focusnet_pp_3": _printed("FocusNet++, table 3", [("precision", ""), ("recall", "")], """
        U-Net: 0.8976 0.9052
        BCU-Net: 0.9024 0.9078
        Attn U-Net: 0.8782 0.9019
        FocusNet: 0.9016 0.8981
        FocusNet++: 0.9173 0.9139
    """, kind="per_case", unit="", remark="of the nuclei alone", data="dsb2018"),
    "multi_scale_1": _printed("multi-scale refinement, table 1", _MEAN_IOU, """
        Baseline (DeepLab-LargeFOV): 61.40
        Merged with MaxPooling: 63.88
        Merged with AvgPooling: 64.07
        Attention-to-Scale: 64.74
        Our method: 67.98
    """, data="voc2012"),
    "multi_scale_2": _printed("multi-scale refinement, table 2", _MEAN_IOU, """
        Base model: 64.74
        Base model+: 65.80
        Base model++: 66.83
        Our method: 67.98
    """, data="voc2012"),
    "multi_scale_3": _printed("multi-scale refinement, table 3", [("iou", ""), ("accuracy", "")], """
        ResNet34-dilated8 (Baseline): 32.67 76.41
        Baseline + attention-to-scale: 35.11 76.82
        Baseline + PSP: 36.43 78.01
        Baseline + our attention model: 37.07 78.57
        Baseline + our attention model + PSP: 38.21 79.29
    """, data="ade20k"),
    "mfnet_6": _printed("MFNet, figure 6", [("iou", ""), ("frequency_weighted_iou", "")], """
        MFNet: 68.97 85.71
        Deeplabv3+: 68.98 85.31
        EMNet: 70.05 85.32
    """, remark="figures 8 to 10 plot both by epoch: metrics.jsonl and curves.png of each cell", data="voc2012"),
    "df_dam_1": _printed("DF-DAM, table 1", _MEAN_IOU, """
        Res50, Sum: 68.2
        Res50, DAFM: 73.7
        Res50, DAFM + 2DPAM: 74.6
        Res101, Sum: 72.9
        Res101, DAFM: 76.8
        Res101, DAFM + 2DPAM: 77.9
    """, data="voc2012"),
    "df_dam_2": _printed("DF-DAM, table 2", _MEAN_IOU, """
        Res18, Sum: 70.3
        Res18, DAFM: 72.8
        Res18, DAFM + 2DPAM: 73.1
    """, data="cityscapes"),
    "df_dam_3": _printed("DF-DAM, table 3", _MEAN_IOU, """
        Ours (Res18): 73.1
        Ours (Res18), MS: 74.6
        Ours (Res18), MS, Flip: 74.9
    """, data="cityscapes"),
    "df_dam_4": _printed("DF-DAM, table 4", _MEAN_IOU, "Ours (ResNet18): 73.6", remark=_SERVER, data="cityscapes"),
    "df_dam_5": _printed("DF-DAM, table 5", _MEAN_IOU, """
        Ours (Res101): 77.90
        Ours (Res101), MS: 79.55
        Ours (Res101), MS, Flip: 79.83
    """, data="voc2012"),
    "df_dam_6": _printed("DF-DAM, table 6", _MEAN_IOU, "Ours (ResNet101): 82.3", remark=_SERVER, data="voc2012"),
    "df_dam_7": _printed("DF-DAM, table 7", _VOC_IOU, """
        Ours: 82.3 95.6 70.7 91.1 73.0 76.1 94.1 91.3 93.7 37.8 90.2 72.1 91.0 93.0 90.6 88.7 72.3 92.6 59.7 86.6 72.5
    """, remark=_SERVER, data="voc2012"),
}  # fmt: skip
"""Tables of scores by name; a study's ``paper`` names one."""


def printed(table: str) -> Printed:
    """Return a table of scores as its paper prints it.

    Args:
        table: its name in `TABLES`.

    Raises:
        MedsegError: if there is none.
    """
    if table not in TABLES:
        raise MedsegError(f"there is no printed table {table!r}; choose one of {', '.join(TABLES)}")
    return TABLES[table]
