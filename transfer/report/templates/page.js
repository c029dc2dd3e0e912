// A click on a heading sorts its table by that column; a second one turns the order round.
for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), table = heading.closest("table"), body = table.tBodies[0];
    const column = [...heading.parentNode.cells].indexOf(heading);
    const rising = heading.getAttribute("aria-sort") === "descending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => {
      const cell = row.cells[column], number = cell.dataset.value;
      return number === undefined ? cell.textContent.trim() : Number(number);
    };
    const order = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b);
    const rows = [...body.rows].sort((a, b) => order(value(a), value(b)) * (rising ? 1 : -1));
    body.append(...rows);
  });
}
