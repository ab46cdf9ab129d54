"use strict";

// leafing: a slider moves the window of each panel over its strip of slices
for (const viewer of document.querySelectorAll(".viewer")) {
  const slider = viewer.querySelector("input");
  if (!slider) continue;
  const { width, height } = viewer.dataset;
  const numbers = viewer.dataset.numbers.split(",");
  const said = viewer.querySelector("output");
  const of = said.textContent.split(" ").pop();
  slider.parentElement.hidden = false;
  slider.addEventListener("input", () => {
    const place = Number(slider.value);
    for (const view of viewer.querySelectorAll(".moves .window")) {
      view.setAttribute("viewBox", `0 ${place * height} ${width} ${height}`);
    }
    said.textContent = `slice ${numbers[place]} of ${of}`;
  });
}

// sorting: numbers by value, text by the alphabet, what is undefined last either way
function value(row, column, numeric) {
  const text = row.cells[column].textContent.trim();
  if (!numeric) return text;
  const number = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? null : number;
}

function sort(table, column, down) {
  const body = table.tBodies[0];
  const numeric = table.tHead.rows[0].cells[column].classList.contains("n");
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const rows = Array.from(body.rows, (row) => [value(row, column, numeric), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return (numeric ? a - b : compare(a, b)) * (down ? -1 : 1);
  });
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll(".sortable table")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  for (const [column, head] of heads.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down);
    });
  }
}
