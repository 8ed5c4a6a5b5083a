/* ---- Markdown as elements that are built one by one: what a model writes is never parsed as HTML.
   A link stays text. A list keeps its own numbers. ---- */
const ITEM = /^(\s*)([-*+•]|\d{1,9}[.)])\s+(.*)$/;
const FENCE = /^\s*(```+|~~~+)/;
const RULER = /^\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?$/;
const INLINE = new RegExp([
  "`([^`\\n]+)`",
  "\\*{3}(?=[^\\s*])([^*\\n]*?[^\\s*])\\*{3}",
  "\\*\\*(?=[^\\s*])((?:[^*\\n]|\\*(?!\\*))*?[^\\s*]\\*?)\\*\\*",
  "(?<![\\w*])\\*(?=[^\\s*])([^*\\n]*?[^\\s*])\\*(?![\\w*])",
  "(?<!\\w)_(?=[^\\s_])([^_\\n]*?[^\\s_])_(?!\\w)",
  "~~(?=[^\\s~])([^~\\n]*?[^\\s~])~~",
  "\\\\([\\\\`*_{}\\[\\]()#+.!|>~-])",
].join("|"), "g");
const INLINE_TAGS = [null, "code", "strong", "strong", "em", "em", "s"];
const DEEPEST = 6;

function inline(parent, text, depth = 0) {
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    parent.append(text.slice(at, found.index));
    at = found.index + found[0].length;
    const which = found.findIndex((part, i) => i > 0 && part !== undefined);
    const tag = INLINE_TAGS[which], both = found[0].startsWith("***");
    if (!tag) parent.append(found[which]);
    else if (tag === "code" || depth > 2) add(parent, tag, "", found[which]);
    else inline(both ? add(add(parent, tag), "em") : add(parent, tag), found[which], depth + 1);
  }
  parent.append(text.slice(at));
}

/* The blocks of a text: {kind, lines}. */
function blocks(text) {
  const lines = text.split("\n"), found = [];
  let at = null;
  const begin = (kind, line) => { at = {kind, lines: [line], over: false, gap: false}; found.push(at); };
  lines.forEach((line, i) => {
    if (at?.kind === "code" && !at.over) {
      at.over = FENCE.test(line);
      if (!at.over) at.lines.push(line);
      return;
    }
    const kind = kindOf(line, lines[i + 1], at);
    if (kind === "blank") {
      if (at?.kind === "list") at.gap = true; else at = null;
    } else if (kind === "goes on") at.lines.push(line);
    else begin(kind, line);
    if (at && kind !== "blank") at.gap = false;
  });
  return found;
}
function kindOf(line, next, at) {
  if (!line.trim()) return "blank";
  if (FENCE.test(line)) return "code";
  if (/^#{1,6}\s+\S/.test(line)) return "head";
  if (at?.kind === "table" && line.includes("|")) return "goes on";
  if (line.includes("|") && next?.includes("-") && RULER.test(next.trim()) && cells(next).length === cells(line).length) return "table";
  if (/^\s*>/.test(line)) return at?.kind === "quote" ? "goes on" : "quote";
  if (/^\s*(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/.test(line)) return "rule";
  const inList = at?.kind === "list";
  if (ITEM.test(line)) return inList ? "goes on" : "list";
  if (inList && (!at.gap || /^\s{2,}/.test(line))) return "goes on";
  return at?.kind === "text" ? "goes on" : "text";
}
const BUILD = {
  text: (b) => { const p = document.createElement("p"); inline(p, b.lines.join("\n")); return p; },
  head: (b) => { const h = document.createElement("h3"); inline(h, b.lines[0].replace(/^#+\s+/, "").replace(/\s#+\s*$/, "")); return h; },
  rule: () => document.createElement("hr"),
  quote: (b) => { const q = document.createElement("blockquote"); inline(q, b.lines.map((l) => l.replace(/^\s*> ?/, "")).join("\n")); return q; },
  code: (b) => { const pre = boxOf("pre", "code"); pre.textContent = b.lines.slice(1).join("\n"); return pre; },
  table: (b) => buildTable(b.lines),
  list: (b) => buildList(b.lines),
};
/* Wide things scroll in a box of their own, which the keyboard can reach. */
function boxOf(tag, key) {
  const box = document.createElement(tag);
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  label(box, key);
  return box;
}
function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim());
}
function buildTable(lines) {
  const box = boxOf("div", "table"), table = add(box, "table");
  box.className = "grid";
  const sides = cells(lines[1]).map((c) => c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : "");
  const row = (parent, tag, line) => {
    const tr = add(parent, "tr"), found = cells(line);
    sides.slice(0, found.length).forEach((side, i) => {
      /* An empty corner heads nothing. */
      const cell = add(tr, found[i] ? tag : "td", side);
      if (cell.localName === "th") cell.scope = "col";
      inline(cell, found[i].replace(/<br\s*\/?>/gi, "\n"));
    });
    /* One cell for all that a short row lacks: a wide head and many rows would make millions. */
    const missing = sides.length - found.length;
    if (missing > 0) add(tr, "td").colSpan = missing;
  };
  row(add(table, "thead"), "th", lines[0]);
  if (lines.length > 2) { const body = add(table, "tbody"); for (const line of lines.slice(2)) row(body, "td", line); }
  return box;
}
function buildList(lines) {
  const top = document.createElement("div"), open = [];
  for (const line of lines) {
    const found = ITEM.exec(line);
    const last = open.at(-1);
    if (!found) { if (line.trim()) { last.item.append("\n"); inline(last.item, line.trim()); } continue; }
    const indent = found[1].replaceAll("\t", "    ").length, number = parseInt(found[2], 10);
    while (open.length > 1 && indent < open.at(-1).indent) open.pop();
    const tag = Number.isNaN(number) ? "ul" : "ol";
    const above = open.at(-1);
    if (above && indent >= above.indent + 2 && open.length < DEEPEST) open.push({indent, node: add(above.item, tag)});
    else if (!above || above.node.localName !== tag) {
      open.pop();
      open.push({indent, node: add(open.at(-1)?.item ?? top, tag)});
    }
    const here = open.at(-1);
    here.item = add(here.node, "li");
    if (tag === "ol") here.item.value = number;
    inline(here.item, found[3]);
  }
  return top.children.length === 1 ? top.firstChild : top;
}

/* Bring the elements of `parent` up to a text that has grown; what is the same stays in place. */
function render(parent, text) {
  const wanted = blocks(text), shown = parent.shown ?? [];
  for (const block of wanted) block.key = block.kind + "\n" + block.lines.join("\n");
  let same = 0;
  while (same < wanted.length && shown[same]?.key === wanted[same].key) { wanted[same].node = shown[same].node; same++; }
  for (const old of shown.slice(same)) old.node.remove();
  for (const block of wanted.slice(same)) { block.node = BUILD[block.kind](block); parent.append(block.node); }
  parent.shown = wanted;
}
