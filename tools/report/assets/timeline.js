// The tasks of a step on their streams: measured above predicted, on one time axis that can be zoomed and moved.
function timelineSection() {
  const steps = report.timeline;
  if (steps.length === 0) return;
  const element = section("timeline", "Timeline of a step",
    steps.length > 1 ? "What ran when on each stream of rank 0: the measured step above the one that the plan's simulation predicted, on one time axis. " +
      "Communication includes waiting for other ranks." + (report.replans.length > 0 ? " Simulated is the plan of that step, on the costs then in force." : "") : "The step that the plan's simulation predicts; none was recorded.");
  const kinds = steps.flatMap((s) => s.kinds);
  add(element, familyLegend(kinds.map((k) => k.stage)));
  add(element, shadeLegend(kinds.map((k) => k.phase)));
  const bar = add(element, `<div class="bar-row"><button data-zoom="0.5" aria-label="Zoom in">+</button><button data-zoom="2" aria-label="Zoom out">−</button>
    <button data-zoom="all">whole step</button><span class="soft" id="timeline-range"></span></div>`);
  const plot = add(element, '<svg id="timeline-plot" tabindex="0" role="img" aria-label="Tasks of the step by stream"></svg>');
  for (const step of steps)
    if (step.left_out > 0) add(element, `<p class="soft">${escapeText(step.name)}: the ${step.left_out} shortest tasks are left out.</p>`);
  const timeline = new Timeline(plot, steps, bar.querySelector("#timeline-range"));
  bar.addEventListener("click", (event) => { if (event.target.dataset.zoom) timeline.zoom(event.target.dataset.zoom); });
}

// The phase of a task by how strong its colour is.
const shades = { forward: 1, backward: 0.78, update: 0.6 };
const shadeNames = { forward: "full colour: forward", backward: "fainter: backward", update: "faintest: update" };
const shadeLegend = (phases) => `<div class="legend">${Object.keys(shades).filter((phase) => phases.includes(phase))
  .map((phase) => `<span><i style="background:var(--attention);opacity:${shades[phase]}"></i>${shadeNames[phase]}</span>`).join("")}</div>`;

class Timeline {
  constructor(plot, steps, range) {
    this.plot = plot;
    this.range = range;
    this.end = Math.max(...steps.map((s) => s.total_ms)) * 1e3;
    this.view = [0, this.end];
    this.left = Math.min(150, 14 + 6.6 * Math.max(...steps.flatMap((s) => s.streams.map((name) => name.length))));
    this.layOut(steps);
    onWidth(plot, (width) => { this.width = width; this.draw(); });
    tipsOn(plot, (key) => this.text(key));
    this.listen();
  }

  // Rows: for each step a title, then a row per stream and lane.
  layOut(steps) {
    let y = 4;
    this.rows = [];
    this.titles = [];
    steps.forEach((step, index) => {
      this.titles.push({ y: y + 12, text: `${step.name}: ${milliseconds(step.total_ms)}, communication alone ${milliseconds(step.exposed_comm_ms)}` });
      y += 20;
      step.streams.forEach((name, stream) => {
        const tasks = step.tasks.map((task, id) => ({ task, id })).filter((t) => t.task[0] === stream);
        const lanes = 1 + tasks.reduce((most, t) => Math.max(most, t.task[1]), 0);
        for (let lane = 0; lane < lanes; lane += 1) {
          const height = lane === 0 ? 26 : 14;
          this.rows.push({ y, height, index, step, name: lane === 0 ? name : "", tasks: tasks.filter((t) => t.task[1] === lane) });
          y += height + 2;
        }
      });
      y += 10;
    });
    this.height = y + 20;
  }

  x(us) { return this.left + ((us - this.view[0]) / (this.view[1] - this.view[0])) * (this.width - this.left - 4); }

  draw() {
    this.plot.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.plot.setAttribute("height", this.height);
    const out = [`<clipPath id="timeline-clip"><rect x="${this.left}" y="0" width="${this.width - this.left}" height="${this.height}"/></clipPath>`];
    const low = this.view[0] / 1e3, high = this.view[1] / 1e3, floor = this.height - 18;
    for (const at of ticks(low, high, Math.max(3, this.width / 130))) {
      const x = this.x(at * 1e3).toFixed(1);
      out.push(`<line class="rule" x1="${x}" x2="${x}" y1="0" y2="${floor}"/><text x="${x}" y="${floor + 14}" text-anchor="middle">${Number(at.toPrecision(8))} ms</text>`);
    }
    for (const title of this.titles) out.push(`<text x="0" y="${title.y}" style="fill:var(--ink);font-weight:600">${escapeText(title.text)}</text>`);
    for (const row of this.rows) {
      out.push(`<text x="0" y="${row.y + row.height / 2 + 4}">${escapeText(row.name)}</text><g clip-path="url(#timeline-clip)">`);
      this.drawRow(row, out);
      out.push("</g>");
    }
    this.plot.innerHTML = out.join("");
    this.range.textContent = `${number(low)} to ${number(high, 4)} ms. Wheel: zoom. Drag: move. Double click: whole step.`;
  }

  // In a crowd, a task that would cover a pixel that is painted already is left out: closer up it is there.
  drawRow(row, out) {
    const crowded = row.tasks.length > 4000;
    let painted = -1;
    for (const { task, id } of row.tasks) {
      const from = this.x(task[3]), to = this.x(task[3] + task[4]);
      if (to < this.left || from > this.width) continue;
      if (crowded && to < painted + 0.5) continue;
      painted = Math.max(to, from + 0.5);
      const kind = row.step.kinds[task[2]];
      out.push(`<rect class="task" data-tip="${row.index},${id}" x="${from.toFixed(2)}" y="${row.y}" width="${Math.max(0.5, to - from - 0.4).toFixed(2)}" height="${row.height}" rx="${to - from > 6 ? 2 : 0}" fill="var(--${familyOf(kind.stage)})" fill-opacity="${shades[kind.phase]}"/>`);
    }
  }

  text(key) {
    const [index, id] = key.split(",").map(Number);
    const step = report.timeline[index], task = step.tasks[id];
    const place = [["layer", task[5]], ["micro-batch", task[6]], ["chunk", task[7]]].filter((p) => p[1] >= 0).map((p) => p.join(" ")).join(", ");
    return `${step.kinds[task[2]].label}${place ? "\n" + place : ""}\n${milliseconds(task[4] / 1e3)}, from ${number(task[3] / 1e3, 4)} ms on ${step.streams[task[0]]}`;
  }

  look(from, to) {
    const span = Math.min(this.end, Math.max(1, to - from));
    const start = Math.min(Math.max(0, from), this.end - span);
    this.view = [start, start + span];
    if (this.due) return;
    this.due = true;
    setTimeout(() => { this.due = false; this.draw(); });  // once for all that the pointer did meanwhile
  }
  zoom(factor, at = (this.view[0] + this.view[1]) / 2) {
    if (factor === "all") return this.look(0, this.end);
    const f = Number(factor);
    this.look(at - (at - this.view[0]) * f, at + (this.view[1] - at) * f);
  }
  listen() {
    const time = (event) => {
      const share = (event.clientX - this.plot.getBoundingClientRect().left - this.left) / (this.width - this.left - 4);
      return this.view[0] + share * (this.view[1] - this.view[0]);
    };
    this.plot.addEventListener("wheel", (event) => {
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
      event.preventDefault();
      this.zoom(Math.exp(Math.sign(event.deltaY) * 0.25), time(event));
    }, { passive: false });
    this.plot.addEventListener("dblclick", () => this.zoom("all"));
    let held = null;
    this.plot.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, view: [...this.view] };
      this.plot.classList.add("held");
    });
    addEventListener("pointerup", () => { held = null; this.plot.classList.remove("held"); });
    addEventListener("pointermove", (event) => {
      if (!held) return;
      const by = ((held.x - event.clientX) / (this.width - this.left - 4)) * (held.view[1] - held.view[0]);
      this.look(held.view[0] + by, held.view[1] + by);
    });
    this.plot.addEventListener("keydown", (event) => {
      const span = this.view[1] - this.view[0];
      const moves = { ArrowLeft: -0.2, ArrowRight: 0.2 };
      if (event.key in moves) this.look(this.view[0] + moves[event.key] * span, this.view[1] + moves[event.key] * span);
      else if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 0.5 : 2);
      else return;
      event.preventDefault();
    });
  }
}
