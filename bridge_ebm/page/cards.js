// The grid of cards: sorting, filtering, moving about with the keyboard, favourites.

const SORTS = {
  rank: (a, b) => a.rank - b.rank,
  name: (a, b) => a.name.localeCompare(b.name),
  novelty: falling("novelty"),
  axial_share: falling("axial_share"),
  gain: falling("gain"),
  symmetry: falling("symmetry"),
};
const grid = byId("cards");
const cards = new Map(); // design -> its list item
let order = []; // the designs that pass the filters, as sorted
let current = null; // the design whose card the tab key reaches

function falling(key) {
  return (a, b) => (known(b[key]) ? b[key] : -Infinity) - (known(a[key]) ? a[key] : -Infinity) || a.rank - b.rank;
}

const visible = () => order;
const openButton = (design) => cards.get(design).querySelector(".open");
const starButton = (design) => cards.get(design).querySelector(".star");

function card(design) {
  const { width, height } = design;
  const picture = make("img", { src: png(design.image), alt: `Picture of ${design.name}`, width, height, decoding: "async" });
  const open = make("button", { type: "button", class: "open", tabindex: "-1" },
    picture,
    make("span", { class: "name" }, design.name),
    make("span", { class: "line" }, mark(design.verdict), ` ${meaning(design.verdict)}`),
    make("span", { class: "line quiet" }, `novelty ${figure(design.novelty, 3)}`));
  const star = make("button", { type: "button", class: "star", tabindex: "-1" });
  open.addEventListener("click", () => openLarge(design));
  star.addEventListener("click", () => favour(design));
  const item = make("li", { class: "card" }, open, star);
  item.addEventListener("focusin", () => setCurrent(design));
  setStar(star, design);
  return item;
}

/** Make `design` the one card that the tab key reaches. */
function setCurrent(design) {
  for (const [of, index] of [[current, "-1"], [design, "0"]]) {
    if (!of) continue;
    openButton(of).setAttribute("tabindex", index);
    starButton(of).setAttribute("tabindex", index);
  }
  current = design;
}

function focusCard(design) {
  const target = order.includes(design) ? design : order[0];
  if (target) openButton(target).focus();
  else byId("reset").focus();
}

function favour(design) {
  toggleFavourite(design);
  for (const twin of designs) if (twin.id === design.id) setStar(starButton(twin), twin);
  if (large.open) setStar(byId("large-star"), design);
  showChosen();
  if (!byId("only").checked) return;
  const here = !large.open && cards.get(design).contains(document.activeElement);
  const place = order.indexOf(design);
  arrange();
  if (here && order.length) focusCard(order[Math.min(place, order.length - 1)]);
  else if (here) byId("only").focus();
}

function showChosen() {
  const count = chosen().length;
  byId("chosen").textContent = `★ ${plural(count, "favourite")}`;
  byId("zip").disabled = byId("csv").disabled = count === 0;
}

const checked = (id) => [...byId(id).querySelectorAll("input:checked")].map((box) => box.value);

/** Sort and filter as the controls say. */
function arrange() {
  const verdicts = checked("verdicts"), subtypes = checked("subtypes");
  const way = byId("way").value, novelty = Number(byId("novelty").value), only = byId("only").checked;
  byId("novelty-value").textContent = novelty.toFixed(3);
  order = designs
    .filter((design) =>
      (!verdicts.length || verdicts.includes(design.verdict)) &&
      subtypes.every((name) => design.subtypes.includes(name)) &&
      (!way || design.way === way) &&
      (!novelty || design.novelty >= novelty) &&
      (!only || isFavourite(design)))
    .sort(SORTS[byId("sort").value]);
  grid.replaceChildren(...order.map((design) => cards.get(design)));
  setCurrent(order.includes(current) ? current : order[0] ?? null);
  byId("count").textContent = designs.length ? `${order.length} of ${plural(designs.length, "design")}` : "";
  byId("none").hidden = order.length > 0;
  byId("none").textContent = designs.length
    ? "No design fits these filters. “Show all” takes them off."
    : "There are no designs here: none of the candidates passed. Generate more of them, or by other ways.";
}

function resetFilters() {
  for (const box of document.querySelectorAll("#filters input[type=checkbox]")) box.checked = false;
  byId("way").value = "";
  byId("novelty").value = 0;
  arrange();
}

function chip(value, ...text) {
  return make("label", { class: "chip" }, make("input", { type: "checkbox", value }), make("span", {}, ...text));
}

const distinct = (values) => [...new Set(values)].filter(Boolean).sort();
const alike = (values) => new Set(values).size < 2;
const tally = (test) => String(designs.filter(test).length);

function fillControls() {
  for (const verdict of distinct(designs.map((design) => design.verdict)))
    byId("verdicts").append(chip(verdict, mark(verdict), ` ${meaning(verdict)} `, make("small", {}, tally((d) => d.verdict === verdict))));
  const held = distinct(designs.flatMap((design) => design.subtypes));
  const place = (name) => (SUBTYPES.includes(name) ? SUBTYPES.indexOf(name) : SUBTYPES.length);
  for (const name of held.sort((a, b) => place(a) - place(b)))
    byId("subtypes").append(chip(name, `${words(name)} `, make("small", {}, tally((d) => d.subtypes.includes(name)))));
  for (const way of distinct(designs.map((design) => design.way)))
    byId("way").append(make("option", { value: way }, words(way)));
  const most = Math.max(0, ...designs.map((design) => design.novelty).filter(known));
  byId("novelty").max = (Math.floor(most / 0.005) * 0.005).toFixed(3);
  const filters = {
    verdicts: (design) => design.verdict,
    subtypes: (design) => [...design.subtypes].sort().join(),
    ways: (design) => design.way,
    novelties: (design) => design.novelty,
  };
  for (const [id, value] of Object.entries(filters)) byId(id).hidden = alike(designs.map(value)); // nothing to choose
  for (const id of ["filters", "terms", "export"]) byId(id).hidden = designs.length === 0;
  byId("filters").open = !matchMedia("(max-width: 40rem)").matches;
}

/** How many cards stand in a row now. */
function columns() {
  const tops = order.map((design) => cards.get(design).offsetTop);
  const second = tops.findIndex((top) => top > tops[0]);
  return second < 0 ? order.length : second;
}

grid.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !current) return;
  if (event.key === "f") return favour(current);
  const here = order.indexOf(current), last = order.length - 1;
  const steps = { ArrowLeft: here - 1, ArrowRight: here + 1, ArrowUp: here - columns(), ArrowDown: here + columns(), Home: 0, End: last };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const next = steps[event.key];
  if (next >= 0 && next <= last) focusCard(order[next]);
});
byId("filters").addEventListener("input", arrange);
byId("reset").addEventListener("click", resetFilters);
byId("zip").addEventListener("click", () => saveZip(chosen()));
byId("csv").addEventListener("click", () => saveCsv(chosen()));

for (const design of designs) cards.set(design, card(design));
fillControls();
showChosen();
arrange();
