"""The report: experiments, verdicts, plots and neuron scores in one HTML file that loads nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path

from dormant.lab.design import Experiment, Scale
from dormant.lab.drawing.figure import command
from dormant.lab.page.chapters import Chapter, numbers, tau
from dormant.lab.page.chapters import chapter as chapter
from dormant.lab.page.tables import claims_table, comparison_table, runs_table, settings_tables, values_table

LARGEST = 6_000_000  # bytes of the whole page
# Nothing may be loaded: the browser holds the page to it.
# Points of a line and environments with score maps: what is tried until the page is small enough.
THRIFT = ((120, 99), (60, 99), (60, 3), (40, 1), (20, 0))
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(
    chapters: Sequence[Chapter],
    scale: Scale,
    others: Sequence[Experiment],
    file: Path,
) -> str:
    """The page as it is to be written to `file`; `others` are experiments without a finished run at the scale.

    It stays below 6 MB: where it would not, it draws fewer points of long curves and fewer score maps, and says so.
    Raises ValueError if even that is not enough.
    """
    for points, environments in THRIFT:
        text = _page([_with_maps(each, environments) for each in chapters], scale, others, file, points)
        if len(text.encode()) <= LARGEST:
            return text
    raise ValueError(f"the page of {len(chapters)} experiments has more than {LARGEST:,} bytes; report fewer runs.")


def _with_maps(each: Chapter, environments: int) -> Chapter:
    kept = list(dict.fromkeys(environment for _, environment, _ in each.maps))[:environments]
    return replace(each, maps=tuple(found for found in each.maps if found[1] in kept))


def _page(chapters: Sequence[Chapter], scale: Scale, others: Sequence[Experiment], file: Path, points: int) -> str:
    unjudged = [(each, why_not(each, scale)) for each in others]
    body = "".join(
        (
            _head(chapters, scale),
            f'<section id="claims"><h2>Claims</h2>{claims_table(chapters, unjudged)}</section>',
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
        f'<script type="application/json" id="numbers">{numbers(chapters, points)}</script>\n'
        f"<script>\n{asset['page.js']}</script>\n</body>\n</html>\n"
    )


def _head(chapters: Sequence[Chapter], scale: Scale) -> str:
    verdicts = Counter(verdict.verdict for each in chapters for verdict in each.verdicts)
    said = ", ".join(f"{verdicts[name]} {name}" for name in ("reproduced", "contradicted", "inconclusive"))
    revisions = sorted({revision for each in chapters for revision in each.revisions})
    links = "".join(
        f'<li><a href="#{each.experiment.name}">{each.experiment.name}</a> '
        f'<span class="soft">{escape(each.experiment.title)}</span></li>'
        for each in chapters
    )
    return (
        '<a class="skip" href="#claims">To the claims</a><header><h1>The dormant neuron phenomenon, rerun</h1>'
        "<p>What Sokar, Agarwal, Castro and Evci (2023) claim of dormant neurons in deep reinforcement learning, "
        f"and what our runs at <b>{scale}</b> scale say of it. Of {sum(verdicts.values())} claims judged: {said}.</p>"
        f'<p class="small">Revision of the code behind the runs: {escape(", ".join(revisions)) or "none"}.</p>'
        f'<nav aria-label="Figures"><ul>{links}</ul></nav></header><main>'
    )


def _chapter(each: Chapter, file: Path) -> str:
    name, experiment = each.experiment.name, each.experiment
    left_out = experiment.designs[each.scale].leaves_out
    notes = [experiment.settings, f"Left out of this scale: {left_out}" if left_out else ""]
    seeds = ", ".join(map(str, sorted(set(each.frame["seed"]))))
    published = " Dashed, on axes of their own, are curves read from the paper's plots." if experiment.published else ""
    return (
        f'<section class="figure" id="{name}" aria-labelledby="{name}-title"><p class="tag">{name}</p>'
        f'<h2 id="{name}-title">{escape(experiment.title)}</h2>'
        f"{''.join(f'<p>{escape(note)}</p>' for note in notes if note)}"
        f'<p class="small"><code>{command(experiment, each.scale)}</code>; seeds {seeds}. '
        f"Lines are means over seeds, bands 95 % t-intervals over seeds, thin lines single seeds.{published}</p>"
        f"{comparison_table(each)}"
        '<div class="stage"></div>'
        "<noscript><p>The plots need JavaScript; the tables below have their numbers.</p></noscript>"
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
    shown, run = {environment for _, environment, _ in each.maps}, {run.environment for run in each.runs if run.path}
    fewer = f" To keep this page small, {len(run - shown)} environments are left out." if run - shown else ""
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
        "A row is a neuron, left to right is the first seed's training; "
        "neurons are sorted by how long they were dormant. "
        f'<span class="ramp dormant"></span> dormant (score at most {tau(each.experiment):g}), '
        f'<span class="ramp"></span> score from there to 3 and above; the mean of a layer is 1.{fewer}</p>'
        f'<div class="maps">{pictures}</div>'
    )


def why_not(experiment: Experiment, scale: Scale) -> str:
    """Why an experiment has no runs at a scale."""
    if scale not in experiment.designs:
        return f"not part of the {scale} scale; it has {', '.join(experiment.designs)}"
    return "no finished run"


def _not_run(unjudged: Sequence[tuple[Experiment, str]]) -> str:
    if not unjudged:
        return "</main>"
    rows = "".join(
        f'<li><b>{each.name}</b> {escape(each.title)} <span class="soft">– {escape(why)}</span></li>'
        for each, why in unjudged
    )
    return f'<section id="not-run"><h2>Not run here</h2><ul>{rows}</ul></section></main>'
