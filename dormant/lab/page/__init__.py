"""Builds the report: one self-contained HTML file with experiments, verdicts, plots and neuron scores."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path

from dormant.lab import Experiment, Scale
from dormant.lab.drawing.figure import command
from dormant.lab.judging.claims import RULINGS
from dormant.lab.page.chapters import (
    Chapter,
    claims_table,
    comparison_table,
    plots_as_json,
    runs_table,
    settings_tables,
    tau,
    values_table,
)
from dormant.lab.page.chapters import chapter as chapter

LARGEST = 6_000_000  # bytes
# Each pair: points per line, and number of environments with score maps. The first pair that keeps the page below
# LARGEST is used.
SIZES = ((120, 99), (60, 99), (60, 3), (40, 1), (20, 0))
# The content security policy of the page. The browser then loads nothing from outside the file.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(
    chapters: Sequence[Chapter],
    scale: Scale,
    others: Sequence[Experiment],
    file: Path,
) -> str:
    """Builds the HTML of the page for `file`. `others` are experiments without a finished run.

    The page stays below 6 MB. If necessary it has fewer points per curve and fewer score maps, and a note says so.
    Raises ValueError if even the smallest version is too large.
    """
    for points, environments in SIZES:
        text = _page([_with_maps(each, environments) for each in chapters], scale, others, file, points)
        if len(text.encode()) <= LARGEST:
            return text
    raise ValueError(f"the page of {len(chapters)} experiments is larger than {LARGEST:,} bytes; report fewer runs.")


def _with_maps(each: Chapter, environments: int) -> Chapter:
    kept = list(dict.fromkeys(environment for _, environment, _ in each.maps))[:environments]
    return replace(each, maps=tuple(found for found in each.maps if found[1] in kept))


def _page(chapters: Sequence[Chapter], scale: Scale, others: Sequence[Experiment], file: Path, points: int) -> str:
    unjudged = [(each, why_not_judged(each, scale)) for each in others]
    runs_only = [(each.experiment, NO_VERDICTS) for each in chapters if not each.verdicts]
    body = "".join(
        (
            _head(chapters, scale),
            f'<section id="claims"><h2>Claims</h2>{claims_table(chapters, [*runs_only, *unjudged])}</section>',
            *(_chapter(each, file) for each in chapters),
            _not_run(unjudged),
        )
    )
    asset = {name: (files("dormant.lab.page") / name).read_text() for name in ("page.css", "page.js")}
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>Dormant neurons, reproduced: {scale} scale</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{asset['page.css']}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="numbers">{plots_as_json(chapters, points)}</script>\n'
        f"<script>\n{asset['page.js']}</script>\n</body>\n</html>\n"
    )


def _head(chapters: Sequence[Chapter], scale: Scale) -> str:
    revisions = sorted({revision for each in chapters for revision in each.revisions})
    links = "".join(
        f'<li><a href="#{each.experiment.name}">{each.experiment.name}</a> '
        f'<span class="soft">{escape(each.experiment.title)}</span></li>'
        for each in chapters
    )
    return (
        '<a class="skip" href="#claims">To the claims</a><header><h1>The dormant neuron phenomenon, rerun</h1>'
        "<p>The claims of Sokar, Agarwal, Castro and Evci (2023) about dormant neurons in deep reinforcement learning, "
        f"judged with our runs at <b>{scale}</b> scale. {counts(chapters)}</p>"
        f'<p class="small">Revision of the code behind the runs: {escape(", ".join(revisions)) or "none"}.</p>'
        f'<nav aria-label="Figures"><ul>{links}</ul></nav></header><main>'
    )


NO_VERDICTS = "This scale gives no verdicts. It only shows that the experiments run."


def counts(chapters: Sequence[Chapter]) -> str:
    """Returns one or two sentences with the number of claims per verdict. Claims that were not measured come last."""
    if not any(each.verdicts for each in chapters):
        return NO_VERDICTS
    found = Counter(verdict.verdict for each in chapters for verdict in each.verdicts)
    absent = found.pop("not measured", 0)
    parts = ", ".join(f"{found[ruling]} {ruling}" for ruling in RULINGS if ruling in found)
    text = f"Claims judged: {found.total()}" + (f" ({parts})." if parts else ".")
    return text + (f" Not measured: {absent}." if absent else "")


def _chapter(each: Chapter, file: Path) -> str:
    name, experiment = each.experiment.name, each.experiment
    left_out = experiment.designs[each.scale].leaves_out
    notes = [experiment.settings, f"Left out of this scale: {left_out}" if left_out else ""]
    seeds = ", ".join(map(str, sorted(set(each.frame["seed"]))))
    published = " Plots with dashed lines show the paper's curves, read from its plots." if experiment.published else ""
    return (
        f'<section class="figure" id="{name}" aria-labelledby="{name}-title"><p class="tag">{name}</p>'
        f'<h2 id="{name}-title">{escape(experiment.title)}</h2>'
        f"{''.join(f'<p>{escape(note)}</p>' for note in notes if note)}"
        f'<p class="small"><code>{command(experiment, each.scale)}</code>; seeds {seeds}. '
        f"Lines are means over seeds, bands are 95 % t-intervals, thin lines are single seeds.{published}</p>"
        f"{comparison_table(each)}"
        '<div class="stage"></div>'
        "<noscript><p>The plots need JavaScript. The tables below have their numbers.</p></noscript>"
        f'<div class="panel" id="{name}-panel">{_maps(each)}</div>'
        f"{_fold('Values at the end of the runs', values_table(each))}"
        f"{_fold('Settings', settings_tables(each))}"
        f"{_fold(f'Runs ({sum(run.path is not None for run in each.runs)})', runs_table(each, file))}</section>"
    )


def _fold(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _maps(each: Chapter) -> str:
    if not each.maps:
        return ""
    shown, made = {environment for _, environment, _ in each.maps}, {run.environment for run in each.runs if run.path}
    fewer = f" To keep this page small, {len(made - shown)} environments are left out." if made - shown else ""
    pictures = "".join(
        f'<figure class="map" data-arm="{escape(arm)}" data-environment="{escape(environment)}">'
        f"<figcaption><b>{escape(arm)}</b> · {escape(found.layer)}, {found.neurons} neurons<br>"
        f"{escape(environment)}, seed {found.seed}: {found.dormant:.0%} dormant at the end</figcaption>"
        f'<img src="{found.image}" style="height:{min(160, max(56, found.neurons))}px" decoding="async" '
        f'alt="Neuron scores of layer {escape(found.layer)} of {escape(arm)} on {escape(environment)} over '
        f'{found.agent_steps:,} agent steps; {found.dormant:.0%} of {found.neurons} neurons are dormant at the end.">'
        "</figure>"
        for arm, environment, found in each.maps
    )
    return (
        '<h3>Neuron scores over training</h3><p class="small">'
        "Each row is a neuron of the first seed. Training runs from left to right. "
        "Neurons are sorted by how long they were dormant. "
        f'<span class="ramp dormant"></span> dormant (score at most {tau(each.experiment):g}), '
        f'<span class="ramp"></span> higher scores, up to 3 and above. The mean score of a layer is 1.{fewer}</p>'
        f'<div class="maps">{pictures}</div>'
    )


def why_not_judged(experiment: Experiment, scale: Scale) -> str:
    """Returns the reason why an experiment has no verdicts at a scale."""
    if scale not in experiment.designs:
        return f"has no {scale} scale, only {', '.join(experiment.designs)}"
    return "no finished run"


def _not_run(unjudged: Sequence[tuple[Experiment, str]]) -> str:
    if not unjudged:
        return "</main>"
    rows = "".join(
        f'<li><b>{each.name}</b> {escape(each.title)} <span class="soft">– {escape(why)}</span></li>'
        for each, why in unjudged
    )
    return f'<section id="not-run"><h2>Not run here</h2><ul>{rows}</ul></section></main>'
