/* ---- words: every text of the page, in both languages ---- */
const GIVEN = JSON.parse(document.getElementById("texts").textContent);
const TEXTS = GIVEN.page;
const $ = (id) => document.getElementById(id);
const page = {
  lang: "en", token: "", state: null, fresh: false,
  conversation: null, exchanges: [], edited: null, system: null,
  busy: false, abort: null, photos: [],
};

function say(key, values = {}) {
  return TEXTS[key][page.lang].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
function fillWords() {
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = say(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) label(node, node.dataset.label);
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = say(node.dataset.hint);
  for (const node of document.querySelectorAll("[data-photo]")) node.alt = say("photoNumber", {n: node.dataset.photo});
  for (const node of document.querySelectorAll("[data-count]")) countWords(node, node.dataset.count);
  for (const node of document.querySelectorAll("[data-full]")) node.textContent = GIVEN.full[page.lang].replace(/\n +/g, " ");
}
function label(node, key) {
  node.dataset.label = key;
  node.setAttribute("aria-label", say(key));
  if (node.tagName === "BUTTON") node.title = say(key);
}
function setLanguage(lang, keep) {
  page.lang = lang;
  if (keep) store(localStorage, "lang", lang);
  document.documentElement.lang = lang;
  fillWords();
  $("short").textContent = GIVEN.short[lang];
  $("notice").setAttribute("aria-label", say("purpose") + ": " + GIVEN.short[lang]);
  for (const one of ["es", "en"]) $(one).setAttribute("aria-pressed", String(one === lang));
  showTrust();
  showPhotos();
  if (page.state) { showAbout(); fillSettings(); $("photo-rule").textContent = page.state.picture_rule[lang]; }
}
function showTrust() {
  const warning = page.state?.warning, signed = Boolean(page.state?.signed), badge = $("trust").firstElementChild;
  $("trust").hidden = !warning;
  $("warning").textContent = warning ? warning[page.lang] : "";
  badge.dataset.text = signed ? "warned" : "unsigned";
  badge.textContent = say(badge.dataset.text);
  $("unsigned-hint").hidden = signed;
}
function showAbout() {
  $("model").textContent = page.state.model;
  $("about").textContent = page.state.lines[page.lang].join("\n") + "\npedsup " + page.state.version;
}
function firstLanguage() {
  const kept = stored(localStorage, "lang");
  if (kept === "es" || kept === "en") return kept;
  return (navigator.language || "en").toLowerCase().startsWith("es") ? "es" : "en";
}

/* ---- what the browser keeps; a private window may refuse ---- */
function stored(place, name) {
  try { return place.getItem("pedsup-" + name); } catch { return null; }
}
function store(place, name, value) {
  try {
    if (value === null || value === "") place.removeItem("pedsup-" + name);
    else place.setItem("pedsup-" + name, value);
  } catch { /* it is forgotten with the tab */ }
}

/* ---- building: text nodes only, never markup ---- */
function add(parent, tag, cls, text) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}
function addWords(parent, tag, cls, key) {
  const node = add(parent, tag, cls, say(key));
  node.dataset.text = key;
  return node;
}
function icon(name) {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(NS, "use");
  use.setAttribute("href", "#i-" + name);
  svg.append(use);
  return svg;
}
const PICTURES = {retry: "again"};
function button(parent, cls, key, act) {
  const node = add(parent, "button", cls);
  node.type = "button";
  node.append(icon(PICTURES[key] ?? key));
  addWords(node, "span", "", key);
  node.addEventListener("click", act);
  return node;
}
/* Read out politely: whole paragraphs and changes of state, never single tokens. */
function announce(text) {
  if (!text) return;
  const live = $("live");
  add(live, "p", "", text);
  while (live.children.length > 8) live.firstChild.remove();
}
