"""All runs of a study in worker processes, each with one result file; a run whose file stands is skipped."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .experiments import Experiment
from .settings import Settings


class Job(NamedTuple):
    """One run, and where its result goes."""

    experiment: Experiment
    seed: int
    fold: int
    path: Path

    @property
    def title(self) -> str:
        """For the progress bar."""
        return f"{self.experiment.name}, seed {self.seed}, fold {self.fold}"


class OtherResultError(Exception):
    """A result file stands that another definition or other settings have made."""


def jobs(experiments: Sequence[Experiment], results: Path) -> Iterator[Job]:
    """Every run; first seed of all experiments first, so that an interrupted study compares them all."""
    for number in range(max((len(e.runs()) for e in experiments), default=0)):
        for experiment in experiments:
            if number < len(experiment.runs()):
                seed, fold = experiment.runs()[number]
                yield Job(experiment, seed, fold, results / f"{experiment.name}-s{seed}-f{fold}.json")


def stands(job: Job, settings: Settings) -> bool:
    """Whether the run's result is there; files are moved into place when they are complete."""
    if not job.path.exists():
        return False
    record = json.loads(job.path.read_text())
    if record["definition"] != job.experiment.as_json() or record["settings"] != settings.as_json():
        raise OtherResultError(
            f"{job.path} was made by another definition of {job.experiment.name} or with other settings: "
            "remove it, or give another folder with --results"
        )
    return True


def write(path: Path, record: dict[str, Any]) -> None:
    """All of a file or nothing of it; numbers that are not finite are refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """The record with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_all(
    todo: Sequence[Job], folder: Path, settings: Settings, console: Console, *, workers: int, accelerator: str
) -> list[str]:
    """Run every job; returns one line for each that failed. Interrupted, it loses at most the jobs at work."""
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    failures: list[str] = []
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(news, str(folder), accelerator)
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        whole = bar.add_task("[bold]runs", total=len(todo))
        futures: dict[Future[float], Job] = {pool.submit(_work, job, settings, accelerator): job for job in todo}
        bars: dict[str, TaskID] = {}
        try:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                _follow(news, bar, bars, settings.steps)
                for future in done:
                    job = futures[future]
                    bar.advance(whole)
                    if (task := bars.pop(job.title, None)) is not None:
                        bar.remove_task(task)
                    line = _outcome(job, future)
                    failures += [line] if future.exception() else []
                    count = f"{len(futures) - len(waiting)} of {len(futures)}"
                    console.print(f"{count}: {line}", markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
    pool.shutdown()
    return failures


def _outcome(job: Job, future: Future[float]) -> str:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return f"{job.title}: its worker process was killed; run the command again"
    if error is not None:
        return f"{job.title}: {type(error).__name__}: {error}"
    return f"{job.title}: {future.result():.0f} CPU s"


def _follow(news: Any, bar: Progress, bars: dict[str, TaskID], steps: int) -> None:
    """What the workers have reported since."""
    while True:
        try:
            title, step = news.get_nowait()
        except queue.Empty:
            return
        if title not in bars:
            bars[title] = bar.add_task(title, total=steps)
        bar.update(bars[title], completed=step)


# ---- in a worker process -----------------------------------------------------------------------------

_news: Any = None
_folder = ""
_dataset: Any = None


def _start(news: Any, folder: str, accelerator: str) -> None:
    global _news, _folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    import torch

    if accelerator == "cpu":
        torch.set_num_threads(1)
    _news, _folder = news, folder


def _leave_with_the_parent() -> None:
    """A worker whose parent was killed would wait for its next job for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Job, settings: Settings, accelerator: str) -> float:
    """Run and write; returns the CPU seconds."""
    import time

    from .. import measure
    from . import cases, training

    global _dataset
    if _dataset is None:  # here, and not at the start, so that a file that cannot be read is a message
        _dataset = cases.load(_folder)

    def report(step: int) -> None:
        if step % 10 == 0:
            _news.put((job.title, step))

    started, wall = time.process_time(), time.perf_counter()
    record = training.run(job.experiment, job.seed, job.fold, _dataset, settings, report, accelerator)
    seconds = time.process_time() - started
    machine = measure.machine()
    record["seconds"] |= {"cpu": seconds, "wall": time.perf_counter() - wall}
    record["machine"] = {key: machine[key] for key in ("date", "python", "processor")} | {
        "torch": machine["versions"]["torch"],
        "monai": machine["versions"]["monai"],
        "dtkernels": machine["versions"]["dtkernels"],
    }
    write(job.path, finite(record))
    return seconds
