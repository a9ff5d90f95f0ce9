"""Fixtures that parse command lines of `dormant train` but do not train. A test module's `FLAGS` are default flags."""

import pytest

from dormant.cli import run, train


@pytest.fixture
def built(monkeypatch, tmp_path, request):
    """A function that parses a command line of `dormant train`. It returns the training and does not run it."""
    trainings = []
    monkeypatch.setattr(train, "run", lambda training, *rest: trainings.append(training))
    monkeypatch.setattr(train, "keep_compiled_code", lambda: None)
    monkeypatch.setattr(train, "spread_seeds", lambda seeds: None)  # not possible, because JAX already has its devices

    def build(*arguments, **flags):
        """Returns the training. Keyword arguments are flags that replace those in `FLAGS`. None removes a flag."""
        flags = {**getattr(request.module, "FLAGS", {}), **flags}
        given = [part for name, value in flags.items() if value is not None for part in (f"--{name}", value)]
        assert run(["train", "--run-dir", str(tmp_path / "run"), *given, *arguments]) == 0
        return trainings.pop()

    return build


@pytest.fixture
def refused(built, capsys, tmp_path):
    """A function that runs a wrong command line and returns its one-line error. Fails if there is no error."""

    def refusal(*arguments, **flags):
        with pytest.raises(SystemExit) as exit:
            built(*arguments, **flags)
        assert exit.value.code == 2
        assert not (tmp_path / "run").exists()
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return refusal
