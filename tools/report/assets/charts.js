// Lines over steps, and fits through points.

// series: [{name, y: [values or null], color, points}]; x: [steps] of all, or each with an x of its own. points: marks at the
// values, as long as there are few enough not to hide what is behind them.
const mostMarks = 40;
function lineChart(parent, title, x, series, { format = number, axis = axisNumber, zero = false, height = 190 } = {}) {
  const box = add(parent, `<div class="chart"><h3>${escapeText(title)}</h3></div>`);
  if (series.length > 1)
    add(box, `<div class="legend">${series.map((s) => `<span><i class="line" style="background:${s.color}"></i>${escapeText(s.name)}</span>`).join("")}</div>`);
  const svg = add(box, `<svg class="lines" role="img" aria-label="${escapeText(title)}"></svg>`);
  const all = series.flatMap((s) => s.y).filter((v) => Number.isFinite(v));
  const steps = series.flatMap((s) => s.x || x);
  if (all.length === 0) { add(box, '<p class="soft">no values</p>'); return; }
  let low = Math.min(...all), high = Math.max(...all);
  if (zero) low = Math.min(0, low);
  if (high - low < 1e-12 * Math.max(1, Math.abs(high))) { high += Math.abs(high) * 0.05 || 1; low -= zero ? 0 : Math.abs(low) * 0.05; }
  const first = Math.min(...steps), last = Math.max(...steps, first + 1);
  onWidth(svg, (width) => {
    const left = 46, right = 8, top = 6, floor = height - 20;
    const px = (v) => left + ((v - first) / (last - first)) * (width - left - right);
    const py = (v) => floor - ((v - low) / (high - low)) * (floor - top);
    const out = [];
    for (const t of ticks(low, high, 4)) out.push(`<line class="rule" x1="${left}" x2="${width - right}" y1="${py(t).toFixed(1)}" y2="${py(t).toFixed(1)}"/><text x="${left - 6}" y="${(py(t) + 4).toFixed(1)}" text-anchor="end">${axis(t)}</text>`);
    out.push(`<text class="unit" x="${left - 6}" y="${height - 5}" text-anchor="end">step</text>`);
    for (const t of ticks(first, last, Math.max(2, width / 90)).filter(Number.isInteger)) out.push(`<text x="${px(t).toFixed(1)}" y="${height - 5}" text-anchor="middle">${t}</text>`);
    for (const s of series) {
      const at = s.x || x, marks = s.points && s.y.length <= mostMarks;
      let pen = false, path = "";
      s.y.forEach((v, i) => {
        if (!Number.isFinite(v)) { pen = false; return; }
        path += `${pen ? "L" : "M"}${px(at[i]).toFixed(1)} ${py(v).toFixed(1)}`;
        pen = true;
      });
      out.push(`<path class="series" d="${path}" fill="none" stroke="${s.color}" stroke-width="${marks ? 1 : 1.6}" stroke-linejoin="round"/>`);
      if (marks) s.y.forEach((v, i) => out.push(`<circle cx="${px(at[i]).toFixed(1)}" cy="${py(v).toFixed(1)}" r="3.5" fill="${s.color}" stroke="var(--card)" stroke-width="1.5"/>`));
    }
    out.push(`<line class="axis cursor" y1="${top}" y2="${floor}" visibility="hidden"/>`);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.innerHTML = out.join("");
    svg.onpointermove = (event) => {
      const step = first + ((event.clientX - svg.getBoundingClientRect().left - left) / (width - left - right)) * (last - first);
      const near = (at) => at.reduce((best, v, i) => (Math.abs(v - step) < Math.abs(at[best] - step) ? i : best), 0);
      const main = x[near(x)];
      const lines = series.map((s) => { const at = s.x || x; const i = near(at); return `${s.name}${at[i] === main ? "" : ` (step ${at[i]})`}: ${format(s.y[i], 5)}`; });
      const cursor = svg.querySelector(".cursor");
      cursor.setAttribute("x1", px(main)); cursor.setAttribute("x2", px(main)); cursor.setAttribute("visibility", "visible");
      showTip(event, `step ${main}\n${lines.join("\n")}`);
    };
    svg.onpointerleave = () => { hideTip(); svg.querySelector(".cursor").setAttribute("visibility", "hidden"); };
  });
}

function curvesSection() {
  const { steps, shown, step, column, validation } = report.curves;
  if (steps === 0) return;
  const element = section("curves", "Training", shown < steps
    ? `${shown} of ${steps} steps are drawn: the lowest and the highest loss of each stretch.` : "");
  const grid = add(element, '<div class="grid"></div>');
  const one = "var(--one)", two = "var(--two)";
  const loss = [{ name: "training", y: column.loss, color: one }];
  if (validation.step.length > 0) loss.push({ name: "validation", x: validation.step, y: validation.loss, color: two, points: true });
  lineChart(grid, "Loss, nats per token", step, loss);
  lineChart(grid, "Learning rate", step, [{ name: "learning rate", y: column.lr, color: one }], { zero: true });
  lineChart(grid, "Step time, ms", step, [{ name: "measured", y: column.step_ms, color: one }, { name: "predicted", y: column.predicted_ms, color: two }], { zero: true });
  lineChart(grid, "Gradient norm before clipping", step, [{ name: "gradient norm", y: column.grad_norm, color: one }], { zero: true });
  lineChart(grid, "Tokens per second, all ranks", step, [{ name: "tokens per second", y: column.tokens_per_second, color: one }], { format: (v) => count(v), axis: (v) => count(v), zero: true });
  lineChart(grid, "Share of the step with communication alone", step, [{ name: "exposed communication", y: column.exposed_comm_frac, color: one }], { format: (v) => percent(v), axis: axisPercent, zero: true });
}

// Time over amount with the fitted line, both axes logarithmic. The line is drawn for one operation's worth of the points.
function fitChart(parent, family) {
  const points = family.points.filter((p) => p[1] > 0 && p[2] > 0);
  const quality = family.r_squared === null ? "" : `, R² ${family.r_squared.toFixed(3)}`;
  const box = add(parent, `<div><h3>${escapeText(family.name)}</h3><div class="soft" style="font-size:13px">${number(family.alpha_us)} µs + ${rate(family)}${quality}</div><svg class="fit" role="img" aria-label="Fit of ${escapeText(family.name)}"></svg></div>`);
  const svg = box.querySelector("svg");
  if (points.length === 0) { svg.remove(); return; }
  const line = (p) => family.alpha_us * p[0] + family.beta_us * p[1];
  const sorted = [...points].sort((a, b) => a[1] - b[1]);
  const log = Math.log10, xs = points.map((p) => log(p[1])), ys = points.flatMap((p) => [log(p[2]), log(Math.max(1e-3, line(p)))]);
  const pad = (a, b) => (b - a < 0.2 ? [a - 0.15, b + 0.15] : [a - 0.04 * (b - a), b + 0.04 * (b - a)]);
  const alone = sorted[0][1] === sorted[sorted.length - 1][1];  // points of one size: the line goes on to both sides of it
  const [x0, x1] = pad(Math.min(...xs), Math.max(...xs)), [y0, y1] = pad(Math.min(...ys), Math.max(...ys));
  onWidth(svg, (width) => {
    const height = 110, left = 48, right = 4, top = 8, floor = height - 18;
    const px = (v) => left + ((log(v) - x0) / (x1 - x0)) * (width - left - right), py = (v) => floor - ((log(Math.max(1e-3, v)) - y0) / (y1 - y0)) * (floor - top);
    const amount = family.unit === "bytes" ? bytes : flops;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const drawn = alone ? [0, 0.25, 0.5, 0.75, 1].map((at) => [sorted[0][0], 10 ** (x0 + at * (x1 - x0))]) : sorted;
    const sizes = alone ? `<text x="${px(sorted[0][1])}" y="${height - 4}" text-anchor="middle">${amount(sorted[0][1])}</text>`
      : `<text x="${left}" y="${height - 4}">${amount(sorted[0][1])}</text><text x="${width - right}" y="${height - 4}" text-anchor="end">${amount(sorted[sorted.length - 1][1])}</text>`;
    svg.innerHTML = `<line class="axis" x1="${left}" x2="${width - right}" y1="${floor + 2}" y2="${floor + 2}"/>` +
      `<path d="${drawn.map((p, i) => `${i ? "L" : "M"}${px(p[1]).toFixed(1)} ${py(line(p)).toFixed(1)}`).join("")}" fill="none" stroke="var(--two)" stroke-width="1.5"/>` +
      points.map((p) => `<circle cx="${px(p[1]).toFixed(1)}" cy="${py(p[2]).toFixed(1)}" r="3" fill="var(--one)" fill-opacity="0.75" data-tip="${amount(p[1])} in ${number(p[0])} operations: ${milliseconds(p[2] / 1e3)} measured, ${milliseconds(line(p) / 1e3)} fitted"/>`).join("") +
      `<text x="${left - 6}" y="${top + 6}" text-anchor="end">${milliseconds(10 ** y1 / 1e3)}</text><text x="${left - 6}" y="${floor + 2}" text-anchor="end">${milliseconds(10 ** y0 / 1e3)}</text>` + sizes;
  });
  tipsOn(svg, (text) => text);
}
// The slope as a rate: bytes or FLOPs a second.
function rate(family) {
  if (family.beta_us <= 0) return "0";
  const perSecond = 1e6 / family.beta_us;
  return family.unit === "bytes" ? "n / " + bytes(perSecond) + "/s" : "n / " + flops(perSecond) + "/s";
}

function costsSection() {
  if (!report.costs) return;
  const { source, measured, refitted, families: fits } = report.costs;
  const form = "Each kind of task costs a start-up time per operation, and a time for each of its n bytes or FLOPs";
  const element = section("costs", "Cost model", refitted
    ? `${form}. Replanning multiplied both by what the steps took: points are mean times of tasks of one size. Source: ${escapeText(source)}. Both axes are logarithmic.`
    : measured
      ? `${form}, fitted to measured points. Source: ${escapeText(source)}. Both axes are logarithmic.`
      : `${form}. These are nominal round figures (${escapeText(source)}), not measurements: predictions with them say little about this machine.`);
  const drawn = fits.filter((f) => f.points.length > 0);
  const most = 12;
  if (drawn.length > 0) {
    const longest = (f) => (f.kind ? 0 : Math.max(...f.points.map((p) => p[2])));  // families before what stands behind them
    const busy = [...drawn].sort((a, b) => longest(b) - longest(a));
    const grid = add(element, '<div class="grid small"></div>');
    busy.slice(0, most).forEach((f) => fitChart(grid, f));
    if (busy.length > most) {
      const more = add(element, `<details><summary>${busy.length - most} more fits</summary><div class="grid small"></div></details>`);
      more.addEventListener("toggle", () => {
        const rest = more.querySelector(".grid");
        if (more.open && rest.childElementCount === 0) busy.slice(most).forEach((f) => fitChart(rest, f));
      });
    }
    return;
  }
  add(element, `<div class="wide"><table><tr><th>work</th><th>links</th><th class="num">per operation</th><th class="num">for n bytes or FLOPs</th></tr>${fits
    .map((f) => `<tr><td>${escapeText(f.name)}</td><td>${f.link || ""}</td><td class="num">${number(f.alpha_us)} µs</td><td class="num">${rate(f)}</td></tr>`).join("")}</table></div>`);
}
