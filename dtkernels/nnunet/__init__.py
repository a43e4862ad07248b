"""Distance losses in nnU-Net v2: beside its Dice, on the fly, at every scale of deep supervision.

:class:`DeepSupervisionSafeLoss` joins nnU-Net's region loss and a distance loss on nnU-Net's targets. It needs
torch alone. ``dtkernels.nnunet.trainers`` has the trainers that build it and imports nnunetv2. nnU-Net finds them
by name once it is told where to look (nnunetv2 2.8 and later)::

    export nnUNet_extTrainer=$(python -m dtkernels.nnunet)
    nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerDiceBoundary
"""

from .loss import DeepSupervisionSafeLoss, reading_options

__all__ = ["DeepSupervisionSafeLoss", "reading_options"]
