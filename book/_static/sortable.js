// Sorts every table.dataframe of a page by the column whose head is pressed: up, down, and as it was. And names the column
// of every cell of a table, for a phone, on which custom.css makes a card of a row.
//
// Cells are compared as numbers where all of a column's begin with one ("1.2 (0.9 to 1.5)", "25 %"), else as text; a
// dash or nothing at all comes last, up or down. Rows under one head ("ordinary driving", over several rows) stay
// under it and are sorted among themselves: a model of one domain is not to be ranked with those of another. A table
// with heads within heads is left alone.
(() => {
  "use strict";
  const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(?=$|[\s%°±(])/i;
  const NOTHING = new Set(["", "–", "—", "-", "not measured", "nan", "NaN", "None"]);

  function textOf(cell) { // its first line: an interval may stand below a value
    const copy = cell.cloneNode(true);
    copy.querySelectorAll("br").forEach((line) => line.replaceWith("\n"));
    return copy.textContent.trim().split("\n")[0].replace(/\u2212/g, "-").trim();
  }

  function valueOf(text) {
    if (/^[+-]?∞/.test(text)) return text[0] === "-" ? -Infinity : Infinity;
    const number = text.match(NUMBER);
    return number ? Number(number[0]) : NaN;
  }

  // Counted from the right: rows that share a head have a cell less on the left.
  const cellOf = (row, fromRight) => row.cells[row.cells.length - fromRight];

  const sharedCells = (row) => [...row.cells].filter((cell) => cell.rowSpan > 1);

  // Rows in blocks that stay together: those under one head, or else all. Nothing where there are heads within heads.
  function blocksOf(rows) {
    const blocks = [];
    let left = 0;
    for (const row of rows) {
      const shared = sharedCells(row);
      if (shared.length > (left ? 0 : 1)) return null;
      if (!left) {
        blocks.push([]);
        left = shared[0]?.rowSpan ?? 1;
      }
      blocks[blocks.length - 1].push(row);
      left -= 1;
    }
    return blocks.every((block) => block.length === 1) ? [rows] : blocks;
  }

  function sorted(block, fromRight, direction, asNumbers) {
    const keyed = block.map((row) => {
      const text = textOf(cellOf(row, fromRight));
      return { row, text, missing: NOTHING.has(text), value: asNumbers ? valueOf(text) : 0 };
    });
    const order = (a, b) => (asNumbers ? (a.value > b.value) - (a.value < b.value)
      : a.text.localeCompare(b.text, undefined, { numeric: true }));
    keyed.sort((a, b) => a.missing - b.missing || (a.missing ? 0 : direction * order(a, b)));
    return keyed.map(({ row }) => row);
  }

  const headRowOf = (table) => [...(table.tHead?.rows ?? [])].reverse().find((row) => row.querySelector(".col_heading"))
    ?? table.tHead?.rows[0];

  function nameColumns(table) {
    const heads = [...(headRowOf(table)?.cells ?? [])].map((head) => head.textContent.trim());
    if (heads.length < 4) return; // narrow enough for a phone
    for (const body of table.tBodies) {
      for (const row of body.rows) {
        [...row.cells].forEach((cell, place) => { // rows that share a head have a cell less on the left
          cell.dataset.column = heads[heads.length - row.cells.length + place];
        });
      }
    }
    table.classList.add("has-cards");
  }

  function makeSortable(table) {
    const [body, headRow] = [table.tBodies[0], headRowOf(table)];
    if (!body || !headRow || body.rows.length < 2) return;
    const rows = [...body.rows];
    const blocks = blocksOf(rows);
    if (!blocks) return;
    const shared = blocks.map(([first]) => sharedCells(first));

    function sortBy(head, fromRight) {
      const now = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] ?? "ascending";
      headRow.querySelectorAll("[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", now);
      const texts = rows.map((row) => textOf(cellOf(row, fromRight))).filter((text) => !NOTHING.has(text));
      const asNumbers = texts.every((text) => !Number.isNaN(valueOf(text)));
      const direction = now === "ascending" ? 1 : -1;
      table.classList.toggle("is-sorted", now !== "none");
      blocks.forEach((block, at) => {
        const ordered = now === "none" ? block : sorted(block, fromRight, direction, asNumbers);
        body.append(...ordered);
        ordered.forEach((row, place) => row.classList.toggle("starts-block", place === 0));
        ordered[0].prepend(...shared[at]);
      });
    }

    [...headRow.cells].forEach((head, place) => {
      if (!head.textContent.trim()) return; // the corner above the rows' own heads
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      head.addEventListener("click", () => sortBy(head, headRow.cells.length - place)); // the room beside the button too
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".bd-article table, table.dataframe").forEach(nameColumns);
    document.querySelectorAll("table.dataframe").forEach(makeSortable);
  });
})();
