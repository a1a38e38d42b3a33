"use strict";
// Draws the report from the JSON in the page; it needs no network.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "line", "rect", "circle", "path", "text", "polyline"]);
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const number = (value, digits = 1) => (
  value === null || value === undefined ? "–" : value.toFixed(digits)
);
const colour = (model) => DATA.colours[model] || "#8a8f98";
const bytes = (value) => (
  value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(2)} GiB` : `${(value / 2 ** 20).toFixed(1)} MiB`
);
const elapsed = (seconds) => { // as runkit.progress.elapsed writes it
  const whole = Math.round(seconds);
  const pad = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours
    ? `${hours}:${pad(minutes)}:${pad(whole % 60)} h`
    : `${minutes}:${pad(whole % 60)} min`;
};

const tip = byId("tip");
function explain(node, text) {
  node.addEventListener("mousemove", (event) => {
    tip.textContent = text;
    tip.style.display = "block";
    tip.style.left = `${Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 6)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
  node.addEventListener("mouseleave", () => { tip.style.display = "none"; });
  return node;
}

function select(label, id, options, onchange) {
  const node = make("select", { id, onchange });
  for (const [value, text] of options) node.append(make("option", { value, text }));
  return make("label", {}, label, node);
}

// --- theme and print
byId("theme").addEventListener("click", () => {
  const order = ["auto", "light", "dark"];
  const next = order[(order.indexOf(byId("theme").dataset.state) + 1) % 3];
  byId("theme").dataset.state = next;
  byId("theme").textContent = `Theme: ${next}`;
  if (next === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = next;
});
byId("print").addEventListener("click", () => window.print());

// --- the table
function drawTable() {
  const place = byId("table");
  if (!place) return;
  const grid = byId("table-grid").value, seed = byId("table-seed").value;
  const rows = DATA.table[grid];
  const head = make(
    "tr",
    {},
    make("th", { text: "Model" }),
    ...DATA.columns.map(([, text]) => make("th", { text })),
  );
  const body = make("tbody");
  for (const [name, cells] of Object.entries(rows)) {
    const kind = name === "Average" ? "mean" : DATA.paper_rows.includes(name) ? "" : "beyond";
    const first = make(
      "td",
      {},
      name === "Average"
        ? ""
        : make("span", { class: "chip", style: `background:${colour(name)}` }),
      name,
    );
    const line = make("tr", { class: kind, "data-row": name }, first);
    for (const [column] of DATA.columns) {
      const cell = cells[column];
      const td = make("td");
      if (!cell) td.append("–");
      else {
        const value = seed === "all" ? cell.mean : cell.by_seed[seed];
        td.append(number(value));
        if (seed === "all" && cell.low !== null)
          td.append(make("small", { text: `± ${number((cell.high - cell.low) / 2)}` }));
        if (cell.paper !== null && value !== undefined) {
          const gap = value - cell.paper;
          td.append(
            make(
              "small",
              {},
              `paper ${number(cell.paper)} `,
              make(
                "span",
                {
                  class: gap >= 0 ? "up" : "down",
                  text: `${gap >= 0 ? "+" : "−"}${number(Math.abs(gap))}`,
                },
              ),
            )
          );
        }
      }
      line.append(td);
    }
    body.append(line);
  }
  place.replaceChildren(make("table", {}, make("thead", {}, head), body));
}

// --- patients
function drawFroc() {
  const place = byId("froc");
  if (!place || !DATA.froc || !DATA.froc.length) return;
  const left = 46;
  const width = 760;
  const height = 340;
  const base = height - 44;
  const plain = DATA.froc.filter((line) => !line.model.endsWith("_gated"));
  const far = Math.max(1e-6, ...DATA.froc.flatMap((line) => line.points.map((p) => p[1]))) * 1.05;
  const x = (value) => left + (value / far) * (width - left - 16);
  const y = (value) => base - value * (base - 12);
  const svg = make(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      style: "max-width:760px",
      role: "img",
      "aria-label": "tumours found against false alarms per patient",
    },
  );
  for (const tick of [0, 0.25, 0.5, 0.75, 1])
    svg.append(
      make("line", { class: "rule", x1: left, x2: width - 16, y1: y(tick), y2: y(tick) }),
      make("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end", text: String(100 * tick) }),
    );
  for (const tick of ticks(0, far))
    svg.append(
      make("line", { class: "axis", x1: x(tick), x2: x(tick), y1: base, y2: base + 5 }),
      make("text", { x: x(tick), y: base + 18, "text-anchor": "middle", text: String(tick) }),
    );
  svg.append(
    make(
      "text",
      {
        class: "ink",
        x: (left + width) / 2,
        y: height - 6,
        "text-anchor": "middle",
        text: "false alarms per patient",
      },
    ),
    make(
      "text",
      {
        class: "ink",
        x: 12,
        y: height / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 12 ${height / 2})`,
        text: "tumours found, %",
      },
    ),
  );
  for (const { model, points } of DATA.froc) {
    const [, alarms, found, low, high] = points[points.length - 1];
    const gated = model.endsWith("_gated");
    const words = `${model}: ${number(100 * found)} % of the tumours `
      + `[${number(100 * low)}, ${number(100 * high)}], `
      + `${number(alarms, 2)} false alarms per patient`;
    if (gated) {
      svg.append(
        explain(
          make(
            "rect",
            {
              class: "dot",
              x: x(alarms) - 4.5,
              y: y(found) - 4.5,
              width: 9,
              height: 9,
              fill: "var(--paper)",
              stroke: colour(model),
              "stroke-width": 2,
            },
          ),
          words,
        )
      );
      continue;
    }
    let path = `M${x(0)},${y(0)}`;
    for (const [, a, f] of points) path += `H${x(a)}V${y(f)}`;
    svg.append(
      make(
        "path",
        {
          d: path,
          fill: "none",
          stroke: colour(model),
          "stroke-width": 2,
          "stroke-dasharray": model.endsWith("baseline") ? "6 4" : null,
        },
      )
    );
    svg.append(
      make(
        "line",
        {
          x1: x(alarms),
          x2: x(alarms),
          y1: y(low),
          y2: y(high),
          stroke: colour(model),
          "stroke-width": 1,
        },
      )
    );
    svg.append(
      explain(
        make("circle", { class: "dot", cx: x(alarms), cy: y(found), r: 5, fill: colour(model) }),
        words,
      )
    );
  }
  place.replaceChildren(
    svg,
    make(
      "div",
      { class: "legend" },
      ...plain.map(
        (line) => make(
          "span",
          {},
          make("span", { class: "chip", style: `background:${colour(line.model)}` }),
          line.model,
        )
      ),
    ),
  );
}

// --- verdicts
function forest(part) {
  const width = 300, height = 26;
  const svg = make(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": part.numbers },
  );
  const interval = part.interval;
  if (!interval || part.rule === "gone" || part.rule === "zero") return svg;
  const spread = interval.low !== null && interval.high !== null;  // null: too few trainings
  const values = [
    ...(spread ? [interval.low, interval.high] : [interval.estimate]),
    0,
    -part.margin,
    part.paper ?? 0,
    ...Object.values(part.by_seed),
  ];
  let low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low || 1) * 0.08; low -= pad; high += pad;
  const x = (value) => ((value - low) / (high - low)) * width;
  svg.append(
    make(
      "line",
      { class: "axis", x1: x(0), x2: x(0), y1: 2, y2: height - 2, "stroke-dasharray": "2 2" },
    )
  );
  if (part.margin)
    svg.append(
      make(
        "line",
        {
          class: "rule",
          x1: x(-part.margin),
          x2: x(-part.margin),
          y1: 2,
          y2: height - 2,
          "stroke-width": 2,
        },
      )
    );
  if (spread)
    svg.append(
      make(
        "line",
        {
          x1: x(interval.low),
          x2: x(interval.high),
          y1: 13,
          y2: 13,
          stroke: "var(--accent)",
          "stroke-width": 3,
          "stroke-linecap": "round",
        },
      )
    );
  for (const [seed, value] of Object.entries(part.by_seed))
    svg.append(
      explain(
        make("circle", { cx: x(value), cy: 13, r: 2.6, fill: "var(--muted)" }),
        `seed ${seed}: ${number(value, 2)} ${part.unit}`,
      )
    );
  svg.append(make("circle", { cx: x(interval.estimate), cy: 13, r: 5, fill: "var(--accent)" }));
  if (part.paper !== null)
    svg.append(
      explain(
        make(
          "rect",
          {
            x: x(part.paper) - 4,
            y: 9,
            width: 8,
            height: 8,
            fill: "var(--paper)",
            stroke: "var(--ink)",
            transform: `rotate(45 ${x(part.paper)} 13)`,
          },
        ),
        `paper: ${number(part.paper)} ${part.unit}`,
      )
    );
  return svg;
}

function drawVerdicts() {
  const place = byId("verdicts");
  if (!place) return;
  const wanted = byId("verdict-filter").value;
  place.replaceChildren();
  for (const verdict of DATA.verdicts) {
    if (wanted !== "all" && verdict.verdict !== wanted) continue;
    const card = make(
      "article",
      { class: "verdict", "data-verdict": verdict.verdict },
      make(
        "header",
        {},
        make("span", { class: "claim", text: verdict.claim }),
        make("span", { class: "source", text: verdict.source }),
        make("span", { class: `badge ${verdict.verdict.split(" ")[0]}`, text: verdict.verdict }),
      ),
    );
    for (const part of verdict.parts)
      card.append(
        make(
          "div",
          { class: "part" },
          make("span", { text: part.text }),
          forest(part),
          make("span", { class: "numbers", text: part.numbers }),
        )
      );
    place.append(card);
  }
  if (!place.children.length) place.append(make("p", { class: "note", text: "None." }));
}

// --- cases
const MEASURES = DATA.measures || [];
function rowsOf(measure, grid, seed) {
  const { site, column, factor } = MEASURES.find((m) => m.key === measure);
  const index = DATA.cases.columns.indexOf(column);
  return DATA.cases.rows.filter(
    (row) => (!site || row[1] === site) && row[4] === grid && (
      seed === "all" || String(row[3]) === seed
    ) && row[index] !== null
  )
    .map(
      (row) => (
        {
          model: DATA.cases.models[row[0]],
          site: row[1],
          number: row[2],
          seed: row[3],
          value: row[index] * factor,
        }
      )
    );
}
function quantile(sorted, q) {
  const place = (sorted.length - 1) * q, below = Math.floor(place);
  return sorted[below] + (
    sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]
  ) * (place - below);
}
function ticks(low, high) {
  const raw = (high - low || 1) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((f) => f * power >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step)
    found.push(Math.round(value * 1e6) / 1e6);
  return found;
}

function drawCases() {
  const place = byId("cases");
  if (!place) return;
  const measure = byId("case-measure").value;
  const grid = byId("case-grid").value;
  const seed = byId("case-seed").value;
  const { unit, text } = MEASURES.find((m) => m.key === measure);
  const found = rowsOf(measure, grid, seed);
  const models = DATA.cases.models.filter((model) => found.some((row) => row.model === model));
  const high = unit === "%" ? 100 : Math.max(1e-6, ...found.map((row) => row.value));
  const left = 170;
  const width = 1100;
  const lane = 34;
  const top = 8;
  const height = top + models.length * lane + 34;
  const x = (value) => left + (value / high) * (width - left - 70);
  const svg = make(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `${text} of each case, by model`,
    },
  );
  for (const tick of ticks(0, high))
    svg.append(
      make("line", { class: "rule", x1: x(tick), x2: x(tick), y1: top, y2: height - 30 }),
      make("text", { x: x(tick), y: height - 14, "text-anchor": "middle", text: String(tick) }),
    );
  svg.append(make("text", { x: width - 6, y: height - 14, "text-anchor": "end", text: unit }));
  models.forEach((model, index) => {
    const own = found.filter((row) => row.model === model), middle = top + index * lane + lane / 2;
    const sorted = own.map((row) => row.value).sort((a, b) => a - b);
    const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
    const group = make("g", { "data-model": model });
    group.append(
      make("text", { class: "ink", x: left - 12, y: middle + 4, "text-anchor": "end", text: model })
    );
    group.append(
      make(
        "rect",
        {
          x: x(quantile(sorted, 0.25)),
          width: Math.max(1, x(quantile(sorted, 0.75)) - x(quantile(sorted, 0.25))),
          y: middle - 9,
          height: 18,
          fill: colour(model),
          opacity: 0.28,
          rx: 2,
        },
      )
    );
    group.append(
      make(
        "line",
        {
          x1: x(quantile(sorted, 0.5)),
          x2: x(quantile(sorted, 0.5)),
          y1: middle - 9,
          y2: middle + 9,
          stroke: colour(model),
          "stroke-width": 2.5,
        },
      )
    );
    own.forEach((row) => {
      const offset = (((row.number * 7 + row.seed * 3) % 11) / 10 - 0.5) * 16;
      group.append(
        explain(
          make(
            "circle",
            {
              class: "dot",
              cx: x(row.value),
              cy: middle + offset,
              r: own.length > 60 ? 2 : 3.2,
              fill: colour(model),
              opacity: 0.8,
            },
          ),
          `${model}\n${row.site}, case ${row.number}, seed ${row.seed}: `
            + `${number(row.value, 1)} ${unit}`,
        )
      );
    });
    group.append(
      make(
        "text",
        { class: "ink", x: width - 6, y: middle + 4, "text-anchor": "end", text: number(mean, 1) },
      )
    );
    svg.append(group);
  });
  place.replaceChildren(svg);
}

function drawPairs() {
  const place = byId("pairs");
  if (!place) return;
  const measure = byId("case-measure").value;
  const grid = byId("case-grid").value;
  const seed = byId("case-seed").value;
  const across = byId("pair-x").value;
  const up = byId("pair-y").value;
  const { unit } = MEASURES.find((m) => m.key === measure);
  const found = rowsOf(measure, grid, seed), key = (row) => `${row.site} ${row.seed} ${row.number}`;
  const first = new Map(found.filter((row) => row.model === across).map((row) => [key(row), row]));
  const pairs = found.filter(
    (row) => row.model === up && first.has(key(row))
  ).map((row) => [first.get(key(row)), row]);
  const high = unit === "%" ? 100 : Math.max(1e-6, ...pairs.flat().map((row) => row.value));
  const size = 420;
  const pad = 46;
  const x = (value) => pad + (value / high) * (size - pad - 12);
  const y = (value) => size - pad - (value / high) * (size - pad - 12);
  const svg = make(
    "svg",
    {
      viewBox: `0 0 ${size} ${size}`,
      style: "max-width:420px",
      role: "img",
      "aria-label": `${up} against ${across}, case by case`,
    },
  );
  for (const tick of ticks(0, high))
    svg.append(
      make("line", { class: "rule", x1: x(tick), x2: x(tick), y1: y(0), y2: y(high) }),
      make("line", { class: "rule", x1: x(0), x2: x(high), y1: y(tick), y2: y(tick) }),
      make("text", { x: x(tick), y: size - pad + 16, "text-anchor": "middle", text: String(tick) }),
      make("text", { x: pad - 6, y: y(tick) + 4, "text-anchor": "end", text: String(tick) }),
    );
  svg.append(
    make(
      "line",
      { class: "axis", x1: x(0), y1: y(0), x2: x(high), y2: y(high), "stroke-dasharray": "4 3" },
    )
  );
  for (const [one, two] of pairs)
    svg.append(
      explain(
        make(
          "circle",
          {
            class: "dot",
            cx: x(one.value),
            cy: y(two.value),
            r: 4,
            fill: colour(up),
            opacity: 0.75,
          },
        ),
        `${one.site}, case ${one.number}, seed ${one.seed}\n`
          + `${across} ${number(one.value)}\n${up} ${number(two.value)}`,
      )
    );
  svg.append(
    make("text", { class: "ink", x: size / 2, y: size - 8, "text-anchor": "middle", text: across }),
    make(
      "text",
      {
        class: "ink",
        x: 12,
        y: size / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 12 ${size / 2})`,
        text: up,
      },
    ),
  );
  const better = pairs.filter(([one, two]) => two.value > one.value).length;
  place.replaceChildren(
    svg,
    make(
      "p",
      {
        class: "note",
        text: `Both models have scores for ${pairs.length} cases; `
          + `${up} is higher in ${better} of them.`,
      },
    ),
  );
}

// --- federation
function drawTimeline() {
  const place = byId("timeline");
  if (!place || !DATA.timelines.length) return;
  const run = DATA.timelines[Number(byId("timeline-run").value)];
  const from = Number(byId("timeline-round").value), round = run.rounds.find(([n]) => n === from);
  const [begin, end] = round ? [round[1], round[2]] : [0, run.end];
  const left = 70;
  const width = 1100;
  const lane = 34;
  const top = 26;
  const height = top + (run.sites.length + 1) * lane + 34;
  const x = (second) => left + ((second - begin) / (end - begin || 1)) * (width - left - 16);
  const visible = ([, a, b]) => b > begin && a < end;
  const clamp = (second) => Math.min(Math.max(second, begin), end);
  const svg = make(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": "when each site trained, waited and sent",
    },
  );
  run.rounds.forEach(([n, a, b]) => {
    if (b <= begin || a >= end) return;
    if (n % 2)
      svg.append(
        make(
          "rect",
          {
            x: x(clamp(a)),
            y: top - 2,
            width: x(clamp(b)) - x(clamp(a)),
            height: height - top - 30,
            fill: "var(--soft)",
          },
        )
      );
    if (run.rounds.length <= 25 || n % 5 === 0)
      svg.append(
        make(
          "text",
          { x: (x(clamp(a)) + x(clamp(b))) / 2, y: 16, "text-anchor": "middle", text: String(n) },
        )
      );
  });
  svg.append(
    make("text", { class: "ink", x: left - 12, y: top + 21, "text-anchor": "end", text: "server" })
  );
  for (const second of run.aggregated)
    if (second >= begin && second <= end)
      svg.append(
        explain(
          make(
            "rect",
            {
              x: x(second) - 4,
              y: top + 12,
              width: 8,
              height: 8,
              fill: "#009e73",
              transform: `rotate(45 ${x(second)} ${top + 16})`,
            },
          ),
          `aggregated at ${elapsed(second)}`,
        )
      );
  run.sites.forEach((site, index) => {
    const y = top + (index + 1) * lane;
    svg.append(
      make("text", { class: "ink", x: left - 12, y: y + 21, "text-anchor": "end", text: site.name })
    );
    for (const span of site.spans) if (visible(span)) {
      const [activity, a, b] = span;
      svg.append(
        explain(
          make(
            "rect",
            {
              class: "span",
              x: x(clamp(a)),
              y: y + 5,
              width: Math.max(0.8, x(clamp(b)) - x(clamp(a))),
              height: 22,
              fill: activity === "waits" ? "var(--waits)" : DATA.activities[activity],
            },
          ),
          `${site.name} ${activity}: ${number(b - a, 1)} s, from ${elapsed(a)}`,
        )
      );
    }
  });
  for (const tick of ticks(begin, end))
    svg.append(
      make("line", { class: "axis", x1: x(tick), x2: x(tick), y1: height - 32, y2: height - 27 }),
      make("text", { x: x(tick), y: height - 13, "text-anchor": "middle", text: elapsed(tick) }),
    );
  const head = ["Site", ...Object.keys(DATA.activities), "sent", "fetched"];
  const lines = run.sites.map(
    (site) => make(
      "tr",
      {},
      make("td", { text: site.name }),
      ...Object.keys(DATA.activities).map(
        (name) => make("td", { text: elapsed(site.totals[name] || 0) })
      ),
      make("td", { text: bytes(site.sent) }),
      make("td", { text: bytes(site.fetched) }),
    )
  );
  place.replaceChildren(
    svg,
    make(
      "div",
      { class: "scroll" },
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { text })))),
        make("tbody", {}, ...lines),
      ),
    ),
  );
}
function fillRounds() {
  const choice = byId("timeline-round");
  if (!choice) return;
  const run = DATA.timelines[Number(byId("timeline-run").value)];
  choice.replaceChildren(
    make("option", { value: "0", text: "all" }),
    ...run.rounds.map(([n]) => make("option", { value: String(n), text: String(n) })),
  );
}

function drawCurves() {
  const place = byId("curves");
  if (!place || !DATA.curves.length) return;
  const run = DATA.curves[Number(byId("curve-run").value)], part = byId("curve-part").value;
  const series = run.series.filter((line) => line.points[part] && line.points[part].length);
  const left = 46, width = 1100, height = 300, base = height - 30;
  const high = part === "dice"
    ? 1
    : Math.max(1e-9, ...series.flatMap((line) => line.points[part].map((p) => p[1])));
  const x = (value) => left + (value / run.rounds) * (width - left - 12);
  const y = (value) => base - (Math.min(value, high) / high) * (base - 10);
  const svg = make(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${part} by round` },
  );
  for (let n = 0; n < run.rounds; n += 2)
    svg.append(
      make(
        "rect",
        {
          x: x(n),
          y: 10,
          width: x(Math.min(n + 1, run.rounds)) - x(n),
          height: base - 10,
          fill: "var(--soft)",
        },
      )
    );
  for (const tick of ticks(0, high))
    svg.append(
      make("line", { class: "rule", x1: left, x2: width - 12, y1: y(tick), y2: y(tick) }),
      make("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end", text: String(tick) }),
    );
  for (let n = 0; n <= run.rounds; n += Math.max(1, Math.ceil(run.rounds / 15)))
    svg.append(make("text", { x: x(n), y: height - 10, "text-anchor": "middle", text: String(n) }));
  for (const line of series) {
    svg.append(
      make(
        "polyline",
        {
          points: line.points[part].map(([a, b]) => `${x(a)},${y(b)}`).join(" "),
          fill: "none",
          stroke: colour(line.model),
          "stroke-width": 2,
          "stroke-dasharray": line.model.endsWith("baseline") ? "6 4" : null,
        },
      )
    );
    for (const [a, b] of line.points[part])
      svg.append(
        explain(
          make(
            "circle",
            {
              class: "dot",
              cx: x(a),
              cy: y(b),
              r: part === "dice" ? 3.5 : 2,
              fill: colour(line.model),
            },
          ),
          `${line.model}, round ${number(a, 1)}: ${number(b, 3)}`,
        )
      );
  }
  place.replaceChildren(
    svg,
    make(
      "div",
      { class: "legend" },
      ...series.map(
        (line) => make(
          "span",
          {},
          make("span", { class: "chip", style: `background:${colour(line.model)}` }),
          line.model,
        )
      ),
    ),
  );
}

// --- controls of the joint page
function controls() {
  const seeds = [["all", "all"], ...DATA.seeds.map((seed) => [String(seed), String(seed)])];
  const grids = [["training", "training (isotropic)"], ["native", "original scan"]];
  if (byId("table-controls"))
    byId("table-controls").append(
      select("Grid", "table-grid", grids, drawTable),
      select("Seed", "table-seed", [["all", "mean"], ...seeds.slice(1)], drawTable),
    );
  if (byId("verdict-controls"))
    byId("verdict-controls").append(
      select(
        "Show",
        "verdict-filter",
        ["all", "supported", "contradicted", "undecided", "not measured"].map((wanted) => {
          const shown = DATA.verdicts.filter((v) => wanted === "all" || v.verdict === wanted);
          return [wanted, `${wanted} (${shown.length})`];
        }),
        drawVerdicts,
      )
    );
  if (byId("case-controls")) {
    const both = () => { drawCases(); drawPairs(); };
    byId("case-controls").append(
      select("Measure", "case-measure", MEASURES.map((m) => [m.key, m.text]), both),
      select("Grid", "case-grid", grids, both),
      select("Seed", "case-seed", seeds, both),
    );
    const models = DATA.cases.models.map((model) => [model, model]);
    byId("pair-controls").append(
      select("Horizontal axis", "pair-x", models, drawPairs),
      select("Vertical axis", "pair-y", models, drawPairs),
    );
    if (models.length > 1)
      byId("pair-y").value = DATA.cases.models.includes("FL_global") ? "FL_global" : models[1][0];
  }
  if (byId("timeline-controls")) {
    byId("timeline-controls").append(
      select(
        "Run",
        "timeline-run",
        DATA.timelines.map((run, i) => [String(i), run.label]),
        () => { fillRounds(); drawTimeline(); },
      ),
      select("Round", "timeline-round", [], drawTimeline),
    );
    fillRounds();
  }
  if (byId("curve-controls"))
    byId("curve-controls").append(
      select("Run", "curve-run", DATA.curves.map((run, i) => [String(i), run.label]), drawCurves),
      select("Show", "curve-part", DATA.curve_parts, drawCurves),
    );
}
if (DATA.kind === "study") {
  controls();
  for (
    const draw of [
      drawTable,
      drawFroc,
      drawVerdicts,
      drawCases,
      drawPairs,
      drawTimeline,
      drawCurves,
    ]
  ) draw();
}
