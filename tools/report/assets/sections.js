// The head of the page, the tables, and the order of it all.
const last = (values) => (values && values.length > 0 ? values[values.length - 1] : null);
function median(values) {
  const sorted = (values || []).filter(Number.isFinite).sort((a, b) => a - b);
  return sorted.length === 0 ? null : (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

function head() {
  const { run, curves, stages, environment } = report, column = curves.column;
  const ranks = environment ? `${counted(environment.ranks, "rank")} on ${counted(environment.nodes, "node")}, ` : "";
  const header = document.getElementById("head");
  header.innerHTML = `<h1>${escapeText(run.name)}</h1><p class="sub">${count(run.parameters)} parameters, ${count(run.active_parameters)} active for a token; ` +
    `${run.layers} layers, ${run.moe_layers} of them with ${run.experts} experts, top ${run.top_k}; ${ranks}EP ${run.ep}${run.esp > 1 ? `, ESP ${run.esp}` : ""}${run.sp > 1 ? `, SP ${run.sp}` : ""}; ` +
    `${run.global_batch} sequences of ${run.sequence_length} tokens a step.${environment && environment.started ? ` <span style="white-space:nowrap">Started ${escapeText(environment.started.replace("T", " ").replace("Z", " UTC"))}.</span>` : ""}</p>`;
  const tiles = [];
  const tile = (name, value, more) => tiles.push(`<div class="tile"><div class="name">${name}</div><div class="value">${value}</div><div class="more">${more}</div></div>`);
  if (curves.steps > 0) {
    const validated = last(curves.validation.loss);
    tile("loss", number(last(column.loss), 4), `${number(column.loss[0], 4)} at step ${curves.step[0]}${validated === null ? "" : `; validation ${number(validated, 4)}`}`);
    const step = stages && stages.step && stages.step.measured_ms > 0 ? stages.step : { measured_ms: median(column.step_ms), predicted_ms: median(column.predicted_ms) };
    tile("step", milliseconds(step.measured_ms), `${milliseconds(step.predicted_ms)} predicted (${signed(step.predicted_ms / step.measured_ms - 1)})`);
    tile("tokens per second", count(median(column.tokens_per_second)), `${count(last(column.tokens))} in ${curves.steps} of ${run.steps} steps`);
    tile("communication alone", percent(median(column.exposed_comm_frac)), "of a step, median");
    if (column.max_vio) tile("busiest expert", number(1 + last(column.max_vio)) + " ×", `the mean of its layer, last step; ${last(column.dead_experts)} without a token`);
    if (column.drop_frac && run.capacity_factor > 0) tile("dropped", percent(median(column.drop_frac)), "of all choices, median");
  }
  if (curves.steps === 0) add(header, '<div class="note" id="no-steps">No steps yet: metrics.jsonl has none.</div>');
  add(header, `<div class="tiles">${tiles.join("")}</div>`);
  if (report.missing.length > 0)
    add(header, `<div class="note">This run did not record everything that a report can show:<ul>${report.missing
      .map((m) => `<li>${escapeText(m.what)}: <code>${escapeText(m.how)}</code></li>`).join("")}</ul></div>`);
}

function stagesSection() {
  const stages = report.stages;
  if (!stages) return;
  const element = section("stages", "Stages", `Time of each stage on rank 0, median of ${counted(stages.steps, "step")}${report.replans.length > 0 ? " on the costs in force" : ""}. ` +
    "Stages overlap, so they may add up to more than the step; communication includes waiting for other ranks. " +
    (report.timeline.length > 0 ? `Alone: time in the step above (${escapeText(report.timeline[0].name)}) in which the stage's communication ran and no computation did.` : ""));
  const rows = [...stages.stages].sort((a, b) => Math.max(b.measured_ms, b.predicted_ms) - Math.max(a.measured_ms, a.predicted_ms));
  const most = Math.max(...rows.map((r) => Math.max(r.measured_ms, r.predicted_ms)));
  const bar = (row) => `<svg class="bars" height="18" viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true"><rect class="measured" x="0" y="1" width="${(100 * row.measured_ms) / most}" height="9" fill="var(--${familyOf(row.stage)})"/>` +
    `<rect class="predicted" x="0" y="12" width="${(100 * row.predicted_ms) / most}" height="4" fill="var(--faint)"/></svg>`;
  const alone = report.timeline.length > 0 ? report.timeline[0].exposed_stage_ms : {};
  const line = (name, row, picture) => `<tr><td>${name}</td><td class="bar">${picture}</td><td class="num">${milliseconds(row.measured_ms)}</td><td class="num">${milliseconds(row.predicted_ms)}</td><td class="num">${signed(row.error)}</td><td class="num">${alone[row.stage] > 0 ? milliseconds(alone[row.stage]) : ""}</td></tr>`;
  add(element, '<div class="legend"><span><i style="background:var(--attention)"></i>measured, in the colour of the timeline</span><span><i class="line" style="background:var(--faint)"></i>predicted</span></div>');
  add(element, `<div class="wide"><table class="full"><tr><th>stage</th><th></th><th class="num">measured</th><th class="num">predicted</th><th class="num">error</th><th class="num">alone</th></tr>${
    rows.map((row) => line(row.stage, row, bar(row))).join("")}${stages.step ? line("<b>step</b>", stages.step, "") : ""}</table></div>`);
}

function overlapSection() {
  if (report.timeline.length === 0) return;
  const element = section("overlap", "Overlap", "How long two streams worked at once, in milliseconds of the step above, and that as a share of the time in which the less used one worked. On the diagonal: how long a stream worked at all.");
  const grid = add(element, '<div class="grid"></div>');
  const names = ["compute", "intra", "inter"].filter((n) => n === "compute" || report.timeline.some((s) => s.overlap.busy_ms[n] > 0));
  if (!names.includes("inter")) add(element, '<p class="soft">No task used links between nodes.</p>');
  for (const step of report.timeline) {
    const cell = (a, b) => {
      if (a === b) return `<td class="self">${number(step.overlap.busy_ms[a])}<small>in use</small></td>`;
      const pair = step.overlap.pairs.find((p) => (p.a === a && p.b === b) || (p.a === b && p.b === a));
      return `<td>${number(pair.ms)}<small>${pair.share === null ? "-" : percent(pair.share)}</small></td>`;
    };
    add(grid, `<div class="wide"><h3>${escapeText(step.name)}, ${milliseconds(step.total_ms)}</h3><table class="matrix"><tr><th></th>${names.map((n) => `<th>${n}</th>`).join("")}</tr>${
      names.map((a) => `<tr><th>${a}</th>${names.map((b) => cell(a, b)).join("")}</tr>`).join("")}</table></div>`);
  }
}

function planSection() {
  const plan = report.plan;
  if (!plan && report.replans.length === 0) return;
  const element = section("plan", "Plan");
  if (plan) {
    add(element, `<ul class="words">${plan.words.map((w) => `<li>${escapeText(w)}</li>`).join("")}</ul>`);
    const ratio = (value) => (value === null ? "-" : number(value, 4) + " ×");
    add(element, `<div class="wide"><table style="margin-top:12px"><tr><th class="num">predicted</th><th class="num">lower bound</th><th class="num">gap</th><th class="num">over sequential</th><th class="num">over fsmoe</th><th class="num">communication alone</th><th class="num">memory of a rank</th><th class="num">tasks</th></tr>` +
      `<tr><td class="num">${milliseconds(plan.predicted_ms)}</td><td class="num">${milliseconds(plan.lower_bound_ms)}</td><td class="num">${percent(plan.gap)}</td><td class="num">${ratio(plan.over_sequential)}</td><td class="num">${ratio(plan.over_fsmoe)}</td><td class="num">${milliseconds(plan.exposed_comm_ms)}</td><td class="num">${bytes(plan.memory_bytes)}</td><td class="num">${plan.tasks}</td></tr></table></div>`);
  }
  if (report.replans.length > 0) replanTable(element);
}

function replanTable(element) {
  const actions = { keep: "kept", try: "tried another", accept: "kept the one tried", give_up: "gave up the one tried" };
  add(element, '<h3 style="margin-top:14px">Replanning</h3><p class="lead">Each look brings the costs to what the steps since the last one took, and predicts with them: the plan before, and the one that it was held against or gave way to. The plan above is the last one, on the costs in force.</p>');
  add(element, `<div class="wide"><table id="replans"><tr><th class="num">after step</th><th>plan</th><th>reason</th><th class="num">measured</th><th class="num">predicted before</th><th class="num">predicted after</th></tr>${report.replans
    .map((r) => `<tr><td class="num">${r.step}</td><td>${actions[r.action] || escapeText(r.action)}</td><td>${escapeText(r.reason)}</td>${
      [r.measured_ms, r.predicted_ms.before, r.predicted_ms.after].map((ms) => `<td class="num">${milliseconds(ms)}</td>`).join("")}</tr>`).join("")}</table></div>`);
}

function environmentSection() {
  const element = section("environment", "Environment");
  const facts = report.environment || {};
  const text = (key, value) => (key === "memory_bytes" ? bytes(value) : Array.isArray(value) ? value.join(", ") : String(value));
  add(element, `<dl>${Object.entries(facts).filter(([, v]) => v !== "").map(([key, value]) => `<dt>${escapeText(key.replace(/_bytes$/, "").replace(/_/g, " "))}</dt><dd>${escapeText(text(key, value))}</dd>`).join("")}</dl>`);
  add(element, `<details><summary>config.textproto</summary><pre>${escapeText(report.config)}</pre></details>`);
}

head();
for (const draw of [timelineSection, stagesSection, overlapSection, curvesSection, routerSection, trafficSection, costsSection, planSection, environmentSection]) draw();
add(document.getElementById("main"), '<footer>Made by weft report. The same figures are in report.json.</footer>');
