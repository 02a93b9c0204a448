"""How the live page must look in any state: contrast, names for screen readers, marks besides colours, no scroll sideways."""

from __future__ import annotations

from typing import Any

CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const c = parse(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const words = [...node.childNodes].filter((each) => each.nodeType === 3 && each.data.trim());
    if (!words.length || node.closest("noscript, .skip, .hidden") || !node.offsetParent) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${node.tagName}.${node.className}: ${words[0].data.trim().slice(0, 40)}`);
  }
  return [...new Set(poor)];
}"""

UNNAMED = """() => {
const all = document.querySelectorAll("button, input, select, [role=img], [role=meter], section, article, nav");
return [...all].filter((node) => {
  const by = node.getAttribute("aria-labelledby");
  return !(node.getAttribute("aria-label") || (by && document.getElementById(by)) || (node.labels && node.labels.length)
    || (node.tagName === "BUTTON" && node.textContent.trim()) || node.hidden);
}).map((node) => node.outerHTML.slice(0, 120)); }"""

MARKS = """() => [...document.querySelectorAll(".pill, #verdict, #attention a")].filter((node) =>
  !node.querySelector(".mark")?.textContent.trim() || node.textContent.trim().length < 3).map((node) => node.outerHTML)"""


def check_looks(page: Any) -> set[str]:
    """Check what is on the page in both colours and in four widths; return the colours of its ground."""
    grounds = set()
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours, reduced_motion="reduce")
        page.wait_for_timeout(100)
        assert page.evaluate(CONTRASTS) == []
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(MARKS) == []
    for width in (1440, 820, 390, 320):
        page.set_viewport_size({"width": width, "height": page.viewport_size["height"]})
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    return grounds
