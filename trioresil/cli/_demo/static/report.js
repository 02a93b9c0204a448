"use strict";
// One moment in all charts at once, by pointer or by the slider's keys. The values come from the tables; without scripts, those remain.
(() => {
  const rowsOf = (figure) => [...figure.querySelectorAll("tbody tr")];
  const charts = [...document.querySelectorAll("figure")].map((figure) => ({
    rows: rowsOf(figure),
    names: [...figure.querySelectorAll(".legend span")].map((each) => each.textContent.trim()),
    panels: [...figure.querySelectorAll(".panel")].map((panel) => ({
      area: panel.querySelector(".area"),
      cursor: panel.querySelector(".cursor"),
      readout: panel.querySelector(".readout"),
      columns: panel.querySelector(".area").dataset.columns.split(" ").map(Number),
    })),
  }));
  const seconds = Number(document.querySelector(".figures").dataset.seconds);
  const label = document.querySelector(".moment");
  const slider = label.querySelector("input");
  const shown = label.querySelector("output");
  const STEPS = 200;

  const rowAt = (rows, at) => rows.findLast((row) => Number(row.dataset.at) <= at + 1e-6) ?? rows[0];

  function show(at) {
    const told = `${at.toFixed(1)} s`;
    shown.textContent = told;
    slider.value = String(Math.round((at / seconds) * STEPS));
    slider.setAttribute("aria-valuetext", told);
    for (const chart of charts) {
      const row = rowAt(chart.rows, at);
      for (const panel of chart.panels) {
        panel.cursor.hidden = panel.readout.hidden = false;
        panel.cursor.style.left = `${(100 * at) / seconds}%`;
        panel.readout.replaceChildren();
        panel.columns.forEach((column, index) => {
          const value = document.createElement("b");
          value.textContent = row.cells[column].textContent;
          panel.readout.append(index ? " · " : "", `${chart.names[index]} `, value);
        });
      }
    }
  }

  slider.max = String(STEPS);
  slider.addEventListener("input", () => show((Number(slider.value) / STEPS) * seconds));
  for (const chart of charts)
    for (const { area } of chart.panels) {
      const follow = (event) => {
        const box = area.getBoundingClientRect();
        show(seconds * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
      };
      area.addEventListener("pointermove", follow);
      area.addEventListener("pointerdown", follow);
    }
  label.hidden = false;
  show(0.475 * seconds); // of a whole run, the middle of the outage
})();
