"use strict";
{
  const { config, specs } = JSON.parse(document.getElementById("charts").textContent);
  const theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const options = {
    ast: true, // expressions are interpreted: the page's policy forbids `eval`
    mode: "vega-lite", renderer: "svg", tooltip: { theme },
    actions: { export: true, source: false, compiled: false, editor: false },
  };
  const places = document.querySelectorAll(".chart");
  const draw = (place) => {
    seen.unobserve(place);
    if (place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    const columns = place.clientWidth < 480 ? 1 : 2; // of a legend
    const legend = { ...config.legend, columns, labelLimit: place.clientWidth / columns - 60 };
    vegaEmbed(place, specs[place.dataset.chart],
      { ...options, config: { ...config, legend }, downloadFileName: place.ariaLabel });
  };
  // A chart is drawn when a reader comes near it.
  const seen = new IntersectionObserver(
    (found) => found.filter((each) => each.isIntersecting).forEach((each) => draw(each.target)), { rootMargin: "50%" });
  places.forEach((place) => seen.observe(place));

  // A table sorts by the head that is clicked; empty cells stay last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const descending = head.ariaSort === "ascending";
      const value = (row) => {
        const text = row.cells[column].dataset.value;
        return head.dataset.sort === "text" || text === "" ? text : Number(text);
      };
      const order = (one, two) => (typeof one === "number" ? one - two : one.localeCompare(two));
      const rows = [...table.tBodies[0].rows].sort((first, second) => {
        const [one, two] = [value(first), value(second)];
        if (one === "" || two === "") return (one === "") - (two === "");
        return descending ? order(two, one) : order(one, two);
      });
      table.tBodies[0].append(...rows);
      heads.forEach((other) => { other.ariaSort = "none"; });
      head.ariaSort = descending ? "descending" : "ascending";
    }));
  }

  // Print everything, then leave the page as it was.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((part) => { part.open = true; });
    places.forEach(draw);
  });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
}
