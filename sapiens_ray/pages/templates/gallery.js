// The gallery: a grid that holds only the cards in view, filters, sorting, a large view, keys.
"use strict";
(() => {
  const byId = (name) => document.getElementById(`gallery-${name}`);
  const data = JSON.parse(byId("data").textContent);
  const total = data.ids.length;
  const lower = data.ids.map((id) => id.toLowerCase());
  const [view, space, large] = [byId("view"), byId("space"), byId("large")];
  const BEYOND = 2;  // rows of cards that are kept above and below the view
  let found = [];  // rows of the data that match, in order
  let current = 0;  // position in `found` of the card that has the focus
  let side = 0;  // position in `data.sides` of what is laid over photos; -1 for the photos alone
  let opened = null;  // row of the data in the large view
  let opener = null;  // button of a contact sheet that opened it
  let columns = 1, cardWidth = 0, cardHeight = 0;
  const cards = new Map();  // position in `found` -> element

  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const option = (select, value, text) => {
    const made = element("option", "", text);
    made.value = value;
    select.append(made);
  };

  // What is chosen.
  const chosenLayer = () => data.layers[byId("layer").value] ?? null;
  const layerWith = (has) => (chosenLayer() ? [chosenLayer()] : data.layers).find(has) ?? null;
  const confidenceLayer = () => layerWith((layer) => layer.confidence);
  const classLayer = () => layerWith((layer) => layer.classes);
  const hasClass = (mask, number) => Math.floor(mask / 2 ** number) % 2 === 1;
  const shown = (value, digits) => value === null ? "–" : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});

  function fillChoices() {
    const layer = byId("layer");
    option(layer, "", "all");
    data.layers.forEach((one, number) => option(layer, number, one.name));
    const errors = byId("error");
    option(errors, "", "all images");
    option(errors, "none", "without error");
    if (data.kinds.length) option(errors, "any", "any error");
    data.kinds.forEach((kind, number) => option(errors, number, kind));
    fillOfLayer();
  }

  function fillOfLayer() {
    const classes = byId("class"), layer = classLayer(), before = byId("sort").value;
    classes.replaceChildren();
    option(classes, "", "all");
    const seen = new Map();
    if (layer) for (const mask of layer.masks) if (!seen.has(mask)) seen.set(mask, true);
    (layer ? layer.classes : []).forEach((name, number) => {
      if ([...seen.keys()].some((mask) => hasClass(mask, number))) option(classes, number, name);
    });
    classes.disabled = !layer;
    const sure = confidenceLayer();
    byId("confidence-name").textContent = sure ? `${sure.name}: ${sure.confidenceName}` : "Confidence";
    fitConfidence(sure);
    const sort = byId("sort");
    sort.replaceChildren();
    option(sort, "plan", "as planned");
    option(sort, "id", "name");
    if (sure) {
      option(sort, "least", "least confident first");
      option(sort, "most", "most confident first");
    }
    option(sort, "large", "largest photo first");
    data.layers.forEach((one, number) => {
      if (chosenLayer() && one !== chosenLayer()) return;
      one.measures.forEach((measure, which) => {
        option(sort, `${number}:${which}:up`, `${one.name}: ${measure.name}, rising`);
        option(sort, `${number}:${which}:down`, `${one.name}: ${measure.name}, falling`);
      });
    });
    if ([...sort.options].some((one) => one.value === before)) sort.value = before;
    else sort.value = firstOrder();
  }

  // Pages on differences show the largest ones first; others keep the order of the plan.
  function firstOrder() {
    const options = [...byId("sort").options].filter((one) => data.sides.length > 1 && one.value.endsWith(":down"));
    return options.length ? options[0].value : "plan";
  }

  // The limits of another layer say nothing of this one: its values may have another scale.
  function fitConfidence(sure) {
    const known = sure ? sure.confidence.filter((value) => value !== null) : [];
    const low = known.reduce((least, value) => Math.min(least, value), 0);
    const high = known.reduce((most, value) => Math.max(most, value), low);
    const rough = (high - low || 1) / 20, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= 0.999 * rough);
    const rounded = (value) => Number(value.toPrecision(12));
    for (const name of ["from", "to"]) {
      const field = byId(name);
      [field.value, field.disabled] = ["", !sure];
      [field.min, field.max, field.step] = [Math.floor(low / step) * step, Math.ceil(high / step) * step, step].map(rounded);
    }
  }

  function sortKey(way) {
    const sure = confidenceLayer();
    if (way === "least") return [(row) => sure.confidence[row], 1];
    if (way === "most") return [(row) => sure.confidence[row], -1];
    if (way === "large") return [(row) => data.widths[row] === null ? null : data.widths[row] * data.heights[row], -1];
    const [layer, measure, direction] = way.split(":");
    const values = data.layers[layer].measures[measure].values;
    return [(row) => values[row], direction === "up" ? 1 : -1];
  }

  function filter() {
    const layer = chosenLayer(), sure = confidenceLayer(), ofClasses = classLayer();
    const wantedClass = byId("class").value, error = byId("error").value;
    const [from, to] = ["from", "to"].map((name) => sure && byId(name).value !== "" ? Number(byId(name).value) : null);
    const text = byId("search").value.trim().toLowerCase(), drawn = byId("drawn").checked;
    found = [];
    for (let row = 0; row < total; row++) {
      const kind = data.errors[row];
      if (error === "none" ? kind >= 0 : error === "any" ? kind < 0 : error !== "" && kind !== Number(error)) continue;
      if (layer && kind >= 0) continue;  // an error row has no labels
      if (wantedClass !== "" && !hasClass(ofClasses.masks[row], Number(wantedClass))) continue;
      if (from !== null || to !== null) {
        const value = sure.confidence[row];
        if (value === null || (from !== null && value < from) || (to !== null && value > to)) continue;
      }
      if (drawn && data.thumbnails[row] < 0) continue;
      if (text && !lower[row].includes(text)) continue;
      found.push(row);
    }
    sortFound(byId("sort").value);
    byId("count").textContent = found.length === total ? `${total.toLocaleString("en")} images` : `${found.length.toLocaleString("en")} of ${total.toLocaleString("en")} images match`;
    current = 0;
    view.scrollTop = 0;
    redraw();
  }

  function sortFound(way) {
    if (way === "plan") return;
    if (way === "id") {
      found.sort((one, other) => lower[one] < lower[other] ? -1 : lower[one] > lower[other] ? 1 : one - other);
      return;
    }
    const [key, sign] = sortKey(way);
    const unknown = found.filter((row) => key(row) === null);  // they come last, whatever the direction
    const known = found.filter((row) => key(row) !== null);
    known.sort((one, other) => sign * (key(one) - key(other)) || one - other);
    found = known.concat(unknown);
  }

  // Pictures of a row.
  function picture(row) {
    const thumbnail = data.thumbnails[row];
    if (thumbnail < 0) return "";
    const photo = data.photos[thumbnail];
    if (side < 0) return photo;
    const layer = chosenLayer();
    const ofLayer = (one) => (side === 0 ? one.pictures : one.others)[thumbnail];
    const labels = layer ? ofLayer(layer) : data.layers.map(ofLayer).find((one) => one);
    return labels || photo;
  }

  function alternative(row) {
    const kind = data.errors[row];
    if (kind >= 0) return `${data.ids[row]}, error: ${data.kinds[kind]}`;
    return `${data.ids[row]}, ${side < 0 ? "photo" : data.sides.length > 1 ? `labels of ${data.sides[side]}` : "labels"}`;
  }

  function fillFrame(frame, row, long) {
    const source = picture(row);
    if (source) {
      const image = element("img");
      image.alt = alternative(row);
      image.src = source;
      frame.replaceChildren(image);
      return;
    }
    const kind = data.errors[row];
    const size = data.widths[row] === null ? "" : `${data.widths[row]} × ${data.heights[row]}`;
    const text = kind >= 0 ? `${data.kinds[kind]}${data.messages[row] ? `: ${data.messages[row]}` : ""}` : [size, "no picture here"].filter((part) => part).join("\n");
    frame.replaceChildren(element("span", "tile", long ? text : text.slice(0, 120)));
  }

  function detail(row) {
    const kind = data.errors[row];
    if (kind >= 0) return data.kinds[kind];
    const parts = [];
    const sure = confidenceLayer();
    if (sure && sure.confidence[row] !== null) parts.push(shown(sure.confidence[row], 2));
    const layer = chosenLayer();
    for (const one of layer ? [layer] : data.layers)
      for (const measure of one.measures.slice(0, 1))
        if (measure.values[row] !== null && (layer || measure.digits === 0)) parts.push(`${measure.name} ${shown(measure.values[row], measure.digits)}`);
    if (!parts.length && data.widths[row] !== null) parts.push(`${data.widths[row]} × ${data.heights[row]}`);
    return parts.join(" · ");
  }

  // The grid.
  function measureGrid() {
    const width = view.clientWidth;
    columns = Math.max(2, Math.floor(width / 200));
    cardWidth = width / columns;
    cardHeight = Math.round(cardWidth + 44);
  }

  function makeCard(position) {
    const row = found[position];
    const card = element("button", "card");
    card.type = "button";
    card.dataset.position = position;
    card.title = data.ids[row];
    card.style.width = `${cardWidth}px`;
    card.style.height = `${cardHeight}px`;
    card.style.transform = `translate(${position % columns * cardWidth}px, ${Math.floor(position / columns) * cardHeight}px)`;
    const frame = element("span", "frame");
    frame.style.height = `${Math.round(cardWidth - 16)}px`;
    fillFrame(frame, row, false);
    const title = element("span", "title");
    title.append(element("bdi", "", data.ids[row]));
    card.append(frame, title, element("span", "detail", detail(row)));
    return card;
  }

  function drawView() {
    const top = Math.floor(view.scrollTop / cardHeight) - BEYOND;
    const rows = Math.ceil(view.clientHeight / cardHeight) + 2 * BEYOND;
    const first = Math.max(0, top * columns), last = Math.min(found.length, (top + rows + 1) * columns);
    for (const [position, card] of cards) {
      if (position < first || position >= last) {
        if (card === document.activeElement) view.focus({preventScroll: true});
        card.remove();
        cards.delete(position);
      }
    }
    for (let position = first; position < last; position++) {
      if (cards.has(position)) continue;
      const card = makeCard(position);
      cards.set(position, card);
      space.append(card);
    }
    for (const [position, card] of cards) card.tabIndex = position === current ? 0 : -1;
  }

  function redraw() {
    measureGrid();
    for (const card of cards.values()) card.remove();
    cards.clear();
    space.style.height = `${Math.ceil(found.length / columns) * cardHeight}px`;
    drawView();
  }

  function moveTo(position, focus) {
    if (!found.length) return;
    current = Math.min(found.length - 1, Math.max(0, position));
    const top = Math.floor(current / columns) * cardHeight;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + cardHeight > view.scrollTop + view.clientHeight) view.scrollTop = top + cardHeight - view.clientHeight;
    drawView();
    if (focus) cards.get(current)?.focus({preventScroll: true});
  }

  // The large view.
  function open(row) {
    opened = row;
    drawLarge();
    if (!large.open) large.showModal();
  }

  function fact(name, value) {
    const line = element("div"), cell = element("dd");
    cell.append(value);
    line.append(element("dt", "", name), cell);
    byId("large-facts").append(line);
  }

  function classesOf(layer, row) {
    const list = element("span", "classes");
    layer.classes.forEach((name, number) => {
      if (!hasClass(layer.masks[row], number)) return;
      const item = element("span"), patch = element("i", "swatch");
      patch.style.background = `rgb(${layer.colours[number].join(" ")})`;
      item.append(patch, name);
      list.append(item);
    });
    return list;
  }

  function drawLarge() {
    const row = opened;
    byId("large-title").textContent = data.ids[row];
    fillFrame(byId("large-picture"), row, true);
    byId("large-facts").replaceChildren();
    if (data.errors[row] >= 0) fact("error", `${data.kinds[data.errors[row]]}${data.messages[row] ? `: ${data.messages[row]}` : ""}`);
    if (data.widths[row] !== null) fact("size", `${data.widths[row]} × ${data.heights[row]} pixels`);
    if (data.places[row]) fact("where", data.places[row]);
    const only = chosenLayer();
    const labelled = data.errors[row] < 0;
    for (const layer of !labelled ? [] : only ? [only] : data.layers) {
      if (layer.confidence && layer.confidence[row] !== null) fact(`${layer.name}: ${layer.confidenceName}`, shown(layer.confidence[row], 3));
      for (const measure of layer.measures) if (measure.values[row] !== null && !(layer.classes && measure.name === "classes")) fact(`${layer.name}: ${measure.name}`, shown(measure.values[row], measure.digits));
      if (layer.classes) fact(`${layer.name}: classes`, classesOf(layer, row));
    }
    const position = found.indexOf(row);
    byId("previous").disabled = position <= 0;
    byId("next").disabled = position < 0 || position >= found.length - 1;
  }

  function step(by) {
    const position = found.indexOf(opened) + by;
    if (found.indexOf(opened) < 0 || position < 0 || position >= found.length) return;
    moveTo(position, false);
    open(found[position]);
  }

  function nameSide() {
    for (const name of ["overlay", "large-overlay"]) {
      byId(name).setAttribute("aria-pressed", side >= 0);
      if (data.sides.length > 1) byId(name).textContent = `Shown: ${side < 0 ? "photo" : data.sides[side]}`;
    }
  }

  function switchOverlay() {
    side = side + 1 < data.sides.length ? side + 1 : -1;
    nameSide();
    for (const [position, card] of cards) fillFrame(card.querySelector(".frame"), found[position], false);
    if (large.open) drawLarge();
  }

  function reset() {
    for (const name of ["layer", "class", "error", "search"]) byId(name).value = "";
    byId("drawn").checked = false;
    fillOfLayer();
    byId("sort").value = firstOrder();
    filter();
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.("input:not([type=checkbox]), select, textarea");
    if (event.key === "o" && !typing) {
      switchOverlay();
      return;
    }
    if (large.open) {
      const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (by) step(by);
      return;
    }
    if (!view.contains(event.target)) return;
    const onView = event.target === view;  // the first arrow enters the grid
    const by = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
    const to = by ? (onView ? current : current + by) : {Home: 0, End: found.length - 1}[event.key];
    if (to !== undefined) {
      event.preventDefault();
      if (to >= 0 && to < found.length) moveTo(to, true);
    } else if (event.key === "Enter" && onView && found.length) {
      event.preventDefault();
      open(found[current]);
    }
  }

  let asked = false;
  view.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; drawView(); });
  }, {passive: true});
  view.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    current = Number(card.dataset.position);
    open(found[current]);
  });
  view.addEventListener("focusin", (event) => {
    const card = event.target.closest(".card");
    if (card) { current = Number(card.dataset.position); drawView(); }
  });
  for (const button of document.querySelectorAll("[data-row]")) button.addEventListener("click", () => { opener = button; open(Number(button.dataset.row)); });
  document.addEventListener("keydown", key);
  large.addEventListener("close", () => {
    if (opener) opener.focus({preventScroll: true});
    else if (found[current] === opened) moveTo(current, cards.has(current) && view.contains(document.activeElement));
    opened = opener = null;
  });
  for (const name of ["class", "error", "sort"]) byId(name).addEventListener("change", filter);
  for (const name of ["from", "to", "search"]) byId(name).addEventListener("input", filter);
  byId("drawn").addEventListener("change", filter);
  byId("layer").addEventListener("change", () => { fillOfLayer(); filter(); });
  byId("overlay").addEventListener("click", switchOverlay);
  byId("large-overlay").addEventListener("click", switchOverlay);
  byId("reset").addEventListener("click", reset);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => large.close());
  new ResizeObserver(() => {
    if (view.clientWidth && Math.abs(view.clientWidth / columns - cardWidth) > 0.5) redraw();
  }).observe(view);
  fillChoices();
  nameSide();
  filter();
})();
