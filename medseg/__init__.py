"""medseg: attention networks for image segmentation as MONAI bundles."""

__version__ = "0.1.0"
