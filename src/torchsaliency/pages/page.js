"use strict";
// Light and dark: the reader's system decides until the button does.
{
  const button = document.getElementById("theme"), root = document.documentElement;
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", dark() ? "Light colours" : "Dark colours");
    button.setAttribute("aria-pressed", String(Boolean(root.dataset.theme)));
  };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; show(); });
  show();
}
// A growing report is loaded again and again, unless the reader holds it.
{
  const again = document.getElementById("again");
  if (again) {
    again.checked = !(history.state && history.state.held);
    again.addEventListener("change", () => history.replaceState({ held: !again.checked }, ""));
    setInterval(() => { if (again.checked) location.reload(); }, 1000 * again.value);
  }
}
// Tables sort by the numbers in full; cells without a number stay at the end.
for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[place].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }));
}
// The values of all curves at the pointer, or at a place that arrow keys move.
for (const chart of document.querySelectorAll("[data-readout]")) {
  const { x, lines } = JSON.parse(chart.dataset.readout);
  const svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor");
  const outs = [...chart.querySelectorAll(".keys output")], where = chart.querySelector(".where");
  let place = 0;
  const show = (to) => {
    place = Math.min(x.length - 1, Math.max(0, to));
    cursor.removeAttribute("hidden");
    cursor.setAttribute("x1", x[place][0]);
    cursor.setAttribute("x2", x[place][0]);
    where.textContent = `at ${x[place][1]}`;
    lines.forEach(([, values], i) => { outs[i].textContent = values[place]; });
  };
  const hide = () => {
    cursor.setAttribute("hidden", "");
    where.textContent = "";
    outs.forEach((out) => { out.textContent = ""; });
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * 460;
    show(x.reduce((best, one, i) => Math.abs(one[0] - at) < Math.abs(x[best][0] - at) ? i : best, 0));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place + step);
  });
}
