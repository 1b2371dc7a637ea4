// The large view of one design: forces, the most similar picture, the chain from noise, figures.

const large = byId("large");
const SVG = "http://www.w3.org/2000/svg"; // a name, not an address that is fetched
const PLOT = { width: 320, height: 110, left: 4, right: 4, top: 18, bottom: 18 };
let shown = null; // the design in the large view

function openLarge(design) {
  fill(design);
  large.showModal();
  large.scrollTop = 0;
}

function fill(design) {
  shown = design;
  byId("large-name").textContent = design.name;
  byId("large-verdict").replaceChildren(mark(design.verdict), ` ${meaning(design.verdict)}`);
  byId("reasons").replaceChildren(...design.reasons.map((reason) => make("li", {}, reason)));
  setStar(byId("large-star"), design);
  const order = visible();
  const place = order.indexOf(design);
  byId("place").textContent = place < 0 ? "" : `${place + 1} of ${order.length}`;
  switchOff("previous", place <= 0);
  switchOff("next", place < 0 || place === order.length - 1);
  setPicture("picture", design.image, `Picture of ${design.name}`);
  byId("picture-text").textContent = `The design, ${design.width} × ${design.height} pixels`;
  setPicture("forces", design.forces, `Forces in the members of ${design.name}`, "forces-figure");
  const nearest = design.nearest ? words(design.nearest) : "sub-type not known";
  const caption = `The most similar picture of the nearest sub-type: ${nearest}`;
  setPicture("nearest", design.nearest_image, caption, "nearest-figure");
  byId("nearest-text").textContent = caption;
  byId("facts").replaceChildren(...facts(design).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  switchOff("save-svg", !design.svg);
  fillChain(design);
}

/** Switch a button off or on. One that is off keeps the focus, so the keys go on working; its click does nothing. */
function switchOff(id, off) {
  byId(id).setAttribute("aria-disabled", String(off));
}

function setPicture(id, data, text, holder = id) {
  byId(holder).hidden = !data;
  if (data) byId(id).src = png(data);
  else byId(id).removeAttribute("src");
  byId(id).alt = text;
}

function facts(design) {
  const novel = known(design.novelty) && design.novelty > NOVEL ? ", novel" : "";
  const sharp = { softness: "Softness of edges", line_contrast: "Line contrast", background: "Background", ghost: "Ghost lines" };
  return [
    ["Made by", words(design.how) || "not known"],
    ["Lines also found in", parts(design) || "not known"],
    ["Novelty", figure(design.novelty, 3) + novel],
    ["Energy", figure(design.energy, 3)],
    ["Axial share", percent(design.axial_share)],
    ["Stiffness gain", known(design.gain) ? `${figure(design.gain, 1)} decades` : "not known"],
    ["Symmetry", percent(design.symmetry)],
    ...Object.entries(sharp)
      .filter(([key]) => known(design.definition[key]))
      .map(([key, name]) => [name, figure(design.definition[key], 3)]),
    ["File", design.file || "none"],
  ];
}

function fillChain(design) {
  const count = design.frames.length;
  byId("chain").hidden = count === 0 && design.energies.length === 0;
  for (const id of ["frame", "step", "step-line"]) byId(id).hidden = count === 0;
  byId("step").max = Math.max(count - 1, 0);
  byId("step").value = Math.max(count - 1, 0);
  byId("plot").replaceChildren(...plot(design));
  showFrame();
}

/** Where along the chain, from 0 to 1, frame `k` is. */
function along(design, k) {
  const last = design.steps.at(-1);
  if (last > 0) return design.steps[k] / last;
  return design.frames.length > 1 ? k / (design.frames.length - 1) : 1;
}

/** The energy at a place from 0 to 1 along the chain, between its neighbours where it falls between two. */
function energyAt(energies, place) {
  const at = place * (energies.length - 1);
  const before = energies[Math.floor(at)], after = energies[Math.ceil(at)];
  return known(before) && known(after) ? before + (at - Math.floor(at)) * (after - before) : null;
}

function showFrame() {
  const k = Number(byId("step").value);
  if (!shown.frames.length) return;
  const place = along(shown, k);
  const energy = energyAt(shown.energies, place);
  const step = shown.steps.length ? `step ${shown.steps[k]}` : `${k + 1} of ${shown.frames.length}`;
  const text = step + (known(energy) ? `, energy ${figure(energy, 3)}` : "");
  byId("frame").src = png(shown.frames[k]);
  byId("frame").alt = `The chain at ${text}`;
  byId("step-text").textContent = text;
  byId("step").setAttribute("aria-valuetext", text);
  const now = byId("plot").querySelector(".now");
  if (now) {
    const x = PLOT.left + place * (PLOT.width - PLOT.left - PLOT.right);
    now.setAttribute("x1", x);
    now.setAttribute("x2", x);
  }
}

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** The energy along the chain as a small drawing, or nothing. */
function plot(design) {
  const values = design.energies.filter(known);
  if (values.length < 2) return [];
  const low = Math.min(...values), high = Math.max(...values);
  const bottom = PLOT.height - PLOT.bottom;
  const x = (k) => PLOT.left + (k / (design.energies.length - 1)) * (PLOT.width - PLOT.left - PLOT.right);
  const y = (energy) => bottom - ((energy - low) / (high - low || 1)) * (bottom - PLOT.top);
  const label = `Energy along the chain, between ${figure(low, 3)} and ${figure(high, 3)}`;
  const picture = draw("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", "aria-label": label });
  let path = "", pen = "M";
  design.energies.forEach((energy, k) => {
    if (known(energy)) path += `${pen}${x(k).toFixed(1)} ${y(energy).toFixed(1)}`;
    pen = known(energy) ? "L" : "M";
  });
  const end = design.steps.at(-1);
  picture.append(
    draw("line", { class: "axis", x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: bottom, y2: bottom }),
    draw("path", { class: "energy", d: path }),
    draw("line", { class: "now", y1: PLOT.top - 4, y2: bottom }),
    draw("text", { x: PLOT.left, y: 11 }, `energy ${figure(high, 2)} … ${figure(low, 2)}`),
    draw("text", { x: PLOT.left, y: PLOT.height - 4 }, "noise"),
    draw("text", { x: PLOT.width - PLOT.right, y: PLOT.height - 4, "text-anchor": "end" }, end ? `step ${end}` : "end"),
  );
  return [picture];
}

function turn(by) {
  const order = visible();
  const next = order[order.indexOf(shown) + by];
  if (next) fill(next);
}

byId("step").addEventListener("input", showFrame);
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
byId("close").addEventListener("click", () => large.close());
byId("large-star").addEventListener("click", () => favour(shown));
byId("save-png").addEventListener("click", () => savePng(shown));
byId("save-svg").addEventListener("click", () => shown.svg && saveSvg(shown));
large.addEventListener("click", (event) => event.target === large && large.close()); // a click beside it
large.addEventListener("close", () => focusCard(shown));
large.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "f") favour(shown);
  else if (event.target.type === "range") return;
  else if (event.key === "ArrowLeft") turn(-1);
  else if (event.key === "ArrowRight") turn(1);
});
