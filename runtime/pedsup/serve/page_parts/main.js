/* ---- start ---- */
/* The key of this run of pedsup. It is kept so that the page opens again from the home screen or the
   history; the next start of pedsup draws another one. */
function takeToken() {
  const found = location.hash.slice(1), before = stored(localStorage, "token");
  page.token = found || before || "";
  if (found) {
    page.fresh = found !== before;
    store(localStorage, "token", found);
    /* The key leaves the address bar and the history. */
    history.replaceState(null, "", location.pathname);
  }
  page.conversation = stored(sessionStorage, "conversation");
}
async function restore() {
  /* After another start `--resume` says which one goes on. */
  const name = (page.fresh && page.state.conversation) || page.conversation;
  if (name) {
    const why = await openConversation(name);
    if (why) remember(null);
  }
  if (!$("log").children.length) { page.system = stored(sessionStorage, "system") ?? page.state.defaults.system; showEmpty(); }
  $("question").value = stored(sessionStorage, "draft") ?? "";
  grow();
  fillSettings();
}
async function start() {
  setLanguage(firstLanguage());
  takeToken();
  let response;
  try { response = await call("page/state"); } catch { showProblem("lost"); return; }
  if (!response.ok) { store(localStorage, "token", null); showProblem("key"); return; }
  page.state = await response.json();
  useState();
  await restore();
  if (!page.state.acknowledged) { $("consent").showModal(); return; }
  ready();
}
function useState() {
  const kept = keptSettings();
  $("add-photo").hidden = !page.state.pictures;
  $("thinking").hidden = $("think-set").hidden = $("budget-set").hidden = !page.state.thinks;
  $("think").checked = page.state.thinks && (kept.think ?? page.state.think);
  setLanguage(stored(localStorage, "lang") ? page.lang : page.state.language ?? page.lang);
}
function showProblem(key) {
  const box = add($("log"), "div", "empty");
  addWords(box, "p", "", key);
  announce(say(key));
}
function ready() {
  $("question").disabled = $("send").disabled = $("new").disabled = $("add-photo").disabled = false;
  focusQuestion();
}
function grow() {
  const box = $("question");
  box.style.height = "auto";
  box.style.height = Math.min(box.scrollHeight + 2, innerHeight * .34) + "px";
  if (!page.edited) store(sessionStorage, "draft", box.value);
}
function submit(event) {
  event.preventDefault();
  const text = $("question").value.trim(), edited = page.edited, photos = page.photos;
  if (!text || page.busy || !page.state) return;
  endEdit();
  if (touch()) $("question").blur();
  ask(text, edited ? edited.turn ?? edited.replaces : null, edited, photos);
}
function keyPressed(event) {
  /* On a phone Enter makes a line, as in its other apps. */
  const send = event.key === "Enter" && !event.isComposing && (event.ctrlKey || (!event.shiftKey && !touch()));
  if (send) { event.preventDefault(); $("form").requestSubmit(); }
}
async function agree() {
  const response = await call("page/acknowledge", {language: page.lang}).catch(() => null);
  if (!response?.ok) { status("lost"); return; }
  $("consent").close();
  ready();
}
function watchPage() {
  $("form").addEventListener("submit", submit);
  $("stop").addEventListener("click", stop);
  $("no-edit").addEventListener("click", () => { endEdit(); focusQuestion(); });
  $("question").addEventListener("input", grow);
  $("question").addEventListener("keydown", keyPressed);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && page.busy && !document.querySelector("dialog[open]")) { event.preventDefault(); stop(); }
  });
  $("notice").addEventListener("click", () => $("use").showModal());
  $("trust").addEventListener("click", () => $("unsigned").showModal());
  for (const node of document.querySelectorAll("[data-close]")) node.addEventListener("click", () => node.closest("dialog").close());
  $("consent").addEventListener("cancel", (event) => event.preventDefault());
  $("other").addEventListener("click", () => setLanguage(page.lang === "es" ? "en" : "es", true));
  $("agree").addEventListener("click", agree);
}
watchPage();
watchList();
watchMore();
watchPhotos();
watchReading();
start();
