/* ---- photos: made smaller here, which also leaves out where and when they were taken; they live in
   this tab and in the memory of pedsup, and are written nowhere ---- */
const LONGEST = 1344, QUALITY = .9;

async function shrink(file) {
  const bitmap = await createImageBitmap(file);
  try {
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    const width = canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    const height = canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    /* What is transparent would become black. */
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, width, height);
    return {url: canvas.toDataURL("image/jpeg", QUALITY), width, height};
  } finally { bitmap.close(); }
}
async function addPhotos(files) {
  const before = page.photos.length;
  let why = "";
  for (const file of files) {
    if (page.photos.length >= page.state.pictures) { why = say("tooManyPhotos", {n: page.state.pictures}); break; }
    try { page.photos.push(await shrink(file)); } catch { why = say("badPhoto", {name: file.name}); }
  }
  showPhotos();
  if (page.photos.length > before) announce(say("photoAdded"));
  announce(why);
  if (why || !page.busy) statusText(why);
  $("question").focus({preventScroll: true});
}
/* What goes with the next question. */
function showPhotos() {
  $("photos").hidden = !page.photos.length;
  $("photo-list").replaceChildren();
  page.photos.forEach((photo, i) => {
    const item = add($("photo-list"), "li");
    thumbnail(item, photo, i + 1);
    const gone = add(item, "button", "plain");
    gone.type = "button";
    gone.append(icon("close"));
    label(gone, "removePhoto");
    gone.setAttribute("aria-label", say("removePhoto") + ": " + say("photoNumber", {n: i + 1}));
    gone.addEventListener("click", () => { page.photos.splice(i, 1); showPhotos(); $("add-photo").focus(); });
  });
}
function setPhotos(photos) { page.photos = [...photos]; showPhotos(); }
function thumbnail(parent, photo, n) {
  const image = add(parent, "img", "photo");
  image.src = photo.url;
  image.width = photo.width;
  image.height = photo.height;
  image.dataset.photo = n;
  image.alt = say("photoNumber", {n});
}
/* What went with a question: the pictures, or that there were some. */
function showAsked(one, box) {
  const row = add(box, "div", "shots");
  one.photos.forEach((photo, i) => thumbnail(row, photo, i + 1));
  for (const past of one.lost) {
    const line = add(row, "p", "hint");
    addWords(line, "span", "", "photoWas");
    line.append(` (${past.width} × ${past.height}) `);
    addWords(line, "span", "", past.seen ? "photoSeen" : "photoGone");
  }
}
/* The same question again; its pictures must still be here. */
function askAgain(one, failed = null) {
  if (one.lost.length) { startEdit(one); statusText(say("photoAgain")); announce(say("photoAgain")); return; }
  ask(one.question, one.turn ?? one.replaces, failed, one.photos);
}
function watchPhotos() {
  $("add-photo").addEventListener("click", () => { $("take-photo").hidden = !touch(); $("photo-panel").showModal(); });
  for (const [opener, input] of [["take-photo", "camera"], ["choose-photo", "files"]]) {
    $(opener).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      const files = [...$(input).files];
      $(input).value = "";
      $("photo-panel").close();
      addPhotos(files);
    });
  }
  $("question").addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
    if (files.length && page.state?.pictures) { event.preventDefault(); addPhotos(files); }
  });
}
