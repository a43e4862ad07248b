"""Stands in for MONAI: ``monai.losses``, ``monai.metrics`` and ``monai.transforms``, by modules of the same
names."""
