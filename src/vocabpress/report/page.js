"use strict";
// Tables sort by the head that is pressed; empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      const value = (row) => {
        const cell = row.cells[column];
        return head.dataset.sort === "number" ? parseFloat(cell.dataset.value) : cell.dataset.value;
      };
      const empty = (one) => one === "" || Number.isNaN(one);
      const order = (one, two) => (typeof one === "number" ? one - two : one.localeCompare(two));
      const rows = [...table.tBodies[0].rows];
      rows.sort((first, second) => {
        const [one, two] = [value(first), value(second)];
        if (empty(one) || empty(two)) return empty(one) - empty(two);
        return descending ? order(two, one) : order(one, two);
      });
      table.tBodies[0].append(...rows);
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
  });
}
// Print everything, then leave the page as it was.
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((part) => { part.open = true; });
});
window.addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
