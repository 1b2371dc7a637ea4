"use strict";
// The designs as gallery.py wrote them, and what the other scripts share. Every text is inserted as text, never as markup.

const { designs, subtypes: SUBTYPES } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const VERDICTS = { A: "stands as drawn", B: "stands after repair", C: "does not stand" };
const NOVEL = 0.035; // mismatch with the training set from which a design counts as novel

/** A new element with attributes; children are elements or plain text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const png = (base64) => "data:image/png;base64," + base64;
const words = (name) => name.replaceAll("cable_stayed", "cable-stayed").replaceAll("_", " ");
const known = (value) => typeof value === "number";
const signed = (text) => text.replace("-", "−");
const figure = (value, digits) => (known(value) ? signed(value.toFixed(digits)) : "not known");
const percent = (value) => (known(value) ? `${Math.round(100 * value)}\u00a0%` : "not known");
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** The verdict's mark: letter and shape differ, not the colour alone. */
function mark(verdict) {
  const shape = verdict in VERDICTS ? verdict : "unknown";
  return make("span", { class: `mark ${shape}` }, verdict || "?");
}

const meaning = (verdict) => VERDICTS[verdict] ?? "not judged";
const part = ([name, share]) => words(name) + (known(share) ? ` (${percent(share)})` : "");
const parts = (design) => design.parts.map(part).join(", ");

// Favourites are remembered by picture, in this page and, where the browser allows it, for the next time.
const KEY = "bridge_ebm favourites";

function remembered() {
  try {
    const ids = JSON.parse(localStorage.getItem(KEY));
    return new Set(Array.isArray(ids) ? ids : []);
  } catch {
    return new Set();
  }
}

const favourites = remembered();
const isFavourite = (design) => favourites.has(design.id);
const chosen = () => designs.filter(isFavourite);

function toggleFavourite(design) {
  if (!favourites.delete(design.id)) favourites.add(design.id);
  try {
    localStorage.setItem(KEY, JSON.stringify([...favourites]));
  } catch {
    // Storage is full or forbidden: they last as long as the page is open.
  }
}

/** Show on a star button whether `design` is a favourite. */
function setStar(button, design) {
  const on = isFavourite(design);
  button.setAttribute("aria-pressed", String(on));
  button.setAttribute("aria-label", `Favourite: ${design.name}`);
  button.textContent = on ? "★" : "☆";
}
