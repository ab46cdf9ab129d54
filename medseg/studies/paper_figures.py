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

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


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
