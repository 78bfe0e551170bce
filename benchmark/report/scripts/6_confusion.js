// Confusion matrices: log(1 + count) as darkness, counts summed over the runs of a cell.

const confusionSetting = choices("confusion-setting", settingChoices, () => drawConfusions());
const confusionOrder = choices("confusion-order", [], () => drawConfusions());

// The inverse of `pack` in classes.py.
const SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
function unpack(text, side) {
  const values = new Uint32Array(side * side);
  let place = 0;
  const number = (at) => [0, 1, 2, 3].reduce((total, i) => 64 * total + SYMBOLS.indexOf(text[at + i]), 0);
  for (let i = 0; i < text.length; i++) {
    const symbol = SYMBOLS.indexOf(text[i]);
    if (symbol < 40) values[place++] = symbol + 1;
    else if (symbol < 62) place += symbol - 39;
    else {
      const many = number(i + 1);
      i += 4;
      if (symbol === 62) values[place++] = many;
      else place += many;
    }
  }
  return values;
}

function confusionPanel(entry, order) {
  const { m, s, side, block } = entry;
  const values = unpack(entry[order], side);
  const largest = Math.log1p(values.reduce((a, b) => Math.max(a, b), 1));
  const canvas = make("canvas", { width: side, height: side, "aria-hidden": "true" });
  const image = new ImageData(side, side);
  values.forEach((value, i) => { image.data[4 * i + 3] = Math.round((255 * Math.log1p(value)) / largest); });  // black, by opacity
  canvas.getContext("2d").putImageData(image, 0, 0);

  const streams = [...new Set(averaged(m, s).map((result) => runs[result.run].stream))].filter((i) => i !== undefined).map((i) => DATA.streams[i]);
  const overlay = draw("svg", { viewBox: `0 0 ${side} ${side}`, preserveAspectRatio: "none" });
  if (order === "arrival" && streams.length && streams.every((stream) => String(stream.sizes) === String(streams[0].sizes)))
    streams[0].sizes.slice(0, -1).reduce((sum, size) => {
      const at = (sum + size) / block;
      overlay.append(draw("line", { class: "boundary", x1: at, x2: at, y1: 0, y2: side }), draw("line", { class: "boundary", x1: 0, x2: side, y1: at, y2: at }));
      return sum + size;
    }, 0);
  const cursor = draw("rect", { class: "cursor", width: 1, height: 1, visibility: "hidden" });
  overlay.append(cursor);

  const names = streams.length === 1 && block === 1 ? orderedNames(streams[0], order) : [];
  const called = (i) => names[i] ?? (block === 1 ? `${i + 1}` : `${i * block + 1}–${(i + 1) * block}`);
  const totals = Array.from({ length: side }, (_, row) => values.subarray(row * side, (row + 1) * side).reduce((a, b) => a + b, 0));
  const describe = (place) => {
    const [row, column] = [Math.floor(place / side), place % side];
    const share = totals[row] ? ` (${fixed((100 * values[place]) / totals[row], 1)} % of the row)` : "";
    return `true ${called(row)}, predicted ${called(column)}: ${count(values[place], "image")}${share}`;
  };
  readable(overlay, {
    label: `Confusion of ${methods[m].name}, ${settings[s].name}`,
    places: side * side,
    at: (event) => {
      const box = overlay.getBoundingClientRect();
      const clamp = (value) => Math.max(0, Math.min(side - 1, Math.floor(value * side)));
      return clamp((event.clientY - box.top) / box.height) * side + clamp((event.clientX - box.left) / box.width);
    },
    move: (place, pressed) => {
      const [row, column] = [Math.floor(place / side), place % side];
      const to = { ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], Home: [row, 0], End: [row, side - 1] }[pressed];
      return to ? Math.max(0, Math.min(side - 1, to[0])) * side + Math.max(0, Math.min(side - 1, to[1])) : null;
    },
    describe,
    show: (place, event) => {
      const box = overlay.getBoundingClientRect();
      cursor.setAttribute("visibility", "visible");
      cursor.setAttribute("x", place % side);
      cursor.setAttribute("y", Math.floor(place / side));
      showTip(event?.clientX ?? box.left + ((place % side) / side) * box.width, event?.clientY ?? box.top + (Math.floor(place / side) / side) * box.height,
        make("div", {}, describe(place)));
    },
    hide: () => cursor.setAttribute("visibility", "hidden"),
  });
  return make("figure", { class: "panel" }, make("h3", {}, methods[m].name),
    make("p", { class: "note" }, `${count(entry.runs, "run")}${block > 1 ? `, blocks of ${block} classes` : ""}`),
    make("div", { class: "matrix" }, canvas, overlay));
}

const orderedNames = (stream, order) => {
  const places = [...stream.names.keys()];
  if (order === "images") places.sort((a, b) => stream.images[b] - stream.images[a] || a - b);
  return places.map((place) => stream.names[place]);
};

function drawConfusions() {
  const s = Number(confusionSetting.value);
  const order = confusionOrder.value;
  const panels = shownMethods().map((m) => DATA.confusions.find((entry) => entry.m === m && entry.s === s)).filter(Boolean)
    .map((entry) => confusionPanel(entry, order));
  byId("confusion-panels").replaceChildren(...(panels.length ? panels : [nothing("No finished run shown has a confusion matrix in this setting.")]));
  byId("confusion-note").textContent = [
    "Rows: true class; columns: predicted class; after the last experience. Darkness: log(1 + test images), summed over the runs of a cell",
    order === "arrival" ? "at the same place of the arrival order; lines: experiences." : "at the same rank by training images, head first.",
    ...(settings[s]?.protocol ?? []),
  ].join(" ");
}
sections.push(drawConfusions);
