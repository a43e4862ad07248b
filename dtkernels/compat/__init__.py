"""Drop-in replacements: change one import line, keep the rest.

Each module mirrors the signatures of one library, with its words for spacing, and lists in its docstring where it
differs on purpose. None of these libraries is needed to import dtkernels; nothing is imported here.

=============================  ==============================================================================
``dtkernels.compat.``          stands in for
=============================  ==============================================================================
``ndimage``                    ``distance_transform_edt`` of ``scipy.ndimage`` and ``cupyx.scipy.ndimage``
``edt``                        ``edt``: ``edt``, ``edtsq``, ``sdf``, ``sdfsq`` of label maps
``monai``                      ``monai.losses``, ``monai.metrics``, ``monai.transforms``
``medpy``                      ``medpy.metric.binary``
``surface_distance``           ``surface_distance``
``torchmetrics``               ``HausdorffDistance`` of ``torchmetrics.segmentation``
=============================  ==============================================================================
"""
