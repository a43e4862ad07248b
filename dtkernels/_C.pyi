from typing import Any

built_with_cuda: bool

def cpu_instruction_set() -> str: ...
def cpu_transform(
    data: int,
    dtype: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    rule: int,
    threshold: float,
    spatial_dims: int,
    spacing: int,
    spacing_rows: int,
    is_signed: bool,
    squared: bool,
    closed: bool,
    to_faces: bool,
    out: int,
    extrema: int,
    threads: int,
) -> None: ...
def cpu_nearest(
    data: int,
    dtype: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    rule: int,
    threshold: float,
    spatial_dims: int,
    spacing: int,
    spacing_rows: int,
    distance: int,
    index: int,
    threads: int,
) -> None: ...
def cpu_label(
    data: int,
    dtype: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    rule: int,
    threshold: float,
    connectivity: int,
    labels: int,
    count: int,
    threads: int,
) -> None: ...
def cpu_envelope(
    f: int,
    wide: bool,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    spacing: int,
    spacing_rows: int,
    values: int,
    index: int,
    threads: int,
) -> None: ...
def cpu_scatter(grad: int, wide: bool, index: int, images: int, voxels: int, sums: int, threads: int) -> None: ...
def cpu_remap(
    maps: int,
    data: int,
    dtype: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    rule: int,
    threshold: float,
    spatial_dims: int,
    spacing: int,
    spacing_rows: int,
    inside: int,
    inner_zero: bool,
    closed: bool,
    formula: tuple[float, ...],
    extrema: int,
    labels: int,
    counts: int,
    threads: int,
) -> None: ...
def cpu_contour(
    data: int,
    dtype: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    rule: int,
    threshold: float,
    spatial_dims: int,
    connectivity: int,
    closed: bool,
    out: int,
    threads: int,
) -> None: ...
def cpu_weigh(
    prediction: int,
    shape: tuple[int, ...],
    prediction_stride: tuple[int, ...],
    threshold: float,
    target: int,
    dtype: int,
    target_stride: tuple[int, ...],
    rule: int,
    target_threshold: float,
    spatial_dims: int,
    spacing: int,
    spacing_rows: int,
    measure: int,
    squared: bool,
    shift: bool,
    soft: bool,
    sums: int,
    gradient: int,
    threads: int,
) -> None: ...
def cuda_device_info() -> dict[str, Any]: ...
def cuda_device_properties(device: int) -> tuple[int, int, int, int]: ...
def cuda_kernels() -> list[tuple[str, int]]: ...
def cuda_launch(
    kernel: int, grid: tuple[int, int, int], block: int, shared: int, params: bytes, stream: int, device: int
) -> None: ...
