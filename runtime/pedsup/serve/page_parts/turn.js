/* ---- a question and its answer on the page ---- */
function countWords(summary, n) {
  summary.dataset.count = n;
  summary.textContent = say("reasoning") + " (" + n + " " + say(+n === 1 ? "word" : "words") + ")";
}
function newExchange(question, turn = null, photos = [], lost = []) {
  $("log").querySelector(".empty")?.remove();
  const box = add($("log"), "div", "exchange");
  const asked = add(box, "div", "asked");
  asked.setAttribute("role", "article");
  addWords(asked, "h2", "who", "you");
  const one = {box, question, turn, photos, lost, replaces: null, reasoning: "", text: "", due: false, read: 0, live: false};
  if (photos.length || lost.length) showAsked(one, asked);
  add(asked, "div", "said", question);
  button(add(asked, "div", "actions last-only"), "", "edit", () => startEdit(one));
  addAnswer(one);
  page.exchanges.push(one);
  return one;
}
function addAnswer(one) {
  one.view = add(one.box, "div", "turn");
  one.view.setAttribute("role", "article");
  addWords(one.view, "h2", "who", "it");
  one.details = add(one.view, "details");
  one.details.hidden = true;
  one.summary = add(one.details, "summary");
  one.thought = add(one.details, "div");
  one.answer = add(one.view, "div", "answer");
}
function draw(one) {
  one.due = false;
  if (one.reasoning) {
    one.details.hidden = false;
    one.thought.textContent = one.reasoning;
    countWords(one.summary, one.reasoning.split(/\s+/).filter(Boolean).length);
  }
  render(one.answer, one.text);
  follow(one.box);
}
function drawSoon(one) {
  if (!one.due) { one.due = true; requestAnimationFrame(() => { draw(one); readOut(one, false); }); }
}
/* Paragraphs are read out when they are whole; the last one when the answer is. */
function readOut(one, whole) {
  const shown = one.answer.shown ?? [], end = whole ? shown.length : shown.length - 1;
  for (; one.read < end; one.read++) announce(shown[one.read].node.innerText);
}
/* What the guards say stands before the model's text and is read out at once. */
function alarm(one, text) {
  const line = document.createElement("p");
  line.className = "alarm";
  if (one.live) line.setAttribute("role", "alert");
  line.textContent = text;
  one.view.insertBefore(line, one.details);
  follow(one.box);
}
function note(one, text, bad) {
  if (!text) return null;
  const line = add(one.view, "p", bad ? "note bad" : "note", text);
  if (one.live) announce(text);
  follow(one.box);
  return line;
}
function ending(one, reason) {
  const key = {empty: "empty_answer", length: "length_stop"}[reason] ?? reason;
  if (reason && TEXTS[key]) note(one, say(key), reason !== "end" && reason !== "interrupted");
}
function addActions(one) {
  const row = add(one.view, "div", "actions");
  if (one.text) {
    button(row, "", "copy", () => copy(one.text));
    if (navigator.share) button(row, "", "share", () => shareText(one.text));
  }
  button(row, "last-only", "again", () => askAgain(one));
}
/* After an error: the question stays, and may be asked again or changed. */
function offerRetry(one) {
  const row = add(one.view, "div", "mend");
  const again = button(row, "main", "retry", () => askAgain(one, one));
  button(row, "", "edit", () => startEdit(one));
  follow(one.box);
  again.focus({preventScroll: true});
}
function dropFrom(index) {
  for (const old of page.exchanges.splice(index)) old.box.remove();
}
function showFacts(one, data) {
  const rate = data.timings.decode_tokens_per_s, first = data.timings.first_token_s;
  const seconds = (n) => n.toLocaleString(page.lang, {maximumFractionDigits: n < 10 ? 1 : 0});
  const facts = [
    first ? say("firstToken", {n: seconds(first)}) : "",
    rate ? seconds(rate) + " " + say("perSecond") : "",
    data.tokens.answer + data.tokens.reasoning + " tokens",
  ];
  add(one.view, "p", "facts", facts.filter(Boolean).join(" · "));
}

/* ---- editing the last question ---- */
function startEdit(one) {
  page.edited = one;
  $("question").value = one.question;
  $("editing").hidden = false;
  setPhotos(one.photos);
  grow();
  $("question").focus();
}
function endEdit() {
  page.edited = null;
  $("editing").hidden = true;
  setPhotos([]);
  $("question").value = "";
  grow();
}
