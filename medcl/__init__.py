"""medcl: contrastive pretraining of medical encoders and segmentation from a handful of labels."""

__version__ = "0.1.0"
