// What every part of the page draws with: elements, numbers as people read them, scales, the tip at the pointer.
const report = JSON.parse(document.getElementById("data").textContent);

const escapeText = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

// A number with about `digits` significant digits, and no exponent where people would not write one.
function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(Math.max(0, digits - 1));
  const decimals = size === 0 ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toFixed(Math.min(6, decimals));
}
// A round value at an axis: as short as it can be written.
const axisNumber = (value) => { const short = Number(value.toPrecision(6)); return Math.abs(short) >= 1e5 || (short !== 0 && Math.abs(short) < 1e-3) ? short.toExponential() : String(short); };
const axisPercent = (share) => axisNumber(100 * share) + " %";
function scaled(value, units, step) {
  let unit = 0;
  while (value >= step && unit + 1 < units.length) { value /= step; unit += 1; }
  return (unit === 0 ? value.toFixed(0) : number(value)) + units[unit];
}
const bytes = (value) => scaled(value, [" B", " KiB", " MiB", " GiB", " TiB", " PiB"], 1024);
const count = (value) => scaled(value, ["", "k", "M", "B", "T"], 1000);
const flops = (value) => scaled(value, [" ", " k", " M", " G", " T", " P"], 1000) + "FLOP";
const milliseconds = (ms) => (ms >= 1 ? number(ms) + " ms" : number(ms * 1e3) + " µs");
// toFixed, with no minus before zeros alone.
const decimal = (value, digits) => { const text = value.toFixed(digits); return Number(text) === 0 ? text.replace("-", "") : text; };
const percent = (share, digits = 1) => (share === null || share === undefined ? "-" : decimal(100 * share, digits) + " %");
const signed = (share) => { const text = percent(share); return text.startsWith("-") ? text : "+" + text; };
const counted = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

// The section of `id`, with its heading and a sentence on what it shows.
function section(id, title, lead = "") {
  const element = document.createElement("section");
  element.id = id;
  element.innerHTML = `<h2>${title}</h2>${lead ? `<p class="lead">${lead}</p>` : ""}`;
  document.getElementById("main").append(element);
  document.getElementById("contents").insertAdjacentHTML("beforeend", `<a href="#${id}">${title}</a>`);
  return element;
}
function add(parent, html) {
  parent.insertAdjacentHTML("beforeend", html);
  return parent.lastElementChild;
}

// About `wanted` round values from low to high.
function ticks(low, high, wanted = 5) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const raw = span / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) out.push(i * step);
  return out;
}

const tip = document.getElementById("tip");
function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - 14 - box.width : event.clientX + 14;
  const top = event.clientY + 16 + box.height > innerHeight ? event.clientY - 12 - box.height : event.clientY + 16;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, top) + "px";
}
const hideTip = () => { tip.hidden = true; };
// The text of whatever has a data-tip under the pointer inside `element`; `text` makes it from the attribute.
function tipsOn(element, text) {
  element.addEventListener("pointermove", (event) => {
    const at = event.target.closest("[data-tip]");
    if (at) showTip(event, text(at.dataset.tip)); else hideTip();
  });
  element.addEventListener("pointerleave", hideTip);
}
// Calls draw(width) now and whenever the width of `element` changes.
function onWidth(element, draw) {
  let last = 0;
  const again = () => {
    const width = Math.round(element.getBoundingClientRect().width);
    if (width > 0 && width !== last) { last = width; draw(width); }
  };
  again();
  new ResizeObserver(again).observe(element);
}

// Stages by what they are for, in one colour each.
const families = {
  attention: ["attention", ["attention"]], expert: ["experts", ["expert", "expert_dw"]],
  routing: ["routing", ["gate", "order", "i_order"]],
  exchange: ["dispatch and combine", ["dispatch", "combine", "count_exchange"]],
  shard: ["expert and tensor shards", ["all_gather", "reduce_scatter", "mp_all_gather", "mp_reduce_scatter"]],
  sequence: ["shared sequences", ["sequence_exchange", "sequence_ring"]],
  gradient: ["gradients and parameters", ["grad_reduce", "parameter_gather", "grad_norm"]],
  dense: ["dense layers", ["dense_ffn"]], faint: ["host", ["host_wait"]], rest: ["norms, ends, optimizer", []],
};
const familyOf = (stage) => Object.keys(families).find((f) => families[f][1].includes(stage)) || "rest";
const familyLegend = (stages) => {
  const used = new Set(stages.map(familyOf));
  return `<div class="legend">${Object.keys(families).filter((f) => used.has(f))
    .map((f) => `<span><i style="background:var(--${f})"></i>${families[f][0]}</span>`).join("")}</div>`;
};
