"use strict";
const root = document.documentElement, table = document.querySelector("table"), body = table.tBodies[0];
const rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
const search = document.querySelector("input[type=search]"), flagged = document.querySelector("#flagged");
const count = document.querySelector("output"), chips = [...document.querySelectorAll("button.tile")];

// Numbers before text, what is not known last, ascending or descending.
function compare(column, descending) {
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  return (one, two) => {
    const a = value(one), b = value(two);
    if (a === "" || b === "") return (a === "") - (b === "");
    const x = Number(a), y = Number(b);
    const text = Number.isNaN(x) || Number.isNaN(y);
    return (text ? a.localeCompare(b, undefined, { numeric: true }) : x - y) * (descending ? -1 : 1);
  };
}
heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
  const descending = head.getAttribute("aria-sort") === "ascending";
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  body.append(...rows.slice().sort(compare(column, descending)));
}));

function filter() {
  const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = chips.filter(chip => chip.getAttribute("aria-pressed") === "true").map(chip => chip.dataset.status);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = terms.every(term => text.includes(term)) && (!wanted.length || wanted.includes(row.dataset.status))
      && (!flagged.checked || row.dataset.flags !== "0");
    row.hidden = !fits;
    shown += fits;
  }
  count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} shown`;
}
search.addEventListener("input", filter);
flagged.addEventListener("change", filter);
chips.forEach(chip => chip.addEventListener("click", () => {
  chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") !== "true");
  filter();
}));

const dialog = document.querySelector("dialog");
body.addEventListener("click", event => {
  const button = event.target.closest("td.picture button");
  if (!button) return;
  dialog.querySelector("img").src = button.querySelector("img").src;
  dialog.querySelector("p").textContent = button.closest("tr").querySelector("td.case").dataset.value;
  dialog.showModal();
});
dialog.addEventListener("click", () => dialog.close());

const look = document.querySelector(".look");
const dark = () => root.dataset.look ? root.dataset.look === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const name = () => { look.textContent = dark() ? "Light" : "Dark"; };
look.addEventListener("click", () => { root.dataset.look = dark() ? "light" : "dark"; name(); });
name();
