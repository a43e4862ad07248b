"""Where nnU-Net finds the trainers by name: it imports every module of the folders in ``nnUNet_extTrainer``.

Without that variable (nnunetv2 before 2.8) a copy of this file in nnunetv2/training/nnUNetTrainer does the same.
"""

from dtkernels.nnunet.trainers import (
    nnUNetTrainerDiceBoundary,
    nnUNetTrainerDiceCEBoundary,
    nnUNetTrainerDiceCEHausdorff,
    nnUNetTrainerDiceHausdorff,
)

__all__ = [
    "nnUNetTrainerDiceBoundary",
    "nnUNetTrainerDiceCEBoundary",
    "nnUNetTrainerDiceCEHausdorff",
    "nnUNetTrainerDiceHausdorff",
]
