"""One run: a network trained by Lightning under one loss, tested on the held-out cases."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as lightning
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, IterableDataset

from dtkernels import metrics
from dtkernels.data import Dataset

from .cases import Batch, Volumes, split
from .criteria import Criterion, one_hot
from .experiments import Experiment
from .networks import MULTIPLE, Network, Prediction
from .settings import Settings

Report = Callable[[int], Any]  # called with the steps done
METRICS = ("dice", "jaccard", "hd95", "asd", "nsd")
CURVE_POINTS = 40
TOLERANCE = 1.0  # of NSD, mm


def run(
    experiment: Experiment,
    seed: int,
    fold: int,
    dataset: Dataset,
    settings: Settings,
    report: Report = lambda step: None,
    accelerator: str = "cpu",
) -> dict[str, Any]:
    """Train and test; returns what the result file holds."""
    lightning.seed_everything(seed, verbose=False)
    training, test = split(len(dataset.cases), fold, settings)
    volumes = Volumes([dataset.cases[i] for i in training], settings)
    classes = len(dataset.classes)
    network = Network(experiment, classes, settings)
    criterion = Criterion(experiment)
    pretraining = volumes.batches(settings.pretraining, seed + 1)
    criterion.prepare(one_hot(batch.label, classes) for batch in pretraining)

    module = Module(network, criterion, settings, report)
    fit(module, volumes, seed, settings, accelerator)
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    network.to(device).eval()
    criterion.to(device)

    shares = loss_shares(network, criterion, volumes, seed, device)
    started = time.process_time()
    scores = evaluate(network, dataset, test, settings, MULTIPLE[experiment.network], device)
    return {
        "experiment": experiment.name,
        "definition": experiment.as_json(),
        "seed": seed,
        "fold": fold,
        "settings": settings.as_json(),
        "data": {"name": dataset.name, "classes": list(dataset.classes), "training": len(training)},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": {
            "unit": "CPU seconds of the process" if device.type == "cpu" else "seconds",
            "iteration": module.seconds / settings.steps,
            **shares,
            "training": module.seconds,
            "test": time.process_time() - started,
        },
        "curve": module.curve(),
        "diverged": not all(math.isfinite(x) for x in module.curve()),
        "cases": [dataset.cases[i].name for i in test],
        "scores": scores,
    }


class Module(lightning.LightningModule):
    """AdamW with a one-cycle rate, the same for every loss; Adam does not see a loss's scale."""

    def __init__(self, network: Network, criterion: Criterion, settings: Settings, report: Report) -> None:
        super().__init__()
        self.network, self.criterion = network, criterion
        self.settings, self.report = settings, report
        self.seconds = 0.0
        self.losses: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        """One rate per step."""
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.settings.peak_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.settings.peak_rate, total_steps=self.settings.steps + 1, pct_start=0.2
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch."""
        loss: Tensor = self.criterion(self.network(batch.image), batch.label, batch.spacing)
        self.losses.append(loss.detach())
        return loss

    def on_train_start(self) -> None:
        """The clock starts."""
        self._started = clock(self.device)

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """An epoch of the schedule may be over, whatever the number of steps."""
        epochs, steps = self.settings.epochs, self.settings.steps
        for _ in range((index + 1) * epochs // steps - index * epochs // steps):
            self.criterion.epoch()
        self.report(index + 1)

    def on_train_end(self) -> None:
        """The clock stops."""
        self.seconds = clock(self.device) - self._started

    def curve(self) -> list[float]:
        """The loss over the training, in a few means."""
        losses = torch.stack(self.losses).float().cpu()
        pieces = losses.tensor_split(min(CURVE_POINTS, len(losses)))
        return [float(f"{piece.mean():.4g}") for piece in pieces]


class Stream(IterableDataset[Batch]):
    """The batches of a run."""

    def __init__(self, volumes: Volumes, steps: int, seed: int) -> None:
        self.volumes, self.steps, self.seed = volumes, steps, seed

    def __iter__(self) -> Iterator[Batch]:
        """From the first on."""
        return self.volumes.batches(self.steps, self.seed)


def fit(module: Module, volumes: Volumes, seed: int, settings: Settings, accelerator: str) -> None:
    """Train, silently."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|lightning_utilities")
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step")
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=1,
            max_steps=settings.steps,
            deterministic="warn",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module.train(), DataLoader(Stream(volumes, settings.steps, seed), batch_size=None))


def clock(device: torch.device) -> float:
    """CPU seconds of this process, which a busy machine does not stretch; on a GPU seconds, when it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


class MapClock(TorchDispatchMode):
    """Seconds in dtkernels' operators."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.seconds = device, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Time the operators of this library, call the others."""
        if func.namespace != "dtk":
            return func(*args, **(kwargs or {}))
        started = clock(self.device)
        result = func(*args, **(kwargs or {}))
        self.seconds += clock(self.device) - started
        return result


def loss_shares(
    network: Network, criterion: Criterion, volumes: Volumes, seed: int, device: torch.device, rounds: int = 6
) -> dict[str, float]:
    """Seconds of an iteration in the loss, forward and backward, and of these in distance maps."""
    total = maps = 0.0
    for number, batch in enumerate(volumes.batches(rounds + 1, seed + 2)):
        batch = Batch(*(x.to(device) if isinstance(x, Tensor) else x for x in batch))
        with torch.no_grad():
            prediction = network(batch.image)
        leaf = Prediction(*(None if x is None else x.detach().requires_grad_() for x in prediction))
        started = clock(device)
        criterion(leaf, batch.label, batch.spacing).backward()
        loss_seconds = clock(device) - started
        with MapClock(device) as watch:
            criterion(leaf, batch.label, batch.spacing)
        if number:  # the first warms up
            total += loss_seconds
            maps += watch.seconds
    return {"loss": total / rounds, "maps": maps / rounds}


@torch.no_grad()
def evaluate(
    network: Network, dataset: Dataset, test: list[int], settings: Settings, multiple: int, device: torch.device
) -> dict[str, Any]:
    """Every metric of every case and class but the background: metric -> case -> class.

    A missed organ has the length of the image's diagonal for a distance, and 0 for the others. A class that is
    neither there nor predicted has no value (null).
    """
    cases = [dataset.cases[i] for i in test]
    volumes = Volumes(cases, settings)
    scores: dict[str, list[list[float | None]]] = {name: [] for name in METRICS}
    missed = []
    for case, prepared in zip(cases, volumes.prepared, strict=True):
        image = torch.as_tensor(prepared["image"]).as_subclass(Tensor)[None].to(device)
        window = [min(settings.window, multiple * math.ceil(n / multiple)) for n in image.shape[2:]]
        logits = sliding_window_inference(image, window, 1, lambda x: network(x).logits, mode="gaussian")
        assert isinstance(logits, Tensor)
        prediction = logits.argmax(1).to(torch.uint8)
        target = case.label[None].to(device)
        words: dict[str, Any] = {
            "num_classes": len(dataset.classes),
            "include_background": False,
            "spatial_dims": 3,
        }
        surface = metrics.surface_metrics(
            prediction, target, case.spacing, tolerances=(TOLERANCE,), on_empty="diagonal", **words
        )
        overlap = metrics.overlap_metrics(prediction, target, **words)
        values = {**overlap, **surface, "nsd": surface.nsd[0]}
        for name in METRICS:
            scores[name].append([_rounded(x) for x in values[name][0].tolist()])
        missed.append((surface.pred_empty & ~surface.target_empty)[0].tolist())
    return {**scores, "missed": [[int(m) for m in row] for row in missed]}


def _rounded(x: float) -> float | None:
    return float(f"{x:.5g}") if math.isfinite(x) else None
