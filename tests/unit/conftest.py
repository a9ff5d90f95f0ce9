"""Command lines of `dormant train`, which train nothing. `FLAGS` of a test module hold for all its command lines."""

import pytest

from dormant.cli import run, train


@pytest.fixture
def built(monkeypatch, tmp_path, request):
    """What a command line would train, without training it."""
    trainings = []
    monkeypatch.setattr(train, "run", lambda training, *rest: trainings.append(training))
    monkeypatch.setattr(train, "keep_compiled_code", lambda: None)
    monkeypatch.setattr(train, "spread_seeds", lambda seeds: None)  # JAX has its devices already

    def build(*arguments, **flags):
        """Keywords are flags, which replace the module's. None leaves a flag out."""
        flags = {**getattr(request.module, "FLAGS", {}), **flags}
        given = [part for name, value in flags.items() if value is not None for part in (f"--{name}", value)]
        assert run(["train", "--run-dir", str(tmp_path / "run"), *given, *arguments]) == 0
        return trainings.pop()

    return build


@pytest.fixture
def refused(built, capsys, tmp_path):
    """The one line on stderr that a command line is refused with."""

    def refusal(*arguments, **flags):
        with pytest.raises(SystemExit) as exit:
            built(*arguments, **flags)
        assert exit.value.code == 2
        assert not (tmp_path / "run").exists()
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return refusal
