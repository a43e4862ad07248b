"""Stands in for MONAI: ``monai.losses`` and ``monai.metrics``, each by a module of the same name."""
