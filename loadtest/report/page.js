// Values under the pointer, or along a chart with the arrow keys. Reads the records the page carries; writes text only.
"use strict";
(() => {
  const runs = [...document.querySelectorAll('script[type="application/json"]')].map((e) => JSON.parse(e.textContent));
  const nines = (percent, end) => Math.min(end, percent >= 100 ? end : -Math.log10(1 - percent / 100));

  const pointsOf = (reference) => {
    const [run, chart, series] = reference.split(".");
    const record = runs[Number(run)];
    return chart === "h" ? record.histograms[Number(series)].curve : record.charts[Number(chart)].series[Number(series)].points;
  };

  const clock = (seconds, span) => {
    if (span < 2) return seconds.toFixed(3) + " s";
    if (span < 20) return seconds.toFixed(2) + " s";
    if (span < 120) return seconds.toFixed(1) + " s";
    const whole = Math.round(seconds), minutes = Math.floor(whole / 60), two = (n) => String(n).padStart(2, "0");
    return minutes < 60 ? minutes + ":" + two(whole % 60) : Math.floor(minutes / 60) + ":" + two(minutes % 60) + ":" + two(whole % 60);
  };

  const amount = (value, unit) => {
    if (unit === "bytes" || unit === "B") {
      const large = [[1e12, " TB"], [1e9, " GB"], [1e6, " MB"], [1e3, " kB"]].find(([by]) => Math.abs(value) >= by) || [1, " B"];
      return (value / large[0]).toPrecision(3) * 1 + large[1];
    }
    const shown = Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3));
    return shown.toLocaleString("en") + (unit ? " " + unit : "");
  };

  // The last point at or before x on a percentile curve, the nearest one in time.
  const nearest = (points, x, kind, end) => {
    const at = kind === "time" ? (p) => p[0] : (p) => nines(p[0], end);
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (at(points[middle]) <= x) low = middle; else high = middle - 1;
    }
    const after = points[low + 1];
    return kind === "time" && after && at(after) - x < x - at(points[low]) ? after : points[low];
  };

  for (const figure of document.querySelectorAll("figure[data-curves]")) {
    const { curves, unit, x: kind } = figure.dataset;
    const low = Number(figure.dataset.low), high = Number(figure.dataset.high);
    const field = figure.querySelector(".field");
    const outputs = [...figure.querySelectorAll(".legend output")];
    const points = curves.split(" ").map(pointsOf);
    const hair = Object.assign(document.createElement("div"), { className: "hair", hidden: true });
    const when = Object.assign(document.createElement("div"), { className: "when", hidden: true });
    field.append(hair, when);
    let share = null;

    const show = (wanted) => {
      share = Math.min(1, Math.max(0, wanted));
      const x = low + share * (high - low);
      const found = points.map((each) => nearest(each, x, kind, high));
      hair.hidden = when.hidden = false;
      hair.style.left = share * 100 + "%";
      // Kept off the edges, so that it stays inside its card.
      when.style.left = Math.min(0.92, Math.max(0.08, share)) * 100 + "%";
      const at = kind === "time" ? clock(x, high - low) : found[0][0].toPrecision(5) * 1 + " %";
      outputs.forEach((output, index) => { output.textContent = within(points[index], x) ? amount(found[index][1], unit) : "-"; });
      when.textContent = outputs.length ? at : at + "  " + amount(found[0][1], unit);
    };
    const within = (each, x) => kind !== "time" || (x >= each[0][0] - (high - low) / 50 && x <= each[each.length - 1][0] + (high - low) / 50);
    const hide = () => {
      share = null;
      hair.hidden = when.hidden = true;
      outputs.forEach((output) => { output.textContent = ""; });
    };
    field.addEventListener("pointermove", (event) => {
      const box = field.getBoundingClientRect();
      show((event.clientX - box.left) / box.width);
    });
    field.addEventListener("pointerleave", hide);
    figure.addEventListener("blur", hide);
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.01, ArrowRight: 0.01 }[event.key];
      if (event.key === "Escape") hide();
      if (step === undefined || event.target !== figure) return;
      event.preventDefault();
      show((share ?? 0.5) + step * (event.shiftKey ? 10 : 1));
    });
  }
})();
