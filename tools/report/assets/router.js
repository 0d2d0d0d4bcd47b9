// Where tokens went: experts by layer over time, balance over steps, and bytes from rank to rank.
const utilEdges = [250, 500, 750, 900, 1111, 1333, 2000, 4000];  // thousandths of the fair share
const utilColor = (util) => (util === 0 ? "var(--dead)" : `var(--d${utilEdges.filter((edge) => util >= edge).length})`);
const utilLegend = `<div class="legend"><span>tokens of an expert over its fair share:</span><span class="scale" role="img" aria-label="from a quarter to four times">${
  [0, 1, 2, 3, 4, 5, 6, 7, 8].map((d) => `<i style="background:var(--d${d})"></i>`).join("")}</span><span>below 1/4 to above 4</span><span><i style="background:var(--dead);border:1px solid var(--axis)"></i>none</span></div>`;

// rows x columns of thousandths; tip(row, column) is the text at a cell.
function heatMap(parent, { values, rowNames, columnNames, tip, label, cell }) {
  const svg = add(parent, `<svg class="heat" role="img" aria-label="${escapeText(label)}"></svg>`);
  const rows = values.length, columns = values[0].length;
  onWidth(svg, (width) => {
    const left = 34, w = Math.min(cell.most, (width - left) / columns), h = cell.height;
    const gap = w > 6 ? 1 : 0, every = Math.ceil(26 / w), rowEvery = Math.ceil(12 / h);
    const out = [];
    values.forEach((row, r) => {
      if (r % rowEvery === 0) out.push(`<text x="${left - 5}" y="${(r + 0.5) * h + 4}" text-anchor="end">${rowNames[r]}</text>`);
      row.forEach((v, c) => out.push(`<rect class="cell" x="${(left + c * w).toFixed(2)}" y="${r * h}" width="${(w - gap).toFixed(2)}" height="${h - (h > 6 ? 1 : 0)}" fill="${utilColor(v)}" data-tip="${r},${c}"/>`));
    });
    for (let c = 0; c < columns; c += every) out.push(`<text x="${(left + (c + 0.5) * w).toFixed(1)}" y="${rows * h + 13}" text-anchor="middle">${columnNames[c]}</text>`);
    svg.setAttribute("viewBox", `0 0 ${width} ${rows * h + 18}`);
    svg.setAttribute("height", rows * h + 18);
    svg.innerHTML = out.join("");
  });
  tipsOn(svg, (key) => tip(...key.split(",").map(Number)));
  return svg;
}
const times = (util) => (util / 1000).toFixed(2) + " of the fair share";

function routerSection() {
  const router = report.router, { step, column } = report.curves;
  if (!router && !column.max_vio) return;
  const element = section("router", "Router", router
    ? `${counted(router.records, "record")} of what each expert took in. Blue experts had less than their fair share, red ones more.` : "");
  if (router) routerMaps(element, router);
  if (!column.max_vio) return;
  const grid = add(element, '<div class="grid" style="margin-top:18px"></div>');
  lineChart(grid, "Balance", step, [
    { name: "busiest expert over the mean, minus 1 (worst layer)", y: column.max_vio, color: "var(--one)" },
    { name: "busiest rank over the mean, minus 1", y: column.rank_imbalance.map((v) => (v === null ? null : v - 1)), color: "var(--two)" }], { zero: true });
  if (report.run.capacity_factor > 0)
    lineChart(grid, "Dropped choices", step, [{ name: "dropped", y: column.drop_frac, color: "var(--one)" }], { format: (v) => percent(v), axis: axisPercent, zero: true });
  lineChart(grid, "Experts without a token in the step", step, [{ name: "dead experts", y: column.dead_experts, color: "var(--one)" }], { zero: true });
  lineChart(grid, "Losses of the router", step, [
    { name: "balance loss", y: column.aux_loss, color: "var(--one)" }, { name: "z-loss", y: column.z_loss, color: "var(--two)" }], { zero: true });
}

function routerMaps(element, router) {
  add(element, utilLegend);
  const layers = router.layers, last = router.step.length;
  const mean = (l) => layers[l].tokens.reduce((a, b) => a + b, 0) / router.experts;
  const total = layers.map((layer, l) => layer.tokens.map((n) => Math.round((1000 * n) / Math.max(1e-9, mean(l)))));
  const names = layers.map((layer) => layer.layer), experts = [...Array(router.experts).keys()];
  const box = add(element, `<div><h3>Layers (down) by experts (across)</h3><div class="bar-row"><input type="range" min="0" max="${last}" value="${last}" aria-label="Record"><span class="soft"></span></div></div>`);
  const holder = add(box, '<div id="heat-layers"></div>'), slider = box.querySelector("input");
  const show = () => {
    const at = Number(slider.value), values = at === last ? total : router.util[at];
    slider.nextElementSibling.textContent = at === last ? "all records together" : `up to step ${router.step[at]}`;
    holder.innerHTML = "";
    heatMap(holder, { values, rowNames: names, columnNames: experts, label: "Share of each expert by layer", cell: { most: 54, height: Math.max(8, Math.min(24, 480 / layers.length)) },
      tip: (l, e) => `layer ${names[l]}, expert ${e}\n${times(values[l][e])}` + (at === last ? `\n${layers[l].tokens[e]} tokens` : "") });
  };
  slider.addEventListener("input", show);
  show();
  const drawn = layers.length * router.experts * last <= 12000 ? layers.length : Math.max(1, Math.floor(12000 / (router.experts * last)));
  const grid = add(element, `<h3 style="margin-top:14px">Each layer: experts (down) over steps (across)</h3><div class="grid" id="heat-time"></div>`);
  layers.slice(0, drawn).forEach((layer, l) => {
    const one = add(grid, `<div><h3>layer ${layer.layer}</h3><p class="figures">max_vio ${number(layer.max_vio)}, entropy ${number(layer.entropy)}, cv ${number(layer.cv)}, ${layer.dead_experts} dead</p></div>`);
    heatMap(one, { values: experts.map((e) => router.util.map((record) => record[l][e])), rowNames: experts, columnNames: router.step, label: `Layer ${layer.layer} over time`, cell: { most: 40, height: Math.max(4, Math.min(16, 260 / router.experts)) },
      tip: (e, c) => `layer ${layer.layer}, expert ${e}, step ${router.step[c]}\n${times(router.util[c][l][e])}` });
  });
  if (drawn < layers.length) add(element, `<p class="soft">The first ${drawn} of ${layers.length} layers; the map above has all.</p>`);
}

function trafficSection() {
  const traffic = report.traffic;
  if (!traffic) return;
  const total = traffic.intra_bytes + traffic.inter_bytes, per = Math.max(1, traffic.steps);
  const element = section("traffic", "Bytes from rank to rank",
    `${bytes(total)} in ${counted(traffic.steps, "step")}, ${bytes(total / per)} a step: ${bytes(traffic.intra_bytes)} inside nodes, ${bytes(traffic.inter_bytes)} between nodes. Counted is what the collectives have to move; start-up and validation are in it.`);
  const values = traffic.sent_bytes, most = Math.max(1, ...values.flat()), each = traffic.group_ranks;
  const names = values.map((_, g) => (each === 1 ? String(g) : `${g * each}-${Math.min(traffic.ranks, (g + 1) * each) - 1}`));
  const box = add(element, '<div class="grid"></div>'), left = add(box, "<div><h3>Sender (down) to receiver (across)</h3></div>");
  const svg = add(left, '<svg class="heat" id="heat-traffic" role="img" aria-label="Bytes sent by each rank to each rank"></svg>');
  onWidth(svg, (width) => {
    const room = 40, size = Math.min(84, (width - room) / names.length), h = Math.min(size, 40), every = Math.ceil(18 / size);
    const out = [];
    names.forEach((name, r) => {
      if (r % every === 0) out.push(`<text x="${room - 6}" y="${14 + (r + 0.5) * h + 4}" text-anchor="end">${name}</text><text x="${(room + (r + 0.5) * size).toFixed(1)}" y="9" text-anchor="middle">${name}</text>`);
      values[r].forEach((v, c) => {
        const shade = v === 0 ? 0 : Math.max(1, Math.ceil((6 * v) / most));
        out.push(`<rect class="cell" x="${(room + c * size).toFixed(1)}" y="${14 + r * h}" width="${(size - 1).toFixed(1)}" height="${h - 1}" fill="var(--s${shade})" data-tip="${r},${c}"/>`);
        if (size > 58) out.push(`<text x="${(room + (c + 0.5) * size).toFixed(1)}" y="${14 + (r + 0.5) * h + 4}" text-anchor="middle" pointer-events="none" style="fill:var(--${shade > 3 ? "on-dark" : "on-light"})">${r === c && v === 0 ? "" : bytes(v / per)}</text>`);
      });
    });
    svg.setAttribute("viewBox", `0 0 ${width} ${14 + names.length * h}`);
    svg.setAttribute("height", 14 + names.length * h);
    svg.innerHTML = out.join("");
  });
  tipsOn(svg, (key) => { const [r, c] = key.split(",").map(Number); return `${names[r]} to ${names[c]}: ${bytes(values[r][c])} in all, ${bytes(values[r][c] / per)} a step`; });
  if (values[0].length <= 8) add(left, '<p class="soft" style="margin-top:6px">bytes a step</p>');
  const kinds = Object.entries(traffic.by_collective).filter((k) => k[1] > 0).sort((a, b) => b[1] - a[1]);
  add(box, `<div><h3>By collective</h3><table><tr><th>collective</th><th class="num">in all</th><th class="num">a step</th><th class="num">share</th></tr>${kinds
    .map(([name, n]) => `<tr><td>${name}</td><td class="num">${bytes(n)}</td><td class="num">${bytes(n / per)}</td><td class="num">${percent(n / total)}</td></tr>`).join("")}</table></div>`);
}
