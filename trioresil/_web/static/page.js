// The page: listens to /events, keeps what it is told, and redraws what is in view, at most a few times a second.
"use strict";
const $ = (id) => document.getElementById(id);
const FIRST_SHOWN = 60, MAX_LINES = 1000, SHOWN_LINES = 150, MAX_ATTENTION = 12;
const entries = new Map();
const page = { history: 300, now: 0, asked: 0, control: null, held: new Set(), peaks: new Map(), peak(e, name, value) { const key = `${e.id} ${name}`, most = Math.max(value, this.peaks.get(key) || 0); this.peaks.set(key, most); return most; } };
const totals = { series: {}, rates: {}, events: 0, unlisted: 0, left_out: 0 };
let lines = [], paused = false, dirty = new Set(), redrawAll = true, linesChanged = true, limits = {}, announced = "";
const LEVELS = { info: 0, warning: 1, error: 2 };

// --- what is told -----------------------------------------------------------------------------------------------------
const push = (list, value) => { list.push(typeof value === "number" ? value : null); if (list.length > page.history) list.shift(); };
const whole = (list) => { for (const each of list) { const known = entries.get(each.id); if (!known) redrawAll = true; entries.set(each.id, { ...each, node: known && known.node, inView: known && known.inView }); dirty.add(each.id); } };
const forget = (id) => { const { node } = entries.get(id); if (node) { watcher.unobserve(node); node.remove(); } entries.delete(id); dirty.delete(id); for (const key of page.peaks.keys()) if (key.startsWith(`${id} `)) page.peaks.delete(key); };
const change = (list) => {
  for (const each of list) {
    let entry = entries.get(each.id);
    if (!entry) {
      if (!each.kind) continue;
      entry = { id: each.id, v: 0, kind: each.kind, name: each.name, f: {}, s: Object.fromEntries(each.s.map((name) => [name, []])) };
      entries.set(each.id, entry);
      redrawAll = true;
    }
    if (each.v <= entry.v) continue; // it was told as a whole since
    entry.v = each.v;
    Object.assign(entry.f, each.f);
    dirty.add(each.id);
  }
};
const tick = (data) => {
  page.now = data.now;
  page.held = new Set(data.held);
  Object.assign(totals, { rates: data.rates, events: data.events, unlisted: data.unlisted, left_out: data.left_out });
  for (const [name, rate] of Object.entries(data.rates)) push((totals.series[name] ||= []), rate);
  for (const id of data.gone) if (entries.has(id)) { forget(id); redrawAll = true; }
  for (const entry of entries.values()) for (const name of Object.keys(entry.s)) push(entry.s[name], entry.f[name]);
  for (const entry of entries.values()) if (entry.inView) dirty.add(entry.id);
};
const log = (list) => { lines.push(...list); if (lines.length > MAX_LINES) lines = lines.slice(-MAX_LINES); linesChanged = true; };
const hello = (data) => {
  Object.assign(page, { history: data.history, control: data.control, now: data.now, held: new Set(data.held) });
  Object.assign(totals, { series: data.series, events: data.events, unlisted: data.unlisted, left_out: data.left_out });
  $("title").textContent = document.title = data.title;
  lines = []; log(data.lines);
};
let told = new Set();
const TELL = {
  hello: (data) => { told = new Set(); hello(data); },
  whole: (data) => { for (const each of data) told.add(each.id); whole(data); },
  ready: () => { for (const id of [...entries.keys()]) if (!told.has(id)) forget(id); redrawAll = true; },
  change: (data) => { for (const each of data) told.add(each.id); change(data); },
  tick, lines: log,
  behind: () => link("warn", "▲", "too slow, catching up"),
};

// --- the line to the program ------------------------------------------------------------------------------------------
const link = (kind, mark, word) => { const node = $("link"); if (node.lastChild.textContent === word) return; node.className = "pill " + kind; node.firstChild.textContent = mark; node.lastChild.textContent = word; };
const live = () => link(paused ? "idle" : "ok", paused ? "❚❚" : "●", paused ? "paused" : "live");
const asks = () => link(paused ? "idle" : "warn", paused ? "❚❚" : "◐", paused ? "paused" : "asking every 5 s");
let source = null, asking = 0;
const connect = () => {
  source = new EventSource("/events");
  for (const [name, take] of Object.entries(TELL)) source.addEventListener(name, (event) => { take(JSON.parse(event.data)); if (name !== "behind" && (name === "ready" || name === "tick")) { page.asked = 0; live(); } schedule(); });
  source.onerror = () => {
    if (!page.asked) link("bad", "■", "no connection"); // while it asks, it is only still refused a stream
    if (source.readyState === EventSource.CLOSED) { source.close(); clearTimeout(asking); asking = setTimeout(ask, 1000); }
  };
};
const ask = async () => { // too many streams are open, or the token is gone: the whole state can be asked for as well
  try {
    const answer = await fetch("/api/state", { headers: { accept: "application/json" } });
    if (answer.status === 401) { location.reload(); return; }
    const data = await answer.json();
    hello(data); whole(data.policies);
    const here = new Set(data.policies.map((each) => each.id));
    for (const id of [...entries.keys()]) if (!here.has(id)) forget(id);
    redrawAll = true; page.asked++; asks(); schedule();
    asking = setTimeout(() => { page.asked % 6 ? ask() : connect(); }, 5000);
  } catch { page.asked = 0; link("bad", "■", "no connection"); asking = setTimeout(ask, 3000); }
};

// --- drawing ----------------------------------------------------------------------------------------------------------
let scheduled = false;
const schedule = () => { if (!scheduled && !paused) { scheduled = true; setTimeout(() => requestAnimationFrame(draw), 120); } };
const draw = () => {
  scheduled = false;
  if (paused) return;
  if (redrawAll) { layOut(); redrawAll = false; }
  for (const id of dirty) { const entry = entries.get(id); if (entry && entry.node && entry.inView) drawCard(entry); }
  dirty.clear();
  drawVerdict(); drawTotals();
  if (linesChanged) { drawLines(); linesChanged = false; }
};
const wanted = () => {
  const text = $("filter").value.trim().toLowerCase(), trouble = $("trouble").getAttribute("aria-pressed") === "true";
  return [...entries.values()].filter((each) => (!text || each.name.toLowerCase().includes(text) || each.kind.includes(text)) && (!trouble || isTrouble(toneOf(each))));
};
const toneOf = (entry) => (STATES[stateOf(entry)[0]] || ["idle"])[0];
const isTrouble = (tone) => tone === "bad" || tone === "warn" || tone === "held";
const watcher = new IntersectionObserver((seen) => { for (const each of seen) { const entry = entries.get(Number(each.target.dataset.id)); if (entry) { entry.inView = each.isIntersecting; if (each.isIntersecting) drawCard(entry); } } }, { rootMargin: "200px" });
const layOut = () => {
  const root = $("policies"), shown = wanted(), kinds = [];
  const sections = GROUPS.map(([kind, name, isWide]) => {
    const all = shown.filter((each) => each.kind === kind);
    const section = $("kind-" + kind) || h("section", { class: "kind", id: "kind-" + kind, "aria-labelledby": "title-" + kind }, h("h2", { id: "title-" + kind }, h("b", {}, name), h("span", {})), h("div", { class: "cards" + (isWide ? " wide" : "") }), h("button", { type: "button", class: "more", "data-more": kind }));
    section.hidden = !all.length;
    if (all.length) kinds.push([kind, name, all.length]);
    const [title, cards, more] = section.children, most = limits[kind] || FIRST_SHOWN, some = all.slice(0, most);
    title.lastChild.textContent = count(all.length);
    more.hidden = all.length <= most;
    more.textContent = `Show ${Math.min(all.length - most, FIRST_SHOWN)} more of ${all.length - most}`;
    const keep = new Set(some.map((each) => card(each)));
    for (const node of [...cards.children]) if (!keep.has(node)) node.remove();
    let place = cards.firstChild;
    for (const node of keep) { if (node === place) place = place.nextSibling; else cards.insertBefore(node, place); }
    return section;
  });
  for (const section of sections) if (!section.isConnected) root.append(section);
  $("empty").hidden = shown.length > 0;
  $("empty").textContent = entries.size ? "No policy matches." : "No policy has been used yet. Each one appears here when it is used for the first time.";
  const nav = $("kinds");
  if (nav.dataset.kinds !== JSON.stringify(kinds)) { nav.dataset.kinds = JSON.stringify(kinds); nav.replaceChildren(...kinds.map(([kind, name, n]) => h("a", { href: "#kind-" + kind }, name + " ", h("b", {}, count(n))))); }
};
const card = (entry) => {
  if (!entry.node) { entry.node = h("article", { class: "card", id: "policy-" + entry.id, "data-id": entry.id, "aria-labelledby": "name-" + entry.id, tabindex: -1 }); watcher.observe(entry.node); drawCard(entry); }
  return entry.node;
};
const drawCard = (entry) => {
  const [word, detail] = stateOf(entry), tone = toneOf(entry), node = entry.node, active = document.activeElement;
  const focused = node.contains(active) && active !== node ? active.dataset.act || null : null;
  node.className = "card" + (isTrouble(tone) ? " is-" + tone : "");
  const body = entry.f.told && word === "can't be read" ? [h("p", { class: "error" }, entry.f.told)] : BODY[entry.kind] ? BODY[entry.kind](entry, page) : BODY.other(entry, page);
  node.replaceChildren(h("div", { class: "card-head" }, h("h3", { id: "name-" + entry.id }, entry.name), h("span", { class: "state" }, pill(word))), ...body.flat().filter(Boolean));
  if (focused) { const again = node.querySelector(`[data-act="${focused}"]`) || node.querySelector("[data-act]"); if (again) again.focus(); }
};
const drawVerdict = () => {
  const troubled = [];
  for (const entry of entries.values()) { const [word, detail] = stateOf(entry), tone = toneOf(entry); if (isTrouble(tone)) troubled.push([tone, entry, word, detail]); }
  const rank = { bad: 0, held: 1, warn: 2 };
  troubled.sort((a, b) => rank[a[0]] - rank[b[0]]);
  const bad = troubled.filter((each) => each[0] === "bad").length, n = troubled.length;
  const [kind, mark, words] = !entries.size ? ["idle", "○", "No policy has been used yet"] : bad ? ["bad", "■", `${plural(bad, "policy", "policies")} in trouble` + (n > bad ? `, ${n - bad} to watch` : "")] : n ? ["warn", "▲", `${plural(n, "policy", "policies")} to watch`] : ["ok", "●", entries.size === 1 ? "1 policy is well" : `All ${count(entries.size)} policies are well`];
  const node = $("verdict");
  node.className = "verdict-line " + kind;
  if (announced !== words) { announced = words; node.firstChild.textContent = mark; node.lastChild.textContent = words; document.title = (bad ? `■ ${bad} · ` : "") + $("title").textContent; }
  const items = troubled.slice(0, MAX_ATTENTION).map(([tone, entry, word, detail]) => ({ tone, id: entry.id, name: entry.name, mark: STATES[word][1], word, detail }));
  const list = $("attention"), focus = document.activeElement && list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  list.replaceChildren(...items.map((each) => h("li", {}, h("a", { class: each.tone, href: "#policy-" + each.id }, h("span", { class: "mark", "aria-hidden": "true" }, each.mark), h("b", {}, each.name), h("span", {}, each.word + (each.detail ? ", " + each.detail : ""))))), ...(n > MAX_ATTENTION ? [h("li", { class: "note" }, `and ${n - MAX_ATTENTION} more: press “Only trouble”`)] : []));
  if (focus) { const again = list.querySelector(`[href="${focus}"]`); if (again) again.focus(); }
};
const TOTALS = [["calls", "Calls through pipelines", "a second"], ["retries", "Retries", "a second"], ["rejected", "Rejected", "a second"], ["timeouts", "Time-outs", "a second"], ["events", "Events heard", "a second"]];
const drawTotals = () => {
  $("totals").replaceChildren(...TOTALS.map(([name, label, unit]) => { const series = totals.series[name] || [], now = series.length ? series[series.length - 1] : 0; return h("div", { class: "total" }, h("dt", {}, label), h("dd", {}, count(now || 0) + " ", h("small", {}, unit)), h("dd", {}, chart(label, [series], ["now"], page.history))); }));
  $("foot").textContent = `${plural(entries.size, "policy", "policies")}, ${plural(totals.events, "event")} heard` + (totals.left_out ? "; there are more policies than are shown" : "");
};
const drawLines = () => {
  const text = $("log-filter").value.trim().toLowerCase(), least = Number($("log-level").value), shown = [];
  for (let i = lines.length - 1; i >= 0 && shown.length < SHOWN_LINES; i--) { const each = lines[i]; if (LEVELS[each.level] >= least && (!text || `${each.name} ${each.event} ${each.text}`.toLowerCase().includes(text))) shown.push(each); }
  const time = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });
  const root = $("lines"), old = new Map([...root.children].map((node) => [node.dataset.n, node]));
  root.replaceChildren(...shown.map((each) => old.get(String(each.n)) || h("li", { "data-n": each.n }, h("div", { class: "head" }, pill(each.level), h("b", {}, each.name), h("span", { class: "when" }, time(each.at))), h("p", {}, each.text))));
  if (!shown.length) root.append(h("li", { class: "note" }, lines.length ? "No event matches." : "Nothing has happened yet."));
  $("log-note").textContent = totals.unlisted ? `${count(totals.unlisted)} more were too many to list` : "";
};

// --- what people do ---------------------------------------------------------------------------------------------------
const busy = new Set();
const act = async (button) => {
  const id = Number(button.closest(".card").dataset.id), action = button.dataset.act;
  if (busy.has(id)) return; // a disabled button would lose the keyboard's focus
  busy.add(id);
  try {
    const answer = await fetch("/api/control", { method: "POST", headers: { "content-type": "application/json", "x-trioresil-control": page.control }, body: JSON.stringify({ id, action }) });
    if (answer.ok) page.held = new Set((await answer.json()).held); else link("bad", "■", (await answer.text()).trim());
  } catch { link("bad", "■", "no connection"); }
  busy.delete(id);
  const entry = entries.get(id);
  if (entry) drawCard(entry);
};
const refilter = () => { redrawAll = true; limits = {}; if (paused) layOut(); else schedule(); };
const press = (button, on) => button.setAttribute("aria-pressed", String(on));
const pause = () => { paused = !paused; press($("pause"), paused); $("pause").textContent = paused ? "Go on" : "Pause"; page.asked ? asks() : live(); if (!paused) { redrawAll = linesChanged = true; for (const id of entries.keys()) dirty.add(id); schedule(); } };
const THEMES = [[null, "◐ Auto", "as the system has them"], ["light", "○ Light", "light"], ["dark", "● Dark", "dark"]];
let theme = 0;
const colours = (next) => { theme = next; const [value, label, words] = THEMES[theme]; if (value) document.documentElement.dataset.theme = value; else delete document.documentElement.dataset.theme; $("theme").textContent = label; $("theme").setAttribute("aria-label", "Colours: " + words); try { localStorage.setItem("trioresil-theme", String(theme)); } catch { /* a private window keeps nothing */ } };
$("filter").addEventListener("input", refilter);
$("trouble").addEventListener("click", () => { press($("trouble"), $("trouble").getAttribute("aria-pressed") !== "true"); refilter(); });
$("pause").addEventListener("click", pause);
$("theme").addEventListener("click", () => colours((theme + 1) % THEMES.length));
for (const id of ["log-filter", "log-level"]) $(id).addEventListener("input", drawLines);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && button.dataset.act) act(button);
  if (button && button.dataset.more) { limits[button.dataset.more] = (limits[button.dataset.more] || FIRST_SHOWN) + FIRST_SHOWN; layOut(); }
  const to = event.target.closest('a[href^="#policy-"]');
  if (to) { // it may be hidden behind a filter or beyond the first ones
    const entry = entries.get(Number(to.getAttribute("href").slice(8)));
    if (entry) { if (!entry.node || !entry.node.isConnected) { $("filter").value = ""; limits[entry.kind] = Infinity; layOut(); } entry.node.focus({ preventScroll: true }); }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { if (event.key === "Escape") { event.target.value = event.target.tagName === "SELECT" ? "0" : ""; event.target.dispatchEvent(new Event("input")); event.target.blur(); } return; }
  if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
  if (event.key === "p") pause();
  if (event.key === "t") colours((theme + 1) % THEMES.length);
  if (event.key === "e") { event.preventDefault(); $("lines").focus(); }
});
try { colours(Number(localStorage.getItem("trioresil-theme")) % THEMES.length || 0); } catch { /* a private window keeps nothing */ }
connect();
