"""``DistanceTransformEDT`` and ``DistanceTransformEDTd`` as in ``monai.transforms`` (1.6).

>>> import numpy as np
>>> from dtkernels.compat.monai.transforms import DistanceTransformEDT, DistanceTransformEDTd
>>> image = np.array([[[0, 1, 1, 1], [0, 1, 1, 1]]])
>>> DistanceTransformEDT(sampling=0.5)(image)
array([[[0. , 0.5, 1. , 1.5],
        [0. , 0.5, 1. , 1.5]]])
>>> DistanceTransformEDTd("label")({"label": image})["label"].max().item()
3.0

Images are (C, H, W) or (C, H, W, D), arrays or tensors; the result is of the image's kind, float64 on CPUs and
float32 on GPUs as MONAI's are.

Differences from MONAI, on purpose:

* a channel without background is +inf throughout; MONAI answers with distances to a point outside the image;
* sampling must be positive and finite;
* on a GPU the tensor stays there whether or not cuCIM is installed;
* the classes do not inherit from MONAI's ``Transform``, so MONAI need not be installed; ``Compose`` takes any
  callable.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .. import ndimage


class DistanceTransformEDT:
    """Distance of every foreground voxel to the background, channel by channel."""

    def __init__(self, sampling: float | Sequence[float] | None = None) -> None:
        """As MONAI's.

        Args:
            sampling: distance between voxels: None (1), a number, or one per spatial axis.
        """
        self.sampling = sampling

    def __call__(self, img: Any) -> Any:
        """The distances of an image.

        Args:
            img: (C, H, W) or (C, H, W, D), non-zero in the foreground.

        Raises:
            RuntimeError: another number of dimensions, or ``sampling`` of the wrong length.
        """
        if not 3 <= img.ndim <= 4:
            raise RuntimeError("Wrong input dimensionality. Use (num_channels, H, W [,D])")
        if isinstance(img, torch.Tensor):
            plain = img.as_subclass(torch.Tensor)
            exact = plain.device.type == "cpu"
            fields = [
                ndimage.distance_transform_edt(c, self.sampling, float64_distances=exact) for c in plain.unbind()
            ]
            result = torch.stack(fields) if fields else plain.double()
            return result if type(img) is torch.Tensor else type(img)(result)
        channels = [ndimage.distance_transform_edt(channel, self.sampling) for channel in img]
        return np.stack(channels) if channels else np.zeros(img.shape)


class DistanceTransformEDTd:
    """:class:`DistanceTransformEDT` of some entries of a dictionary."""

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        allow_missing_keys: bool = False,
        sampling: float | Sequence[float] | None = None,
    ) -> None:
        """As MONAI's.

        Args:
            keys: of the entries.
            allow_missing_keys: leave out keys that the dictionary lacks.
            sampling: as in :class:`DistanceTransformEDT`.
        """
        several = isinstance(keys, Iterable) and not isinstance(keys, (str, bytes))
        self.keys: tuple[Hashable, ...] = tuple(keys) if several else (keys,)  # type: ignore[arg-type, assignment]
        if not self.keys:
            raise ValueError("keys must be non empty.")
        for key in self.keys:
            if not isinstance(key, Hashable):
                raise TypeError(
                    f"keys must be one of (Hashable, Iterable[Hashable]) but is {type(keys).__name__}."
                )
        self.allow_missing_keys = allow_missing_keys
        self.sampling = sampling
        self.distance_transform = DistanceTransformEDT(sampling)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A new dictionary with the entries transformed.

        Args:
            data: the dictionary.

        Raises:
            KeyError: a key is missing that may not be.
        """
        result = dict(data)
        for key in self.keys:
            if key in result:
                result[key] = self.distance_transform(result[key])
            elif not self.allow_missing_keys:
                raise KeyError(
                    f"Key `{key}` of transform `{type(self).__name__}` was missing in the data"
                    " and allow_missing_keys==False."
                )
        return result


DistanceTransformEDTD = DistanceTransformEDTDict = DistanceTransformEDTd
