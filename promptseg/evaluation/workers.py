"""Runs tasks in this process or in several; a process that dies takes down nothing but the case it was on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from ..data.parallel import end_with_parent
from .registry import SegmenterSpec
from .segmenters import InteractiveSegmenter
from .work import CaseTask, failed_case, run_case, write_case_file

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
"""A case during which the process died is tried so often, alone the second time."""

_built: tuple[SegmenterSpec, InteractiveSegmenter] | None = None


def run_tasks(tasks: Sequence[CaseTask], workers: int, threads: int | None) -> None:
    """Computes tasks; each leaves its files.

    Args:
        tasks: in the order of models, so that a process holds one model at a time.
        workers: processes; 1 for this one.
        threads: of each; None to divide the cores.

    Raises:
        ValueError: if a segmenter cannot be built.
    """
    if not tasks:
        return
    each = threads or max(1, (os.cpu_count() or 1) // workers)
    with _progress(len(tasks)) as bar:
        if workers == 1:
            for task in tasks:
                bar.set_description(f"{task.spec.name}: {task.case.name}", refresh=False)
                if threads:
                    _limit_threads(threads)
                run_in_worker(task)
                bar.update()
            _forget_model()
        else:
            _run_in_pools(tasks, min(workers, len(tasks)), each, bar)


def run_in_worker(task: CaseTask) -> bool:
    """Computes one task with the process's segmenter, which is made when the model changes."""
    global _built
    if _built is None or _built[0] != task.spec:
        _built = None
        _built = (task.spec, task.spec.build())
        _limit_torch_threads()
    run_case(task, _built[1])
    return True


def _forget_model() -> None:
    global _built
    _built = None


def _run_in_pools(tasks: Sequence[CaseTask], workers: int, threads: int, bar: Any) -> None:
    """Keeps ``workers`` tasks under way; after a death, those that were are tried again, one at a time."""
    waiting, alone = list(tasks), []
    attempts: dict[CaseTask, int] = {}
    while waiting or alone:
        queue, parallel = (waiting, workers) if waiting else (alone, 1)
        with _pool(parallel, threads) as pool:
            under_way: dict[Future[bool], CaseTask] = {}
            try:
                while queue or under_way:
                    while queue and len(under_way) < parallel:
                        task = queue[0]
                        under_way[pool.submit(run_in_worker, task)] = task  # raises, too, if a process has died
                        attempts[task] = attempts.get(task, 0) + 1
                        queue.pop(0)
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        task = under_way[future]
                        future.result()
                        del under_way[future]
                        bar.set_description(f"{task.spec.name}: {task.case.name}", refresh=False)
                        bar.update()
            except BrokenProcessPool:
                for task in under_way.values():
                    if attempts[task] < MAX_ATTEMPTS:
                        alone.append(task)
                        continue
                    logger.warning("the process died on %s/%s", task.case.dataset, task.case.name)
                    write_case_file(task, failed_case(task, "the process died, most likely of too little memory"))
                    bar.update()


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that have started: what breaks them afterwards is the case they are on.

    Raises:
        ValueError: if they do not start.
    """
    context, arguments = multiprocessing.get_context("spawn"), (threads, sys.path[:])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=arguments) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"workers={workers}: the processes die when they start; a script that calls run_evaluation has to do "
                'so under `if __name__ == "__main__":`, and with too little memory fewer workers help'
            ) from error
        yield pool


def _start_worker(threads: int, path: list[str]) -> None:
    end_with_parent()
    sys.path[:] = path
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = str(threads)
    logging.getLogger("promptseg").setLevel(logging.ERROR)


def _limit_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _limit_torch_threads() -> None:
    torch, threads = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdigit():
        torch.set_num_threads(int(threads))


def _progress(total: int) -> Any:
    """A bar on a terminal; elsewhere (a log file) a line every half minute, from the first half minute on."""
    from tqdm import tqdm

    pause = 0.1 if sys.stderr.isatty() else 30.0
    delay = 0.0 if sys.stderr.isatty() else pause
    return tqdm(total=total, unit="case", file=sys.stderr, mininterval=pause, delay=delay, leave=False)
