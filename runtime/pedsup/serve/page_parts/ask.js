/* ---- asking, and following the answer ---- */
const progress = {since: 0, from: 0, total: 0};

function status(key, more) {
  $("status").textContent = (key ? say(key) : "") + (more ? " " + more : "");
  if (status.said !== key) { status.said = key; if (key) announce(say(key)); }
  if (key !== "reading") $("bar").hidden = true;
}
function statusText(text) { status.said = ""; $("status").textContent = text; $("bar").hidden = true; }
/* On a phone the keyboard would cover the answer: there only a tap opens it. */
const touch = () => matchMedia("(pointer: coarse)").matches;
function focusQuestion() { if (!touch()) $("question").focus({preventScroll: true}); }

function setBusy(busy) {
  page.busy = busy;
  document.body.classList.toggle("busy-page", busy);
  $("send").hidden = busy; $("stop").hidden = !busy; $("stop").disabled = false;
  $("new").disabled = $("list-new").disabled = busy; $("think").disabled = $("add-photo").disabled = busy;
}
function requestBody(text, fromTurn, photos) {
  const body = {text, language: page.lang, ...chosenSettings()};
  if (page.conversation) body.conversation = page.conversation;
  if (page.system !== null) body.system = page.system;
  if (photos.length) body.pictures = photos.map((photo) => photo.url);
  if (page.conversation && fromTurn) body.from_turn = fromTurn;
  return body;
}
/* `fromTurn`: this turn and what follows it are replaced. `failed`: what is asked again. */
async function ask(text, fromTurn = null, failed = null, photos = []) {
  if (page.busy) return;
  const index = page.exchanges.findIndex((one) => one === failed || (fromTurn && (one.turn ?? one.replaces) === fromTurn));
  /* A new conversation knows nothing of what stood here. */
  if (!page.conversation) dropFrom(0); else if (index >= 0) dropFrom(index);
  setBusy(true);
  const one = newExchange(text, null, photos);
  one.replaces = fromTurn;
  one.live = true;
  one.box.classList.add("busy");
  one.view.setAttribute("aria-busy", "true");
  startFollowing();
  follow(one.box);
  page.abort = new AbortController();
  let last = "lost";
  try {
    last = await send(one, requestBody(text, fromTurn, photos));
  } catch {
    last = page.abort.signal.aborted ? "interrupted" : "lost";
    note(one, say(last), last === "lost");
  } finally { finish(one, last); }
}
async function send(one, body) {
  const response = await call("page/ask", body, page.abort.signal);
  if (!response.ok) {
    const why = await refusal(response);
    if (why.code === "no_conversation") remember(null);
    note(one, why.text, true);
    return "error";
  }
  let last = "lost";
  for await (const [kind, data] of events(response)) last = heard(one, kind, data) ?? last;
  if (last === "lost") note(one, say("lost"), true);
  return last;
}
function finish(one, last) {
  draw(one);
  one.box.classList.remove("busy");
  one.view.removeAttribute("aria-busy");
  status(last === "end" ? "done" : last === "interrupted" ? "interrupted" : "");
  readOut(one, true);
  setBusy(false);
  if (last === "lost" || last === "error") { offerRetry(one); return; }
  addActions(one);
  follow(one.box);
  focusQuestion();
}
/* One event of the answer; what the turn came to, when it is over. */
function heard(one, kind, data) {
  switch (kind) {
    case "waiting":
      remember(data.conversation);
      progress.since = 0;
      status(data.position ? "waiting" : "reading", data.position ? String(data.position) : "");
      return null;
    case "started": remember(data.conversation); one.turn = data.turn; status("reading"); return null;
    case "progress": showProgress(data.done, data.total); return null;
    case "reasoning": one.reasoning += data.text; drawSoon(one); status("thinking"); return null;
    case "answer": one.text += data.text; drawSoon(one); status("answering"); return null;
    case "notice":
      if (data.code.startsWith("guard_")) alarm(one, data.text); else note(one, data.text);
      return null;
    case "done": return heardDone(one, data);
    case "error":
      if (data.code === "withdrawn") { note(one, say("interrupted")); return "interrupted"; }
      note(one, problem(data, data.message), true);
      return "error";
  }
  return null;
}
function heardDone(one, data) {
  draw(one);
  /* For these a notice came already. */
  if (!["loop", "context", "empty"].includes(data.stop_reason)) ending(one, data.stop_reason);
  showFacts(one, data);
  return data.stop_reason;
}
/* A long prompt takes minutes on a phone: how far it is, and for how long yet. */
function showProgress(done, total) {
  if (!(total > 0)) return;
  const now = performance.now() / 1000;
  if (!progress.since || done < progress.from || total !== progress.total) Object.assign(progress, {since: now, from: done, total});
  const speed = (done - progress.from) / (now - progress.since);
  const left = speed > 0 ? Math.ceil((total - done) / speed) : 0;
  const percent = Math.floor(100 * done / total);
  status("reading", percent + " %" + (left > 3 ? " · " + say("left", {n: left}) : ""));
  $("bar").hidden = false;
  $("bar").value = percent;
}
async function stop() {
  if (!page.busy) return;
  status("stopping");
  $("stop").disabled = true;
  const abort = page.abort;
  setTimeout(() => { if (page.busy && page.abort === abort) abort.abort(); }, 5000);
  if (!page.conversation) { abort.abort(); return; }
  try { await call("page/stop", {conversation: page.conversation}); } catch { abort.abort(); }
}
