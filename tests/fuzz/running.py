"""Runs one program, and turns exceptions of the library into an outcome."""

import traceback
import warnings
from pathlib import Path

import dormant

from .oracles import Failure, Outcome
from .program import Program
from .source import Framework

LIBRARY = str(Path(dormant.__file__).parent)


def run(program: Program, framework: Framework) -> Outcome:
    """Runs a program and returns its outcome. An exception inside the library is a failure. Raises other exceptions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _backend(framework)(program)
        except Exception as error:
            frames = [
                frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(LIBRARY)
            ]
            if not frames:
                raise
            where = f"{Path(frames[-1].filename).name}, {frames[-1].name}"
            return Outcome(failures=[Failure(f"{type(error).__name__} in {where}", str(error)[:300])])


def _backend(framework: Framework):
    if framework == "jax":
        from .jax_backend import run_jax

        return run_jax
    from .torch_backend import run_torch

    return run_torch
