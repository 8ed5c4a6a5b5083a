/* ---- the server ---- */
function call(path, body, signal) {
  const headers = {Authorization: "Bearer " + page.token};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  return fetch(path, {method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store",
    credentials: "omit", body: body === undefined ? undefined : JSON.stringify(body)});
}
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      const found = /^event: (\w+)\ndata: (.*)$/.exec(rest.slice(0, end));
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}
const PROBLEMS = {
  invalid_api_key: "key", no_conversation: "gone", queue_full: "queue_full", busy: "busy",
  in_use: "in_use", other_model: "other_model", shutting_down: "shutting_down",
  context_length_exceeded: "too_long",
};
/* What an error of the server means here, in words that fit the page. */
function problem(error, otherwise) {
  const key = PROBLEMS[error?.code];
  return key ? say(key) : error?.message ?? otherwise;
}
async function refusal(response) {
  const error = (await response.json().catch(() => ({}))).error;
  return {code: error?.code, text: problem(error, String(response.status))};
}
/* A short question to the server: its answer, or null and why not. */
async function quick(path, body) {
  let response;
  try { response = await call(path, body); } catch { return {found: null, why: {code: "lost", text: say("lost")}}; }
  if (!response.ok) return {found: null, why: await refusal(response)};
  return {found: await response.json(), why: null};
}
