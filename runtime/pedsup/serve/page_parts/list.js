/* ---- the conversations: open, new, search, rename, delete ---- */
function remember(name) {
  page.conversation = name;
  store(sessionStorage, "conversation", name);
}
function startNew() {
  if (page.busy) return;
  remember(null);
  endEdit();
  page.exchanges = [];
  page.system = stored(sessionStorage, "system") ?? page.state.defaults.system;
  $("log").replaceChildren();
  status("");
  fillSettings();
  showEmpty();
  focusQuestion();
}
function showEmpty() {
  const box = add($("log"), "div", "empty");
  addWords(box, "h2", "", "emptyTitle");
  addWords(box, "p", "", "empty");
  if (!page.state) return;
  for (const key of ["example1", "example2", "example3"]) {
    const one = addWords(box, "button", "example", key);
    one.type = "button";
    one.addEventListener("click", () => { $("question").value = say(key); grow(); $("question").focus(); });
  }
  offerLast(box);
}
/* After the tab was closed, the last conversation is one tap away. */
async function offerLast(box) {
  const {found} = await quick("page/conversations");
  const last = found?.conversations.find((row) => row.turns && row.same_model);
  if (!last || !box.isConnected) return;
  const node = document.createElement("button");
  node.type = "button";
  node.className = "last";
  const words = add(node, "span");
  addWords(words, "span", "", "goOn");
  words.append(" " + last.title);
  node.addEventListener("click", () => openConversation(last.id));
  box.querySelector(".example").before(node);
}
async function openConversation(id) {
  const {found, why} = await quick("page/conversations/" + encodeURIComponent(id));
  if (!found) { if (why.code === "no_conversation") remember(null); return why; }
  remember(found.conversation);
  endEdit();
  page.exchanges = [];
  page.system = found.system;
  $("log").replaceChildren();
  for (const past of found.exchanges) showPast(past);
  if (!found.exchanges.length) showEmpty();
  if (!found.same_model && page.exchanges.length) note(page.exchanges.at(-1), say("other_model"));
  status("");
  fillSettings();
  toEnd();
  return null;
}
function showPast(past) {
  const one = newExchange(past.question, past.turn, [], past.pictures);
  one.reasoning = past.reasoning; one.text = past.answer;
  draw(one);
  one.read = Infinity;
  for (const notice of past.guards) alarm(one, notice[page.lang]);
  if (past.stop_reason) ending(one, past.stop_reason);
  addActions(one);
}

/* ---- the panel ---- */
let searchLater = 0, asked = 0;
async function showList() {
  $("list").showModal();
  $("search").value = "";
  await fillList();
}
async function fillList() {
  const mine = ++asked, text = $("search").value.trim();
  $("list-note").textContent = text ? say("searching") : "";
  const {found, why} = await (text ? quick("page/search", {text}) : quick("page/conversations"));
  if (mine !== asked) return;
  $("rows").replaceChildren();
  if (!found) { $("list-note").textContent = why.text; return; }
  for (const row of found.conversations) addRow(row);
  const notes = [found.conversations.length ? "" : say(text ? "noneFound" : "noneYet"),
    found.kept ? "" : say("notKept"), found.more ? say("partOnly") : ""];
  $("list-note").textContent = notes.filter(Boolean).join(" ");
}
function addRow(row) {
  const line = add($("rows"), "li"), title = row.title || say("untitled");
  const open = add(line, "button", "open");
  open.type = "button";
  if (row.id === page.conversation) open.setAttribute("aria-current", "true");
  add(open, "span", "", title);
  add(open, "small", "", row.excerpt || describe(row));
  open.addEventListener("click", () => chooseRow(row));
  addTool(line, "edit", "rename", title, () => renameRow(row, title));
  addTool(line, "erase", "erase", title, () => eraseRow(row, title));
}
function addTool(line, picture, key, title, act) {
  const node = add(line, "button", "plain " + key);
  node.type = "button";
  node.append(icon(picture));
  node.title = say(key);
  node.setAttribute("aria-label", say(key) + ": " + title);
  node.addEventListener("click", act);
}
function describe(row) {
  const when = row.changed ? new Date(row.changed).toLocaleString(page.lang === "es" ? "es-PE" : "en", {dateStyle: "medium", timeStyle: "short"}) : "";
  const turns = row.turns + " " + say(row.turns === 1 ? "turn" : "turns");
  return [when, row.readable ? turns : say("unreadable"), row.same_model ? "" : row.model || say("otherModel")].filter(Boolean).join(" · ");
}
async function chooseRow(row) {
  if (page.busy) { $("list-note").textContent = say("busy"); return; }
  const why = await openConversation(row.id);
  if (why) $("list-note").textContent = why.text; else $("list").close();
}
/* Ask in a dialog; what it came to is its return value. */
function confirmBy(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), {once: true}));
}
async function renameRow(row, title) {
  $("new-name").value = title;
  if (!await confirmBy($("rename"))) return;
  const {why} = await quick("page/rename", {conversation: row.id, title: $("new-name").value});
  await fillList();
  if (why) $("list-note").textContent = why.text;
  $("search").focus();
}
async function eraseRow(row, title) {
  $("erase-name").textContent = title;
  if (!await confirmBy($("erase"))) return;
  const {why} = await quick("page/delete", {conversation: row.id});
  if (!why && row.id === page.conversation) startNew();
  await fillList();
  $("list-note").textContent = why ? why.text : say("erased");
  $("search").focus();
}
function watchList() {
  $("open-list").addEventListener("click", showList);
  $("new").addEventListener("click", startNew);
  $("list-new").addEventListener("click", () => { $("list").close(); startNew(); });
  $("search").addEventListener("input", () => { clearTimeout(searchLater); searchLater = setTimeout(fillList, 250); });
}
