// How each kind of policy is drawn. Everything a program said arrives here as text and stays text: nodes are made, never parsed.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const h = (tag, props, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else if (key === "onclick") node.addEventListener("click", value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
};
const svg = (tag, props, ...children) => {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(props || {})) node.setAttribute(key, String(value));
  node.append(...children);
  return node;
};

// --- words ------------------------------------------------------------------------------------------------------------
const count = (value) => {
  if (value === null || value === undefined) return "–";
  if (value === "inf") return "∞";
  if (typeof value !== "number") return String(value);
  if (Math.abs(value) >= 1e6) return (value / 1e6).toFixed(1) + " M";
  if (Math.abs(value) >= 1e4) return (value / 1e3).toFixed(1) + " k";
  return Number.isInteger(value) ? String(value) : value.toFixed(Math.abs(value) < 10 ? 1 : 0);
};
const seconds = (value) => {
  if (value === null || value === undefined) return "–";
  if (value === "inf") return "for ever";
  if (value === 0) return "0 s";
  if (value < 0.001) return (value * 1e6).toFixed(0) + " µs";
  if (value < 1) return (value * 1000).toFixed(value < 0.01 ? 1 : 0) + " ms";
  if (value < 60) return value.toFixed(value < 10 ? 1 : 0) + " s";
  if (value < 3600) return Math.floor(value / 60) + " min" + (value % 60 >= 1 ? " " + Math.floor(value % 60) + " s" : "");
  if (value < 86400) return Math.floor(value / 3600) + " h " + Math.floor((value % 3600) / 60) + " min";
  return Math.floor(value / 86400) + " d";
};
const percent = (value) => (value * 100).toFixed(value < 0.1 && value > 0 ? 1 : 0) + " %";
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many || one + "s"}`;

// --- states: a class for the colour, a mark for its shape, a word -------------------------------------------------------
const STATES = {
  closed: ["ok", "●"], "half-open": ["warn", "◐"], open: ["bad", "■"], isolated: ["held", "◆"],
  healthy: ["ok", "●"], degraded: ["warn", "▲"], unhealthy: ["bad", "■"], unknown: ["idle", "○"],
  running: ["ok", "●"], starting: ["warn", "◐"], stopping: ["warn", "◐"], waiting: ["warn", "▲"],
  connected: ["ok", "●"], connecting: ["warn", "◐"], ended: ["idle", "○"],
  serving: ["ok", "●"], lead: ["warn", "▲"], draining: ["warn", "▲"], cancelled: ["bad", "■"],
  full: ["warn", "▲"], "closed to new work": ["idle", "○"], free: ["ok", "●"], paused: ["warn", "▲"], empty: ["warn", "▲"],
  failing: ["bad", "■"], "some fail": ["warn", "▲"], retrying: ["idle", "↻"], "budget spent": ["bad", "■"], quiet: ["ok", "●"], "can't be read": ["bad", "■"],
  working: ["ok", "●"], "behind": ["warn", "▲"], "timing out": ["warn", "▲"], "falling back": ["warn", "▲"], "not enforced": ["idle", "○"],
  "expires soon": ["warn", "▲"], expired: ["bad", "■"], valid: ["ok", "●"], "not running": ["bad", "■"],
  info: ["idle", "○"], warning: ["warn", "▲"], error: ["bad", "■"],
};
const pill = (word, shown) => {
  const [kind, mark] = STATES[word] || ["idle", "○"];
  return h("span", { class: "pill " + kind }, h("span", { class: "mark", "aria-hidden": "true" }, mark), h("span", { class: "word" }, shown || word));
};

// --- pieces -----------------------------------------------------------------------------------------------------------
const figures = (pairs) => h("dl", { class: "figures" }, pairs.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
const errorLine = (text) => (text ? h("p", { class: "error" }, h("span", { class: "hidden" }, "Last error: "), text) : null);
const meter = (name, value, limit, words, tone) => {
  const share = limit === "inf" || !limit ? 0 : Math.max(0, Math.min(1, value / limit));
  const fill = h("i", { class: tone || (share >= 1 ? "bad" : share >= 0.8 ? "warn" : "") });
  fill.style.width = share * 100 + "%";
  return h("div", { class: "meter" },
    h("div", { class: "meter-words" }, h("span", {}, name), h("b", {}, words)),
    h("div", { class: "bar", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": limit === "inf" ? 0 : limit, "aria-valuenow": Math.min(value, limit === "inf" ? value : limit), "aria-valuetext": words }, fill));
};
const gauge = (each) => {
  // The bar's end is not the threshold: a mark shows it, so that one sees how far beyond it things are.
  const top = each.needs !== undefined || each.calls !== undefined ? 1 : each.limit;
  const fill = h("i", { class: each.value >= each.limit ? "bad" : each.value >= each.limit * 0.8 ? "warn" : "" });
  fill.style.width = Math.min(100, (each.value / top) * 100) + "%";
  const mark = h("u", {});
  mark.style.left = `calc(${Math.min(100, (each.limit / top) * 100)}% - 2px)`;
  const ratio = each.calls !== undefined;
  const words = ratio ? `${percent(each.value)}, opens at ${percent(each.limit)}` : `${each.value}, opens at ${each.limit}`;
  const calls = ratio ? (each.needs ? ` (${each.calls} of the ${each.needs} calls it needs)` : ` (${each.calls} calls)`) : "";
  return h("div", { class: "meter" },
    h("div", { class: "meter-words" }, h("span", {}, each.what), h("b", {}, words)),
    h("div", { class: "bar", role: "meter", "aria-label": each.what, "aria-valuemin": 0, "aria-valuemax": top, "aria-valuenow": Math.min(each.value, top), "aria-valuetext": words + calls }, fill, mark),
    calls ? h("p", { class: "note" }, calls.trim().replace(/^\(|\)$/g, "")) : null);
};
const WIDTH = 240, HEIGHT = 34;
const path = (values, top, span) => {
  let d = "", pen = false;
  const from = span - values.length;
  values.forEach((value, i) => {
    if (value === null) { pen = false; return; }
    const x = ((from + i) / (span - 1)) * WIDTH, y = HEIGHT - 1 - (Math.min(value, top) / top) * (HEIGHT - 4);
    d += `${pen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = true;
  });
  return d;
};
const chart = (label, series, names, span, top) => {
  const lists = series.filter((each) => each && each.length > 1);
  if (!lists.length) return null;
  const most = Math.max(top && top !== "inf" ? top : 0, ...lists.flat().map((v) => v || 0), 1e-9);
  const root = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const last = lists.map((list, i) => `${names[i]} ${count(list[list.length - 1])}`).join(", ");
  root.setAttribute("aria-label", `${label}: ${last}; most ${count(Math.max(...lists[0].map((v) => v || 0)))}`);
  root.append(svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }));
  const first = path(lists[0], most, span);
  if (first) {
    const start = ((span - lists[0].length) / (span - 1)) * WIDTH;
    root.append(svg("path", { class: "fill", d: `${first}L${WIDTH} ${HEIGHT - 1}L${start.toFixed(1)} ${HEIGHT - 1}Z` }), svg("path", { class: "stroke", d: first }));
  }
  if (lists[1] && lists[1].some(Boolean)) root.append(svg("path", { class: "stroke second", d: path(lists[1], most, span) }));
  return root;
};
const legend = (...names) => h("div", { class: "legend", "aria-hidden": "true" }, names.map((name, i) => h("span", {}, h("i", { class: i ? "second" : "" }), name)));
const BAND_WORDS = ["closed", "half-open", "open", "isolated"];
const band = (values, span) => {
  const root = svg("svg", { class: "band", viewBox: `0 0 ${span} 1`, preserveAspectRatio: "none", role: "img" });
  root.append(svg("rect", { class: "bx", x: 0, y: 0, width: span, height: 1 }));
  const from = span - values.length, spent = [0, 0, 0, 0];
  for (let i = 0; i < values.length; ) {
    let end = i + 1;
    while (end < values.length && values[end] === values[i]) end++;
    // The worse, the higher: the state is told by the height as well as by the colour.
    if (values[i] !== null) { const y = [0.6, 0.3, 0, 0][values[i]]; root.append(svg("rect", { class: "b" + values[i], x: from + i, y, width: end - i, height: 1 - y })); spent[values[i]] += end - i; }
    i = end;
  }
  const told = spent.map((n, i) => (n ? `${BAND_WORDS[i]} ${seconds(n)}` : "")).filter(Boolean).join(", ");
  root.setAttribute("aria-label", `State over the last ${seconds(values.length)}: ${told}`);
  return h("div", {}, root, h("div", { class: "band-words", "aria-hidden": "true" }, h("span", {}, `${seconds(span)} ago`), h("span", {}, told), h("span", {}, "now")));
};
const table = (label, heads, rows, more) => h("div", { class: "scroll", tabindex: rows.length > 8 ? 0 : null, role: "region", "aria-label": label },
  h("table", { class: "table" },
    h("thead", {}, h("tr", {}, heads.map(([name, n]) => h("th", { scope: "col", class: n ? "n" : null }, name)))),
    h("tbody", {}, rows.map((row) => [h("tr", {}, row.slice(0, heads.length).map((cell, i) => h("td", { class: heads[i][1] ? "n" : null }, cell))), row[heads.length] ? h("tr", { class: "why" }, h("td", { colspan: heads.length }, "✕ ", row[heads.length])) : null]))),
  more ? h("p", { class: "note" }, `and ${more} more`) : null);
const counted = (f, name) => (f.counts && f.counts[name]) || 0;

// --- what state a policy is in, for the pill, the border and the list of what needs attention ----------------------------
const STATE_OF = {
  circuit: (f) => [f.state, f.state === "open" ? (f.remaining > 0 ? `next probe in ${seconds(f.remaining)}` : "a probe may pass") : f.state === "half-open" ? plural(f.probes_out, "probe") + " out" : f.state === "isolated" ? "held open by hand" : ""],
  limit: (f) => f.closed ? ["closed to new work", ""] : f.limit !== "inf" && f.borrowed >= f.limit ? ["full", f.waiting ? `${count(f.waiting)} waiting` : "nobody waits"] : ["free", ""],
  bucket: (f) => f.paused_for > 0 ? ["paused", `for ${seconds(f.paused_for)}`] : f.tokens < 1 || f.waiting ? ["empty", `${count(f.waiting)} waiting`] : ["free", ""],
  retry: (f) => f.budget && f.budget.available < 1 && f.rate > 0 ? ["budget spent", "retries are refused"] : f.rate > 0 ? ["retrying", `${count(f.rate)} a second`] : ["quiet", ""],
  timeout: (f) => f.rate > 0 ? ["timing out", `${count(f.rate)} a second`] : ["quiet", ""],
  fallback: (f) => f.rate > 0 ? ["falling back", `${count(f.rate)} a second`] : ["quiet", ""],
  pipeline: (f) => f.bad_rate >= f.rate * 0.5 && f.bad_rate > 0 ? ["failing", `${count(f.bad_rate)} of ${count(f.rate)} calls a second`] : f.bad_rate > f.rate * 0.05 ? ["some fail", `${count(f.bad_rate)} of ${count(f.rate)} calls a second`] : f.rate > 0 ? ["working", ""] : ["quiet", ""],
  pool: (f) => f.closed ? ["closed to new work", ""] : f.max_size !== "inf" && f.leased >= f.max_size ? ["full", `${count(f.waiting)} waiting`] : ["free", ""],
  "http-pool": (f) => f.closed ? ["closed to new work", ""] : f.waiting ? ["full", `${count(f.waiting)} waiting`] : ["free", ""],
  http: (f) => f.closed ? ["closed to new work", ""] : f.rows.some((r) => r.state === "open") ? ["failing", "an origin's circuit is open"] : f.inside ? ["working", ""] : ["quiet", ""],
  certificate: (f, at) => { const left = f.valid_until ? (Date.parse(f.valid_until) - at) / 1000 : null; return left !== null && left < 0 ? ["expired", ""] : left !== null && left < 14 * 86400 ? ["expires soon", `in ${seconds(left)}`] : f.last_error ? ["failing", "the new files can't be used"] : ["valid", ""]; },
  workers: (f) => f.closed ? ["closed to new work", ""] : f.sending || f.queued > f.workers * 4 ? ["behind", `${count(f.queued)} queued`] : f.busy ? ["working", ""] : ["quiet", ""],
  map: (f) => f.busy ? ["working", ""] : ["quiet", ""],
  stream: (f) => [f.state, f.state === "connected" ? "" : f.last_error || ""],
  supervisor: (f) => { const off = f.children.filter((c) => c.state !== "running"); return off.length ? [off[0].state, off.map((c) => c.name).join(", ")] : f.closed ? ["ended", ""] : ["running", ""]; },
  health: (f) => !f.running ? ["not running", ""] : f.draining ? ["draining", ""] : !f.healthy ? [f.rows.some((r) => r.state === "unhealthy") ? "unhealthy" : "unknown", f.rows.filter((r) => r.state === "unhealthy").map((r) => r.name).join(", ")] : f.rows.some((r) => r.state !== "healthy") ? ["degraded", f.rows.filter((r) => r.state !== "healthy").map((r) => r.name).join(", ")] : ["healthy", ""],
  shutdown: (f) => [f.phase, f.phase === "serving" ? "" : f.reason || ""],
  keyed: () => ["quiet", ""],
  other: (f) => ["quiet", ""],
};
const stateOf = (entry) => (entry.f.told && entry.kind !== "other") || (entry.f.told || "").startsWith("statistics() raised") ? ["can't be read", entry.f.told] : (STATE_OF[entry.kind] || STATE_OF.other)(entry.f, Date.now());

const tree = (children, more) => h("ul", { class: "tree" }, children.map((child) => h("li", {},
  h("div", { class: "row" }, pill(child.state), h("b", {}, child.name),
    h("span", {}, child.state === "running" ? `up ${seconds(child.uptime)}` : ""), h("span", {}, child.restarts ? plural(child.restarts, "restart") : "")),
  errorLine(child.last_error),
  child.below.length ? child.below.map((each) => h("div", {}, h("div", { class: "row note" }, `${each.name} (${each.strategy})`), tree(each.children, each.more))) : null)),
  more ? h("li", { class: "note" }, `and ${more} more`) : null);

const PHASES = ["serving", "lead", "draining", "cancelled", "ended"];
const BODY = {
  circuit: (e, page) => [
    e.f.state === "open" ? h("p", { class: "big" }, h("b", {}, e.f.remaining === "inf" ? "∞" : seconds(e.f.remaining)), h("span", {}, "to the next probe")) : null,
    ...(e.f.gauges.length ? e.f.gauges.map(gauge) : e.f.trip ? [h("p", { class: "words" }, e.f.trip)] : []),
    e.f.enforced ? null : h("p", { class: "words" }, "Not enforced: it reports and rejects nothing."),
    band(e.s.band || [], page.history),
    figures([["inside", count(e.f.inside)], ["opened", count(e.f.opened)], ["rejected", count(e.f.rejected)], ["rejected / s", count(e.f.rate)], e.f.level ? ["level", count(e.f.level)] : null]),
    page.control ? h("div", { class: "acts" },
      page.held.has(e.id) ? h("button", { type: "button", "data-act": "release" }, "Release", h("span", { class: "hidden" }, " " + e.name))
        : h("button", { type: "button", "data-act": "isolate" }, "Isolate", h("span", { class: "hidden" }, " " + e.name)),
      h("button", { type: "button", "data-act": "reset" }, "Reset", h("span", { class: "hidden" }, " " + e.name))) : null],
  limit: (e, page) => [meter("in use", e.f.borrowed, e.f.limit, `${count(e.f.borrowed)} of ${count(e.f.limit)}`),
    chart("In use", [e.s.inside, e.s.waiting], ["inside", "waiting"], page.history, e.f.limit), legend("inside", "waiting"),
    figures([["waiting", count(e.f.waiting)], ["rejected", count(e.f.rejected)], ["rejected / s", count(e.f.rate)]])],
  bucket: (e, page) => [meter("tokens", Math.max(0, e.f.tokens), e.f.capacity, `${count(e.f.tokens)} of ${count(e.f.capacity)}`, e.f.tokens < 1 ? "warn" : "x"),
    chart("Tokens", [e.s.tokens, e.s.waiting], ["tokens", "waiting"], page.history, e.f.capacity), legend("tokens", "waiting"),
    figures([["refill", count(e.f.refill) + " / s"], ["granted / s", count(e.f.rate || 0)], ["waiting", count(e.f.waiting)], ["granted", count(e.f.granted)], ["rejected", count(e.f.rejected)]])],
  retry: (e, page) => [h("p", { class: "big" }, h("b", {}, count(e.f.rate || 0)), h("span", {}, "retries a second")),
    chart("Retries a second", [e.s.rate], ["now"], page.history),
    e.f.budget ? meter("budget left", e.f.budget.available, Math.max(e.f.budget.available, page.peak(e, "budget", e.f.budget.available), 1), plural(Math.floor(e.f.budget.available), "retry", "retries"), e.f.budget.available < 1 ? "bad" : "x") : h("p", { class: "words" }, "No budget: its retries are not limited in their sum."),
    figures([["retries", count(counted(e.f, "RetryScheduled"))], ["gave up", count(counted(e.f, "RetryGaveUp"))], ["max attempts", count(e.f.max_attempts)], e.f.budget ? ["refused", count(e.f.budget.refused)] : null])],
  timeout: (e, page) => [h("p", { class: "big" }, h("b", {}, seconds(e.f.seconds)), h("span", {}, "allowed")), chart("Time-outs a second", [e.s.rate], ["now"], page.history), figures([["timed out", count(counted(e.f, "TimedOut"))], ["now / s", count(e.f.rate || 0)]])],
  fallback: (e, page) => [chart("Fallbacks a second", [e.s.rate], ["now"], page.history), h("ol", { class: "chain", "aria-label": "Alternatives" }, e.f.alternatives.map((each) => h("li", {}, each)), e.f.has_default ? h("li", {}, "default") : null), figures([["fell back", count(counted(e.f, "FellBack"))], ["now / s", count(e.f.rate || 0)]])],
  keyed: (e, page) => [h("p", { class: "big" }, h("b", {}, count(e.f.keys)), h("span", {}, "keys held")), chart("Keys", [e.s.keys], ["now"], page.history), figures([["made", count(e.f.made)]])],
  pipeline: (e, page) => [h("p", { class: "big" }, h("b", {}, count(e.f.rate || 0)), h("span", {}, "calls a second")),
    chart("Calls a second", [e.s.rate, e.s.bad_rate], ["calls", "failed or rejected"], page.history), legend("calls", "failed or rejected"),
    figures([["p50", seconds(e.f.p50)], ["p99", seconds(e.f.p99)], ["calls", count(counted(e.f, "CallFinished"))], ["bad / s", count(e.f.bad_rate || 0)]]),
    h("ol", { class: "chain", "aria-label": "Its policies, outermost first" }, e.f.parts.map((each) => h("li", {}, each)))],
  pool: (e, page) => [meter("lent", e.f.leased, e.f.max_size, `${count(e.f.leased)} of ${count(e.f.max_size)}`), chart("Lent", [e.s.leased, e.s.waiting], ["lent", "waiting"], page.history, e.f.max_size), legend("lent", "waiting"),
    figures([["idle", count(e.f.idle)], ["connecting", count(e.f.connecting)], ["waiting", count(e.f.waiting)], ["opened", count(e.f.opened)], ["reused", count(e.f.reused)], ["failed", count(e.f.connect_failed)]]), errorLine(e.f.last_error)],
  "http-pool": (e, page) => [meter("open", e.f.open, e.f.max_connections, `${count(e.f.open)} of ${count(e.f.max_connections)}`), chart("In use", [e.s.in_use, e.s.waiting], ["in use", "waiting"], page.history), legend("in use", "waiting"),
    table(`Origins of ${e.name}`, [["origin"], ["in use", 1], ["idle", 1], ["waiting", 1], ["requests", 1]], e.f.rows.map((r) => [r.name, count(r.in_use), count(r.idle), count(r.waiting), count(r.requests), r.error]), e.f.more)],
  http: (e, page) => [h("p", { class: "big" }, h("b", {}, count(e.f.rate || 0)), h("span", {}, "requests a second")), chart("Requests", [e.s.rate, e.s.inside], ["a second", "under way"], page.history), legend("a second", "under way"),
    table(`Origins of ${e.name}`, [["origin"], ["circuit"], ["inside", 1], ["tokens", 1], ["waiting", 1]], e.f.rows.map((r) => [r.name, r.state ? pill(r.state) : "–", count(r.inside), count(r.tokens), count(r.waiting)]), e.f.more),
    figures([["requests", count(e.f.requests)], ["retries", count(e.f.retries)], ["under way", count(e.f.inside)]])],
  certificate: (e) => [figures([["valid until", e.f.valid_until ? e.f.valid_until.slice(0, 10) : "–"], ["read", count(e.f.generation)], ["failures", count(e.f.failures)]]), errorLine(e.f.last_error)],
  workers: (e, page) => [meter("busy", e.f.busy, e.f.workers, `${count(e.f.busy)} of ${count(e.f.workers)}`, "x"), chart("Queue", [e.s.queued, e.s.busy], ["queued", "busy"], page.history), legend("queued", "busy"),
    figures([["queued", count(e.f.queued)], ["done / s", count(e.f.rate || 0)], ["succeeded", count(e.f.succeeded)], ["failed", count(e.f.failed)], ["unfinished", count(e.f.unfinished)], ["rejected", count(e.f.rejected)]]), errorLine(e.f.last_error)],
  map: (e, page) => [meter("busy", e.f.busy, e.f.workers, `${count(e.f.busy)} of ${count(e.f.workers)}`, "x"), chart("Busy", [e.s.busy, e.s.unread], ["busy", "unread"], page.history), legend("busy", "unread"),
    figures([["taken", count(e.f.taken)], ["succeeded", count(e.f.succeeded)], ["failed", count(e.f.failed)], ["read", count(e.f.read)]]), errorLine(e.f.last_error)],
  stream: (e, page) => [h("p", { class: "big" }, h("b", {}, count(e.f.rate || 0)), h("span", {}, "items a second")), chart("Items", [e.s.rate, e.s.buffered], ["a second", "buffered"], page.history), legend("a second", "buffered"),
    figures([["session", count(e.f.sessions)], ["buffered", count(e.f.buffered)], ["delivered", count(e.f.delivered)], ["dropped", count(e.f.dropped)]]), errorLine(e.f.state === "connected" ? null : e.f.last_error)],
  supervisor: (e) => [h("p", { class: "words" }, `${e.f.strategy} · ${plural(e.f.restarts, "restart")} · ${count(e.f.ended)} ended`), tree(e.f.children, e.f.more)],
  health: (e) => [table(`Checks of ${e.name}`, [["check"], ["state"], ["last", 1], ["p50", 1], ["p99", 1]],
    e.f.rows.map((r) => [h("span", {}, r.name, r.critical ? h("span", { class: "note" }, " critical") : null, r.group ? h("span", { class: "note" }, " " + r.group) : null), pill(r.state), seconds(r.latency), seconds(r.p50), seconds(r.p99), r.error]), e.f.more)],
  shutdown: (e, page) => [h("ol", { class: "steps", "aria-label": "Phases" }, PHASES.map((phase, i) => { const at = PHASES.indexOf(e.f.phase); return h("li", { class: i === at ? (i ? "now" : "now calm") : i < at ? "done" : null, "aria-current": i === at ? "step" : null }, phase); })),
    figures([["registered", count(e.f.registered)], ["still draining", count(e.f.running)], e.f.closes_at !== "inf" ? ["closes in", seconds(Math.max(0, e.f.closes_at - page.now))] : null, e.f.cancels_at !== "inf" ? ["cancels in", seconds(Math.max(0, e.f.cancels_at - page.now))] : null, ["signals", count(e.f.signals)]])],
  other: (e) => [e.f.told ? h("p", { class: "words" }, e.f.told) : null, figures(Object.entries(e.f).filter(([name, value]) => !["counts", "told", "rate", "bad_rate", "p50", "p99"].includes(name) && value !== null).map(([name, value]) => [name.replace(/_/g, " "), count(value)])),
    figures(Object.entries(e.f.counts || {}).map(([name, n]) => [name, count(n)]))],
};
const GROUPS = [
  ["health", "Health", true], ["circuit", "Circuit breakers"], ["pipeline", "Pipelines"], ["limit", "Bulkheads"], ["bucket", "Token buckets"], ["retry", "Retries"],
  ["timeout", "Timeouts"], ["fallback", "Fallbacks"], ["http", "HTTP clients", true], ["http-pool", "HTTP connections", true], ["pool", "Pools"], ["supervisor", "Supervisors", true],
  ["stream", "Streams"], ["workers", "Workers"], ["map", "Concurrent maps"], ["shutdown", "Shutdown", true], ["certificate", "Client certificates"], ["keyed", "Keyed policies"], ["other", "Others"],
];
