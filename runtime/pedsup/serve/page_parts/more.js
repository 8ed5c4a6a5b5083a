/* ---- settings: numbers stay in the browser, the system prompt in its tab and its transcript ---- */
const CHOICES = {
  budget: {name: "think_budget", values: [128, 256, 512, 1024, 2048]},
  length: {name: "max_tokens", values: [150, 300, 600, 1200]},
  temperature: {name: "temperature", values: [0, 0.3, 0.7, 1, 1.3]},
};
function keptSettings() {
  try { return JSON.parse(stored(localStorage, "settings") ?? "{}") ?? {}; } catch { return {}; }
}
function keepSetting(name, value) {
  const kept = keptSettings();
  if (value === null) delete kept[name]; else kept[name] = value;
  store(localStorage, "settings", Object.keys(kept).length ? JSON.stringify(kept) : null);
}
/* The settings of a question: only what differs from how pedsup was started. */
function chosenSettings() {
  const kept = keptSettings(), found = {think: $("think").checked};
  for (const {name} of Object.values(CHOICES)) if (typeof kept[name] === "number") found[name] = kept[name];
  return found;
}
function choiceText(key, value) {
  if (key === "temperature") {
    if (value === null) return say("ofModel") + " (" + page.state.defaults.temperature + ")";
    return value === 0 ? "0 · " + say("likeliest") : String(value);
  }
  return value === null ? say("noLimit") : value + " " + say("tokens");
}
function fillSettings() {
  const kept = keptSettings(), defaults = page.state.defaults;
  for (const [key, {name, values}] of Object.entries(CHOICES)) {
    const select = $("set-" + key), limit = name === "temperature" ? null : defaults[name];
    select.replaceChildren();
    add(select, "option", "", choiceText(key, limit)).value = "";
    for (const value of values) {
      if (name === "max_tokens" && limit !== null && value >= limit) continue;
      add(select, "option", "", choiceText(key, value)).value = String(value);
    }
    select.value = typeof kept[name] === "number" ? String(kept[name]) : "";
    if (!select.value) select.value = "";
  }
  $("set-system").value = page.system ?? "";
  $("set-think").checked = $("think").checked;
}
function setThink(on) {
  $("think").checked = $("set-think").checked = on;
  keepSetting("think", on === page.state.think ? null : on);
}
function setSystem(text) {
  page.system = text;
  store(sessionStorage, "system", text === page.state.defaults.system ? null : text);
}
function restoreDefaults() {
  store(localStorage, "settings", null);
  setThink(page.state.think);
  setSystem(page.state.defaults.system);
  fillSettings();
}

/* ---- copy, share, export ---- */
async function copy(text) {
  try { await navigator.clipboard.writeText(text); status("copied"); } catch { status("notCopied"); }
}
async function shareText(text) {
  try { await navigator.share({title: "pedsup", text: text + "\n\n" + GIVEN.short[page.lang]}); } catch { /* the reader thought better of it */ }
}
async function exported(format) {
  const note = $("more-note");
  note.textContent = "";
  if (!page.conversation || !page.exchanges.length) { note.textContent = say("nothingYet"); return null; }
  const {found, why} = await quick("page/export", {conversation: page.conversation, format, language: page.lang});
  if (!found) note.textContent = why.text;
  return found;
}
async function download(format) {
  const found = await exported(format);
  if (!found) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([found.text], {type: "text/plain"}));
  link.download = found.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  $("more-note").textContent = say("saved") + " " + found.name;
}
async function shareConversation() {
  const found = await exported("text");
  if (!found) return;
  try { await navigator.share({title: "pedsup", text: found.text}); } catch { /* the reader thought better of it */ }
}
function watchMore() {
  $("open-more").addEventListener("click", () => { $("more-note").textContent = ""; if (page.state) fillSettings(); $("more-panel").showModal(); });
  $("es").addEventListener("click", () => setLanguage("es", true));
  $("en").addEventListener("click", () => setLanguage("en", true));
  $("share").hidden = !navigator.share;
  $("export-md").addEventListener("click", () => download("markdown"));
  $("export-txt").addEventListener("click", () => download("text"));
  $("share").addEventListener("click", shareConversation);
  for (const one of ["think", "set-think"]) $(one).addEventListener("change", (event) => setThink(event.target.checked));
  for (const [key, {name}] of Object.entries(CHOICES)) {
    $("set-" + key).addEventListener("change", (event) => keepSetting(name, event.target.value === "" ? null : Number(event.target.value)));
  }
  $("set-system").addEventListener("change", (event) => setSystem(event.target.value.trim()));
  $("set-defaults").addEventListener("click", restoreDefaults);
}
