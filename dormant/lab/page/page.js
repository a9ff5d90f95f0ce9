"use strict";
// Draws every figure from the numbers in the page. Loads nothing from elsewhere.
(() => {
  const figures = JSON.parse(document.getElementById("numbers").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const PENS = 7;
  const DASHES = ["", "9 3", "5 3", "1.5 3"];
  const FEW_SEEDS = 5;
  const EDGE = { top: 10, right: 14, bottom: 36, left: 46 };
  const HEIGHT = 230;

  const svg = (name, attributes = {}, ...children) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const html = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const known = (value) => value !== null && value !== undefined;
  const trimmed = (value) => String(Number(value.toPrecision(3)));
  const number = (value) => {
    const size = Math.abs(value);
    if (size >= 1e6) return trimmed(value / 1e6) + "M";
    if (size >= 1e4) return trimmed(value / 1e3) + "k";
    return trimmed(value);
  };
  const amount = (plot, value) => (plot.percent ? trimmed(100 * value) + " %" : number(value));
  const colour = (line) => `var(--pen-${line.colour % PENS})`;
  const dash = (plot, line) => (plot.published ? "7 4" : DASHES[(line.dash + Math.floor(line.colour / PENS)) % DASHES.length]);
  const sweep = (plot) => plot.x_name === "replay_ratio";

  function ticks(low, high, count) {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((unit) => unit * power).find((unit) => unit >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  }

  function domain(plot) {
    const xs = plot.lines.flatMap((line) => line.x);
    const close = plot.lines.flatMap((line) => [line.middle, ...line.seeds].flat()).filter(known);
    const bounds = plot.lines.flatMap((line) => [...line.low, ...line.high]).filter(known);
    const bottom = Math.min(0, ...close), reach = Math.max(...close, 0) - bottom || 1;
    // With three seeds, an interval can be many times wider than the measured values. The plot then cuts it off.
    const high = Math.min(Math.max(...bounds, bottom + reach), bottom + 1.6 * reach);
    const low = bottom < 0 ? Math.max(Math.min(...bounds, bottom), bottom - 0.6 * reach) : 0;
    const top = plot.percent ? Math.min(1, high * 1.04) : high * 1.04;
    return { x: [sweep(plot) ? Math.min(...xs) : Math.min(0, ...xs), Math.max(...xs)], y: [low, top] };
  }

  function scales(plot, width) {
    const { x, y } = domain(plot);
    const map = sweep(plot) ? Math.log2 : (value) => value;
    const pad = sweep(plot) ? 16 : 0;
    const [from, to] = x.map(map);
    const left = EDGE.left + pad, right = width - EDGE.right - pad;
    const bottom = HEIGHT - EDGE.bottom;
    return {
      x: (value) => left + (to > from ? (map(value) - from) / (to - from) : 0.5) * (right - left),
      y: (value) => bottom - ((value - y[0]) / (y[1] - y[0])) * (bottom - EDGE.top),
      xTicks: sweep(plot) ? [...new Set(plot.lines.flatMap((line) => line.x))] : ticks(...x, width > 300 ? 5 : 3),
      yTicks: ticks(...y, 4),
    };
  }

  function path(line, values, at) {
    let pen = "M", drawn = "";
    line.x.forEach((x, i) => {
      if (!known(values[i])) { pen = "M"; return; }
      drawn += `${pen}${at.x(x).toFixed(1)} ${at.y(values[i]).toFixed(1)}`;
      pen = "L";
    });
    return drawn;
  }

  function band(line, at) {
    const there = line.x.map((_, i) => i).filter((i) => known(line.low[i]));
    if (there.length < 2) return "";
    const point = (i, values) => `${at.x(line.x[i]).toFixed(1)} ${at.y(values[i]).toFixed(1)}`;
    const upper = there.map((i) => point(i, line.high)), lower = there.map((i) => point(i, line.low)).reverse();
    return `M${[...upper, ...lower].join("L")}Z`;
  }

  function strokes(plot, line, at) {
    const group = svg("g", { "data-arm": line.label, class: "line", style: `--pen:${colour(line)}` });
    if (sweep(plot)) {
      line.x.forEach((x, i) => {
        if (known(line.low[i]))
          group.append(svg("path", { class: "whisker", d: `M${at.x(x)} ${at.y(line.low[i])}V${at.y(line.high[i])}` }));
      });
    } else {
      group.append(svg("path", { class: "band", d: band(line, at) }));
      if (line.seeds.length > 1 && line.seeds.length <= FEW_SEEDS)
        for (const seed of line.seeds) group.append(svg("path", { class: "seed", d: path(line, seed, at) }));
    }
    group.append(svg("path", { class: "mean", d: path(line, line.middle, at), "stroke-dasharray": dash(plot, line) }));
    const dots = sweep(plot) || line.middle.filter(known).length === 1;
    if (dots)
      line.x.forEach((x, i) => {
        if (known(line.middle[i])) group.append(svg("circle", { cx: at.x(x), cy: at.y(line.middle[i]), r: 3.5 }));
      });
    return group;
  }

  function axes(plot, at, width) {
    const group = svg("g", { class: "axes" });
    const bottom = HEIGHT - EDGE.bottom;
    for (const tick of at.yTicks) {
      const y = at.y(tick);
      group.append(svg("path", { class: "grid", d: `M${EDGE.left} ${y}H${width - EDGE.right}` }));
      group.append(svg("text", { x: EDGE.left - 6, y: y + 4, "text-anchor": "end" }, amount(plot, tick)));
    }
    for (const tick of at.xTicks) {
      group.append(svg("path", { class: "tick", d: `M${at.x(tick)} ${bottom}v4` }));
      group.append(svg("text", { x: at.x(tick), y: bottom + 17, "text-anchor": "middle" }, number(tick)));
    }
    group.append(svg("path", { class: "axis", d: `M${EDGE.left} ${bottom}H${width - EDGE.right}` }));
    const name = plot.x_name.replaceAll("_", " ");
    group.append(svg("text", { x: width - EDGE.right, y: HEIGHT - 4, "text-anchor": "end", class: "name" }, name));
    return group;
  }

  function nearest(values, wanted) {
    let best = 0;
    values.forEach((value, i) => { if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = i; });
    return best;
  }

  // Returns the point nearest to x of every shown line. Leaves out lines that have no measured point near x.
  function readings(plot, hidden, x) {
    return plot.lines.filter((line) => !hidden.has(line.label)).flatMap((line) => {
      const i = nearest(line.x, x);
      const close = line.x.length < 2 || Math.abs(line.x[i] - x) <= Math.abs(line.x[1] - line.x[0]) + 1e-9;
      return close && known(line.middle[i]) ? [{ line, i }] : [];
    });
  }

  function told(plot, { line, i }) {
    const interval = known(line.low[i]) ? ` [${amount(plot, line.low[i])}, ${amount(plot, line.high[i])}]` : "";
    return amount(plot, line.middle[i]) + interval;
  }

  function chart(plot, hidden, number_) {
    const caption = html("figcaption", { id: `plot-${number_}` }, html("b", {}, plot.title),
      html("span", {}, `${plot.place} · ${plot.quantity}`));
    const label = `${plot.title}, ${plot.place}: ${plot.quantity}. Left and right arrow keys read its values.`;
    const field = html("div", { class: "field", tabindex: "0", role: "group", "aria-label": label });
    const box = html("div", { class: "reading", role: "status", hidden: "" });
    const node = html("figure", { class: plot.published ? "plot published" : "plot" }, caption, field, box);
    let at = null, drawing = null, place = null;

    const stops = () => [...new Set(plot.lines.filter((line) => !hidden.has(line.label))
      .flatMap((line) => line.x.filter((_, i) => known(line.middle[i]))))].sort((a, b) => a - b);

    function draw() {
      const width = field.clientWidth;
      if (!width) return;
      at = scales(plot, width);
      const clip = `clip-${number_}`;
      const area = svg("rect", { x: EDGE.left, y: 4, width: width - EDGE.left - EDGE.right + 6, height: HEIGHT - EDGE.bottom - 3 });
      const shown = plot.lines.filter((line) => !hidden.has(line.label));
      drawing = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
        svg("clipPath", { id: clip }, area), axes(plot, at, width),
        svg("g", { "clip-path": `url(#${clip})` }, ...shown.map((line) => strokes(plot, line, at))), svg("g", { class: "cursor" }));
      field.replaceChildren(drawing);
      if (place !== null) read(place);
    }

    function read(x) {
      place = x;
      const found = readings(plot, hidden, x);
      const cursor = drawing.querySelector(".cursor");
      cursor.replaceChildren(svg("path", { d: `M${at.x(x)} ${EDGE.top}V${HEIGHT - EDGE.bottom}` }),
        ...found.map(({ line, i }) => svg("circle", { cx: at.x(line.x[i]), cy: at.y(line.middle[i]), r: 4, style: `fill:${colour(line)}` })));
      const rows = found.sort((a, b) => b.line.middle[b.i] - a.line.middle[a.i])
        .map((each) => html("div", {}, key(plot, each.line), html("span", { class: "arm" }, each.line.label), html("span", {}, told(plot, each))));
      box.replaceChildren(html("b", {}, `${number(x)} ${plot.x_name.replaceAll("_", " ")}`), ...rows);
      box.hidden = false;
      const right = at.x(x) > field.clientWidth / 2;
      box.style.left = right ? "auto" : `${at.x(x) + 12}px`;
      box.style.right = right ? `${field.clientWidth - at.x(x) + 12}px` : "auto";
    }

    function leave() {
      place = null;
      box.hidden = true;
      drawing?.querySelector(".cursor").replaceChildren();
    }

    function step(event) {
      const all = stops();
      if (!all.length || !at) return;
      const here = place === null ? -1 : nearest(all, place);
      const moves = { ArrowRight: here + 1, ArrowLeft: here < 0 ? all.length - 1 : here - 1, Home: 0, End: all.length - 1 };
      if (event.key === "Escape") leave();
      if (!(event.key in moves)) return;
      event.preventDefault();
      read(all[Math.max(0, Math.min(all.length - 1, moves[event.key]))]);
    }

    function follow(event) {
      const all = stops();
      if (!all.length || !at) return;
      const x = event.clientX - field.getBoundingClientRect().left;
      read(all[nearest(all.map(at.x), x)]);
    }

    field.addEventListener("pointermove", follow);
    field.addEventListener("pointerdown", follow);
    field.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") leave(); });
    field.addEventListener("blur", leave);
    field.addEventListener("keydown", step);
    new ResizeObserver(draw).observe(field);
    return { node, draw };
  }

  function key(plot, line) {
    const stroke = { d: "M1 6H23", "stroke-dasharray": dash(plot, line), style: `stroke:${colour(line)}` };
    return svg("svg", { class: "key", width: 24, height: 12, "aria-hidden": "true" }, svg("path", stroke));
  }

  function legend(figure, hidden, changed) {
    const entries = new Map();
    for (const plot of figure.plots)
      for (const line of plot.lines) if (!entries.has(line.label)) entries.set(line.label, [plot, line]);
    const order = ([, [plot, line]]) => 1000 * plot.published + 10 * line.colour + line.dash;
    const buttons = [...entries].sort((a, b) => order(a) - order(b)).map(([label, [plot, line]]) => {
      const text = plot.published ? `${label} (paper only)` : label;
      const button = html("button", { type: "button", "aria-pressed": "true", "data-arm": label }, key(plot, line), text);
      button.addEventListener("click", () => {
        const show = hidden.has(label);
        if (show) hidden.delete(label); else hidden.add(label);
        button.setAttribute("aria-pressed", String(show));
        changed();
      });
      return button;
    });
    return html("div", { class: "legend", role: "group", "aria-label": `Arms of ${figure.name}: shown or hidden` }, ...buttons);
  }

  function tabs(figure, places, panel, choose) {
    const list = html("div", { class: "tabs", role: "tablist", "aria-label": `Environments of ${figure.name}` });
    const all = places.map((name, i) => html("button",
      { type: "button", role: "tab", id: `${figure.name}-tab-${i}`, "aria-controls": panel.id }, name));
    const select = (i, focus) => {
      all.forEach((tab, k) => { tab.setAttribute("aria-selected", String(k === i)); tab.tabIndex = k === i ? 0 : -1; });
      panel.setAttribute("aria-labelledby", all[i].id);
      if (focus) all[i].focus();
      choose(places[i]);
    };
    all.forEach((tab, i) => {
      tab.addEventListener("click", () => select(i, false));
      tab.addEventListener("keydown", (event) => {
        const last = all.length - 1;
        const to = { ArrowRight: i === last ? 0 : i + 1, ArrowLeft: i === 0 ? last : i - 1, Home: 0, End: last }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        select(to, true);
      });
    });
    list.append(...all);
    panel.setAttribute("role", "tabpanel");
    select(0, false);
    return list;
  }

  function filters(table) {
    const rows = [...table.tBodies[0].rows], chosen = {};
    const count = html("span", { class: "small", role: "status" });
    const refresh = () => {
      for (const row of rows) {
        row.hidden = Object.entries(chosen).some(([name, value]) => value && row.dataset[name] !== value);
      }
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
    };
    const labels = ["figure", "verdict", "kind"].map((name) => {
      const values = [...new Set(rows.map((row) => row.dataset[name]))];
      const options = values.map((value) => html("option", { value }, value));
      const select = html("select", {}, html("option", { value: "" }, "all"), ...options);
      select.addEventListener("change", () => { chosen[name] = select.value; refresh(); });
      return html("label", {}, name[0].toUpperCase() + name.slice(1) + " ", select);
    });
    table.before(html("div", { class: "filters", role: "group", "aria-label": "Choice of claims" }, ...labels, count));
    refresh();
  }

  filters(document.querySelector("table.claims"));
  let drawn = 0;
  for (const figure of figures) {
    const section = document.getElementById(figure.name);
    const stage = section.querySelector(".stage");
    const panel = section.querySelector(".panel");
    const plots = html("div", { class: "plots" });
    const hidden = new Set();
    let place = null, charts = [];
    const refresh = () => {
      charts.forEach((each) => each.draw());
      for (const map of section.querySelectorAll(".map")) {
        const elsewhere = place !== null && place !== figure.all && map.dataset.environment !== place;
        map.hidden = elsewhere || hidden.has(map.dataset.arm);
      }
    };
    const choose = (name) => {
      place = name;
      charts = figure.plots.filter((plot) => plot.published || name === null || plot.place === name)
        .map((plot) => chart(plot, hidden, drawn++));
      plots.replaceChildren(...charts.map((each) => each.node));
      refresh();
    };
    const places = [...new Set(figure.plots.filter((plot) => !plot.published).map((plot) => plot.place))];
    panel.prepend(plots);
    if (places.length > 1) stage.append(tabs(figure, places, panel, choose)); else choose(null);
    stage.append(legend(figure, hidden, refresh));
  }

  addEventListener("beforeprint", () => { for (const each of document.querySelectorAll("details")) each.open = true; });
})();
