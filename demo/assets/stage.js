// What part of the picture is seen, and the pointers on it. Places are shares of the picture, 0 to 1.

const MAX_ZOOM = 16;

// canvas fills its frame; size() gives the picture's pixels or null; changed() asks for a drawing.
function makeStage(canvas, frame, size, changed) {
  const view = { zoom: 1, x: 0.5, y: 0.5 }; // how much nearer than a fit; the picture's middle
  const ratio = () => window.devicePixelRatio || 1;

  // Where the whole picture lies, in CSS pixels of the canvas.
  function rect() {
    const { width, height } = size() || { width: 1, height: 1 };
    const [cw, ch] = [frame.clientWidth || 1, frame.clientHeight || 1];
    const fit = Math.min(cw / width, ch / height);
    const [w, h] = [width * fit * view.zoom, height * fit * view.zoom];
    const keep = (middle, whole, seen) =>
      whole <= seen ? 0.5 : Math.min(Math.max(middle, seen / 2 / whole), 1 - seen / 2 / whole);
    view.x = keep(view.x, w, cw);
    view.y = keep(view.y, h, ch);
    return { left: cw / 2 - view.x * w, top: ch / 2 - view.y * h, width: w, height: h };
  }

  function layout() {
    const scale = ratio();
    const [width, height] = [frame.clientWidth * scale, frame.clientHeight * scale].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = Math.max(1, width);
      canvas.height = Math.max(1, height);
    }
    tell();
  }

  function tell() {
    const { left, top, width, height } = rect();
    canvas.dataset.rect = [left, top, width, height].map((value) => value.toFixed(2)).join();
    canvas.dataset.zoomed = view.zoom > 1;
    changed();
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const area = rect();
    return [(event.clientX - box.left - area.left) / area.width, (event.clientY - box.top - area.top) / area.height];
  }

  // Keeps the place under (clientX, clientY) where it is.
  function zoomTo(zoom, clientX, clientY) {
    const box = canvas.getBoundingClientRect();
    const [cx, cy] = [clientX ?? box.left + box.width / 2, clientY ?? box.top + box.height / 2];
    const [x, y] = place({ clientX: cx, clientY: cy });
    view.zoom = Math.min(Math.max(zoom, 1), MAX_ZOOM);
    const { width, height } = rect();
    view.x = x - (cx - box.left - box.width / 2) / width;
    view.y = y - (cy - box.top - box.height / 2) / height;
    tell();
  }

  function pan(dx, dy) {
    const { width, height } = rect();
    view.x -= dx / width;
    view.y -= dy / height;
    tell();
  }

  function reset() {
    Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
    layout();
  }

  // So far into view that a place (a share) is seen.
  function reveal(x, y) {
    const { left, top, width, height } = rect();
    const [px, py] = [left + x * width, top + y * height];
    const margin = 24;
    if (px < margin || py < margin || px > frame.clientWidth - margin || py > frame.clientHeight - margin) {
      Object.assign(view, { x, y });
      tell();
    }
  }

  const frameWidth = () => frame.clientWidth;
  const frameHeight = () => frame.clientHeight;
  return { view, rect, ratio, layout, place, zoomTo, pan, reset, reveal, frameWidth, frameHeight };
}

// Turns pointers into: start(place, event) -> whether to drag, move(place), end(place, moved),
// cancel(), over(place). Two fingers or the middle button move the picture instead.
function followPointers(canvas, stage, act) {
  const fingers = new Map();
  let drag = null;
  let pinch = null;

  const spread = () => {
    const [a, b] = [...fingers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, gap: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  };
  canvas.addEventListener('contextmenu', (event) => event.preventDefault());
  canvas.addEventListener('pointerdown', (event) => {
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (fingers.size === 2) {
      if (drag) act.cancel();
      drag = null;
      pinch = { ...spread(), zoom: stage.view.zoom };
      return;
    }
    if (fingers.size > 2) return;
    canvas.setPointerCapture(event.pointerId);
    const panning = event.button === 1;
    if (event.button === 1) event.preventDefault();
    const touch = event.pointerType !== 'mouse';
    const draws = !panning && act.start(stage.place(event), event);
    drag = { panning: panning || (!draws && touch), draws, x: event.clientX, y: event.clientY, moved: false };
  });
  canvas.addEventListener('pointermove', (event) => {
    const finger = fingers.get(event.pointerId);
    if (!finger) return act.over(stage.place(event));
    const [dx, dy] = [event.clientX - finger.x, event.clientY - finger.y];
    Object.assign(finger, { x: event.clientX, y: event.clientY });
    if (pinch && fingers.size === 2) {
      const now = spread();
      stage.pan(now.x - pinch.x, now.y - pinch.y);
      stage.zoomTo(pinch.zoom * now.gap / pinch.gap, now.x, now.y);
      Object.assign(pinch, { x: now.x, y: now.y });
    } else if (drag) {
      if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 6) drag.moved = true;
      if (drag.panning && drag.moved) stage.pan(dx, dy);
      else if (drag.draws) act.move(stage.place(event), drag.moved);
    }
  });
  const up = (event) => {
    const known = fingers.delete(event.pointerId);
    if (pinch && fingers.size < 2) pinch = null;
    if (!known || !drag) return;
    const { panning, moved } = drag;
    drag = null;
    if (event.type === 'pointercancel') act.cancel();
    else if (!panning || !moved) act.end(stage.place(event), moved, event);
  };
  canvas.addEventListener('pointerup', up);
  canvas.addEventListener('pointercancel', up);
  canvas.addEventListener('pointerleave', () => act.over(null));
  canvas.addEventListener('wheel', (event) => {
    const alone = getComputedStyle(canvas).touchAction === 'none'; // the page does not scroll here
    if (!event.ctrlKey && !event.metaKey && !alone && stage.view.zoom === 1) return;
    event.preventDefault();
    if (event.shiftKey) stage.pan(-event.deltaX - event.deltaY, 0);
    else stage.zoomTo(stage.view.zoom * Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
  }, { passive: false });
}
