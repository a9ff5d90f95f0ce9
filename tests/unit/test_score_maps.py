"""Score maps: the colours, the size and the caption of a picture, and runs without scores or with damaged scores."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from dormant.lab.drawing import COLUMNS, PALETTE, ROWS, address, levels, score_maps
from dormant.lab.runs.folder import RunFolder, RunRefused


def decoded(data: str) -> np.ndarray:
    head, _, body = data.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB"))


def test_every_level_has_its_colour():
    picture = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert decoded(address(picture)).reshape(16, 3).tolist() == [list(colour) for colour in PALETTE]


def test_wide_layers_and_long_runs_are_thinned():
    scores = np.random.default_rng(0).gamma(1.0, size=(1000, 500))
    assert levels(scores, 0.1).shape == (ROWS, COLUMNS) and levels(scores, 0.1).max() == 14


def write(path, rows):
    path.mkdir()
    (path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunFolder(path)


def test_maps_are_the_first_seeds(tmp_path):
    rows = [
        {"seed": seed, "agent_steps": steps, "scores/conv": [0.0, 2.0 * seed], "scores/dense": [1.0, 1.0, 1.0]}
        for steps in (0, 5) for seed in (3, 4)
    ]  # fmt: skip
    conv, dense = score_maps(write(tmp_path / "run", rows), 0.1)
    assert (conv.layer, conv.seed, conv.neurons, conv.agent_steps, conv.dormant) == ("conv", 3, 2, 5, 0.5)
    assert dense.dormant == 0 and decoded(conv.image).shape == (2, 2, 3)


def test_a_run_without_scores_has_no_map_and_a_damaged_one_is_refused(tmp_path):
    assert list(score_maps(RunFolder(tmp_path), 0.1)) == []
    (tmp_path / "scores.jsonl").write_text("{\n")
    with pytest.raises(RunRefused, match="line 1 of"):
        list(score_maps(RunFolder(tmp_path), 0.1))
