/* ---- the reading position: a new question goes to the top, its answer fills the screen below and
   then stays where it is, until the reader asks for the end ---- */
const reading = {follow: false, chase: false, touched: -Infinity};

function atEnd() { const s = $("scroll"); return s.scrollHeight - s.scrollTop - s.clientHeight < 40; }
function toEnd() { const s = $("scroll"); s.scrollTop = s.scrollHeight; showDown(); }
function showDown() { $("down").hidden = atEnd(); }
function follow(box) {
  const s = $("scroll");
  if (reading.follow) {
    const end = s.scrollHeight - s.clientHeight;
    const wanted = reading.chase ? end : Math.min(end, box.offsetTop - 8);
    if (wanted > s.scrollTop) s.scrollTop = wanted;
  }
  showDown();
}
function startFollowing() { reading.follow = true; reading.chase = false; reading.touched = -Infinity; }
function readerScrolled() {
  showDown();
  if (performance.now() - reading.touched > 1500) return;
  reading.follow = reading.chase = atEnd();
}
function chaseEnd() { reading.follow = reading.chase = true; toEnd(); }

/* Where the keyboard does not shrink the page itself, the page shrinks to what is left. */
function fitViewport() {
  const view = window.visualViewport, stay = atEnd(), style = document.documentElement.style;
  const zoomed = view && view.scale > 1.01;
  const height = view && !zoomed ? view.height : innerHeight;
  if (view && !zoomed) {
    style.setProperty("--height", view.height + "px");
    style.setProperty("--top", view.offsetTop + "px");
  }
  document.body.classList.toggle("low", height < 520);
  if (stay && !page.busy) toEnd();
  showDown();
}
function watchReading() {
  const touched = () => { reading.touched = performance.now(); };
  for (const kind of ["wheel", "touchmove", "pointerdown", "keydown"]) $("scroll").addEventListener(kind, touched, {passive: true});
  $("scroll").addEventListener("scroll", readerScrolled, {passive: true});
  $("down").addEventListener("click", chaseEnd);
  (window.visualViewport ?? window).addEventListener("resize", fitViewport);
  window.visualViewport?.addEventListener("scroll", fitViewport);
  fitViewport();
}
