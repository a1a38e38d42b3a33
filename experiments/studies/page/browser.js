"use strict";
// Slices of a case, overlaid with the truth and the predictions. The page contains each volume as
// a montage: one PNG of all slices and one PNG of labels per model. A case's JSON is parsed when
// the case is chosen.
function caseBrowser(place, titles) {
  const cases = new Proxy(
    [],
    {
      get: (kept, index) => (
        kept[index] = kept[index] || JSON.parse(byId(`case-${index}`).textContent)
      )
    },
  );
  const state = { index: 0, slice: 0, pancreas: true, tumour: true, outline: false, opacity: 0.5 };
  const colours = { 1: [63, 151, 255], 2: [255, 214, 10] };
  const tag = (name, attributes = {}, ...children) => make(name, attributes, ...children);
  const chosen = select(
    "Case",
    "browser-case",
    titles.map((title, i) => [String(i), title]),
    (event) => show(Number(event.target.value)),
  );
  const slider = tag(
    "input",
    {
      id: "browser-slice",
      type: "range",
      min: 0,
      max: 0,
      value: 0,
      oninput: (event) => { state.slice = Number(event.target.value); paint(); },
    },
  );
  const position = tag("output", { id: "browser-position" });
  const check = (id, text, key) => {
    const box = tag(
      "input",
      {
        id,
        type: "checkbox",
        onchange: (event) => { state[key] = event.target.checked; paint(); },
      },
    );
    box.checked = state[key];
    return tag("label", {}, box, text);
  };
  const opacity = tag(
    "input",
    {
      id: "browser-opacity",
      type: "range",
      min: 0,
      max: 100,
      value: 50,
      oninput: (event) => { state.opacity = event.target.value / 100; paint(); },
    },
  );
  const panels = tag("div", { class: "panels", id: "browser-panels" });
  place.append(
    tag(
      "div",
      { class: "controls" },
      chosen,
      tag("label", {}, "Slice", slider, position),
      check("browser-pancreas", "pancreas", "pancreas"),
      check("browser-tumour", "tumour", "tumour"),
      check("browser-outline", "outline", "outline"),
      tag("label", {}, "Opacity", opacity),
    ),
    panels,
    tag(
      "p",
      {
        class: "note",
        text: "Axial slices; the patient's right is on the left. To move through the slices, "
          + "scroll over a picture or use the arrow keys on the slider. P and T are the Dice of "
          + "pancreas and tumour over the whole case.",
      },
    ),
  );

  const loading = new Map();
  function load(url) {
    if (!loading.has(url))
      loading.set(
        url,
        new Promise(
          (done, failed) => {
            const image = new Image();
            image.onload = () => done(image);
            image.onerror = failed;
            image.src = url;
          }
        ),
      );
    return loading.get(url);
  }
  async function labels(url) {
    const image = await load(url), canvas = document.createElement("canvas");
    canvas.width = image.width; canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, image.width, image.height).data;
    const found = new Uint8Array(image.width * image.height);
    for (let i = 0; i < found.length; i++) found[i] = Math.round(pixels[4 * i] / 100);
    return { found, width: image.width };
  }
  let shown = null;
  async function show(index) {
    state.index = index;
    const entry = cases[index];
    state.slice = entry.start;
    slider.max = entry.slices - 1; slider.value = entry.start;
    const image = await load(entry.image);
    const names = ["CT", "truth", ...Object.keys(entry.masks)];
    const masks = [
      null,
      await labels(entry.truth),
      ...(await Promise.all(Object.values(entry.masks).map(labels))),
    ];
    if (state.index !== index) return;
    const scale = Math.max(1, Math.round(420 / entry.width));
    const canvases = names.map((name) => {
      const canvas = tag(
        "canvas",
        {
          width: entry.width * scale,
          height: entry.height * scale,
          style: `aspect-ratio:${entry.width * entry.spacing[0]}`
            + `/${entry.height * entry.spacing[1]}`,
          "aria-label": name,
        },
      );
      canvas.addEventListener(
        "wheel",
        (event) => { event.preventDefault(); move(Math.sign(event.deltaY)); },
        { passive: false },
      );
      return canvas;
    });
    panels.replaceChildren(
      ...names.map(
        (name, i) => tag(
          "figure",
          { class: "panel" },
          canvases[i],
          tag(
            "figcaption",
            {},
            tag("span", { text: name }),
            tag("span", { text: entry.captions[name] || "" }),
          ),
        )
      )
    );
    shown = { entry, image, masks, canvases, scale };
    paint();
    place.dataset.ready = String(index);
  }
  function move(step) {
    const entry = cases[state.index];
    state.slice = Math.min(entry.slices - 1, Math.max(0, state.slice + step));
    slider.value = state.slice;
    paint();
  }
  function paint() {
    if (!shown) return;
    const { entry, image, masks, canvases, scale } = shown, { width, height, columns } = entry;
    const left = (state.slice % columns) * width, top = Math.floor(state.slice / columns) * height;
    position.textContent = `${state.slice + 1} of ${entry.slices}`;
    canvases.forEach((canvas, i) => {
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.imageSmoothingEnabled = true;
      context.drawImage(image, left, top, width, height, 0, 0, canvas.width, canvas.height);
      if (masks[i]) overlay(context, masks[i], left, top, width, height, scale);
    });
  }
  function overlay(context, mask, left, top, width, height, scale) {
    const picture = context.getImageData(0, 0, width * scale, height * scale);
    const pixels = picture.data;
    const wide = width * scale;
    const at = (x, y) => (
      x < 0 || y < 0 || x >= width || y >= height
        ? 0
        : mask.found[(top + y) * mask.width + left + x]
    );
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      const value = at(x, y);
      if (!value || (value === 1 && !state.pancreas) || (value === 2 && !state.tumour)) continue;
      const edge = [
        at(x - 1, y) !== value,
        at(x + 1, y) !== value,
        at(x, y - 1) !== value,
        at(x, y + 1) !== value,
      ];
      for (let j = 0; j < scale; j++) for (let i = 0; i < scale; i++) {
        const rim = (edge[0] && i === 0)
          || (edge[1] && i === scale - 1)
          || (edge[2] && j === 0)
          || (edge[3] && j === scale - 1);
        const share = rim ? Math.min(1, state.opacity + 0.35) : state.outline ? 0 : state.opacity;
        if (share <= 0) continue;
        const place = 4 * ((y * scale + j) * wide + x * scale + i);
        for (let c = 0; c < 3; c++)
          pixels[place + c] = pixels[place + c] * (1 - share) + colours[value][c] * share;
      }
    }
    context.putImageData(picture, 0, 0);
  }
  return show(0);
}
if (DATA.browser && DATA.browser.length) caseBrowser(byId("browser"), DATA.browser);
