// The region canvas: what the server lists is drawn here, what the user points at is sent there.
// One operation is in flight at a time; the server's answer carries its id as `ack`.

const root = element.querySelector('.lc');
const find = (selector) => root.querySelector(selector);
const canvas = find('canvas');
const fileInput = find('input[type=file]');
const MEGABYTES = { picture: 20, session: 64 }; // of a file
const HAS_KEYS = matchMedia('(hover: hover)').matches; // not a phone
const PATIENCE = 180000; // milliseconds until an operation counts as lost

let scene = { regions: [], pictures: [] }; // the server's last word
let picture = null; // {id, width, height, image}
let shapes = new Map(); // region number -> outline
let candidates = []; // outlines of everything there is
let thumbs = new Map(); // picture id -> small picture
let tool = 'point';
let sign = 'new';
let shown = true; // the regions
let hovered = null; // a region's number
let aimed = null; // a candidate's index
let drag = null; // {from, to} of a box, {points} of a stroke
let cross = null; // the keyboard's place
let dots = []; // clicks under way, shown at once
let look = null; // evidence: {map, box, ...}
let queue = [];
let inFlight = null;
let timer = null;
let sent = 0;

const activeRegion = () => scene.regions.find((region) => region.number === scene.active);
const stage = makeStage(canvas, find('.lc-stage'), () => picture, () => draw());
const draw = (() => {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      find('.lc-zoom output').textContent = Math.round(stage.view.zoom * 100) + ' %';
      if (picture) paint();
    });
  };
})();

// Operations ---------------------------------------------------------------------------------

on('do', send);
on('lost', () => lost('The server is busy. Try again in a moment.'));
on('model', () => {
  refreshShelf();
  if (picture) send({ op: 'sync' }); // what the new model says of it
});
on('hover', (number) => hover(number));
on('show', (number) => {
  const region = scene.regions.find((one) => one.number === number);
  if (!region) return say('Region ' + number + ' is not in this picture any more.', true);
  stage.reveal((region.box[0] + region.box[2]) / 2, (region.box[1] + region.box[3]) / 2);
  find('.lc-stage').scrollIntoView({ block: 'nearest', behavior: 'smooth' });
  hover(number);
  setTimeout(() => hover(null), 1400);
});

function send(operation) {
  queue.push(operation);
  pump();
}

function pump() {
  if (inFlight || !queue.length) return;
  inFlight = { ...queue.shift(), id: ++sent };
  timer = setTimeout(() => lost('The server does not answer. Is it still running?'), PATIENCE);
  find('.lc-wait').hidden = !['example', 'upload', 'import'].includes(inFlight.op);
  trigger('operate', inFlight);
}

function settle() {
  clearTimeout(timer);
  inFlight = null;
  dots = dots.filter((dot) => queue.includes(dot.operation));
  find('.lc-wait').hidden = true;
}

function lost(message) {
  if (!inFlight) return;
  settle();
  say(message, true);
  draw();
  pump();
}

// The session's key, so that this tab finds it again when it is reloaded.
function hold(key) {
  try {
    sessionStorage.setItem('loupe-key', key);
  } catch {
    // storage is off: reloading starts anew
  }
}

function say(message, isError) {
  const note = find('.lc-note');
  note.textContent = message || '';
  note.classList.toggle('error', Boolean(message && isError));
}

watch('value', () => receive(props.value));

function receive(next) {
  if (!next) return;
  if (next.key) hold(next.key);
  const finish = () => {
    const operation = inFlight && next.ack === inFlight.id ? inFlight : null;
    if (operation) settle();
    const before = scene;
    scene = next;
    const numbers = new Set(next.regions.map((region) => region.number));
    for (const number of [...shapes.keys()]) if (!numbers.has(number)) shapes.delete(number);
    for (const region of next.regions) if (region.rle) shapes.set(region.number, outline(region.rle));
    if (next.candidates) candidates = next.candidates.map(outline);
    for (const one of next.pictures) if (one.thumb) thumbs.set(one.id, one.thumb);
    if (next.file) save(next.file);
    if (next.evidence) showEvidence(next.evidence);
    say(next.error || spoken(operation, before) || hint(), Boolean(next.error));
    refresh();
    root.dataset.acks = next.ack;
    pump();
  };
  if (!next.picture) {
    picture = null;
    shapes.clear();
    candidates = [];
    root.dataset.state = 'empty';
    canvas.tabIndex = -1;
    return finish();
  }
  if (!next.picture.src || (picture && picture.id === next.picture.id)) return finish();
  const image = new Image();
  image.onload = () => {
    picture = { ...next.picture, image };
    shapes.clear();
    candidates = [];
    look = null;
    cross = null;
    setTool('point');
    setSign('new');
    root.dataset.state = 'ready';
    root.style.setProperty('--aspect', image.width / image.height);
    canvas.tabIndex = 0;
    stage.reset();
    finish();
  };
  image.onerror = () => lost('The browser cannot show this picture.');
  image.src = next.picture.src;
}

// What a screen reader is told of an operation.
function spoken(operation, before) {
  if (!operation || !['point', 'box', 'stroke', 'pick', 'cycle'].includes(operation.op)) return '';
  const region = activeRegion();
  if (!region) return '';
  const known = before.regions.some((one) => one.number === region.number);
  const more = region.readings > 1 ? ' This is reading ' + (region.reading + 1) + ' of ' + region.readings + ': ' + (HAS_KEYS ? 'its arrows, or C, show' : 'its arrows show') + ' the next.' : '';
  return 'Region ' + region.number + (known ? ' changed: ' : ': ') + percent(region.share) + ' of the picture.' + more;
}

function hint() {
  if (!picture) return '';
  if (tool === 'everything') return candidates.length ? 'Move over the picture and click what you mean. ' + candidates.length + ' things found.' : 'Looking for everything in the picture.';
  if (tool === 'brush') return sign === 'new' ? 'Paint over a thing to make a region.' : sign === 'add' ? 'Paint to add to region ' + scene.active + '.' : 'Paint to erase from region ' + scene.active + '.';
  if (sign === 'add') return 'Click what belongs to region ' + scene.active + ' too.';
  if (sign === 'exclude') return 'Click what does not belong to region ' + scene.active + '.';
  if (!scene.regions.length) return 'Click a thing, or drag a box around it. Then ask about it.';
  return '';
}

function save({ name, type, text, base64 }) {
  const bytes = base64 === undefined ? text : Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const link = make('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Tools --------------------------------------------------------------------------------------

function setTool(name) {
  tool = name;
  canvas.dataset.pointing = name;
  for (const button of root.querySelectorAll('[data-tool]')) button.setAttribute('aria-pressed', button.dataset.tool === name);
  find('.lc-brush').hidden = name !== 'brush';
  aimed = null;
  drag = null;
  draw();
}

function setSign(name) {
  sign = activeRegion() ? name : 'new';
  for (const button of root.querySelectorAll('[data-sign]')) button.setAttribute('aria-pressed', button.dataset.sign === sign);
}

const acts = {
  undo: () => send({ op: 'undo' }),
  redo: () => send({ op: 'redo' }),
  clear: () => send({ op: 'clear' }),
  open: () => fileInput.click(),
  in: () => stage.zoomTo(stage.view.zoom * 1.5),
  out: () => stage.zoomTo(stage.view.zoom / 1.5),
  fit: () => stage.reset(),
  masks: () => {
    shown = !shown;
    find('[data-act=masks]').setAttribute('aria-pressed', shown);
    draw();
  },
  help: () => find('dialog').showModal(),
  'close-help': () => find('dialog').close(),
};

for (const button of root.querySelectorAll('[data-act]')) button.onclick = () => acts[button.dataset.act]();
for (const button of root.querySelectorAll('[data-tool]')) button.onclick = () => chooseTool(button.dataset.tool);
for (const button of root.querySelectorAll('[data-sign]')) button.onclick = () => chooseSign(button.dataset.sign);

function chooseTool(name) {
  if (!picture) return;
  setTool(name);
  if (name === 'everything') {
    setSign('new');
    if (!candidates.length) emit('work', { op: 'everything' });
  } else if (name === 'box') setSign('new');
  say(hint());
}

function chooseSign(name) {
  setSign(name);
  if (tool === 'box' || tool === 'everything') setTool('point');
  say(hint());
}

const brushRadius = () => Number(find('.lc-brush input').value); // CSS pixels

// Pointing -----------------------------------------------------------------------------------

const inside = ([x, y]) => x >= 0 && x <= 1 && y >= 0 && y <= 1;
const bounded = ([x, y]) => [Math.min(Math.max(x, 0), 1), Math.min(Math.max(y, 0), 1)];

followPointers(canvas, stage, {
  start(place, event) {
    if (!picture || !inside(place)) return false;
    canvas.focus({ preventScroll: true });
    if (tool === 'brush' && event.button === 0) drag = { points: [place] };
    else if (event.button === 0 && (tool === 'box' || (tool === 'point' && event.pointerType === 'mouse'))) drag = { from: place, to: place };
    draw();
    return drag !== null;
  },
  move(place, moved) {
    if (!drag) return;
    if (drag.points) addToStroke(place);
    else if (moved) drag.to = bounded(place);
    draw();
  },
  end(place, moved, event) {
    const { points, from, to } = drag || {};
    drag = null;
    if (points) paintStroke(points, event);
    else if (from && moved) send({ op: 'box', box: [...from, ...to] });
    else if (picture && inside(place)) point(from || place, event);
    draw();
  },
  cancel() {
    drag = null;
    draw();
  },
  over(place) {
    if (!picture) return;
    const aim = place && tool === 'everything' ? candidateAt(place) : null;
    const over = place && tool !== 'everything' ? regionAt(place) : null;
    if (aim !== aimed || (over !== hovered && place)) {
      aimed = aim;
      hovered = over;
      draw();
    }
  },
});

function addToStroke(place) {
  const { width, height } = stage.rect();
  const [x, y] = drag.points.at(-1);
  const next = bounded(place);
  if (Math.hypot((next[0] - x) * width, (next[1] - y) * height) >= 2 && drag.points.length < 4000) drag.points.push(next);
}

const wantsOff = (event) => sign === 'exclude' || event.button === 2 || event.altKey;
const refines = (event) => sign !== 'new' || wantsOff(event) || event.shiftKey;

function paintStroke(points, event) {
  const { width, height } = stage.rect();
  const off = wantsOff(event);
  if (off && scene.active == null) return say('There is nothing to erase: paint a region first.');
  const radius = Math.min(brushRadius() / Math.max(width, height), 1);
  send({ op: 'stroke', points, radius, positive: !off, region: refines(event) ? scene.active : null });
}

function point(place, event) {
  const [x, y] = place;
  if (tool === 'everything') {
    const index = candidateAt(place);
    if (index !== null) send({ op: 'pick', candidate: index });
    return;
  }
  const refine = refines(event);
  if (tool === 'box' && !refine) return say('Drag from one corner of the thing to the other.');
  const exclude = wantsOff(event);
  if (exclude && scene.active == null) return say('There is nothing to exclude from: click a thing first.');
  const operation = { op: 'point', x, y, positive: !exclude, region: refine ? scene.active : null };
  dots.push({ x, y, positive: !exclude, operation });
  send(operation);
  draw();
}

// Pictures: a file, a drop, a paste ------------------------------------------------------------

async function open(file) {
  if (!file) return;
  const isSession = /\.json$/i.test(file.name);
  const most = isSession ? MEGABYTES.session : MEGABYTES.picture;
  if (file.size > most * 2 ** 20) return say('This file is larger than ' + most + ' MB: choose a smaller one.', true);
  find('.lc-wait').hidden = false;
  try {
    const { path } = await upload(file);
    const uploaded = { path, meta: { _type: 'gradio.FileData' } };
    send(isSession ? { op: 'import', file: uploaded } : { op: 'upload', file: uploaded, title: file.name.slice(0, 400) });
  } catch {
    find('.lc-wait').hidden = true;
    say('The upload failed. Is the server still running? Try again.', true);
  }
}

on('open', open);
fileInput.onchange = () => {
  open(fileInput.files[0]);
  fileInput.value = '';
};
const carriesFile = (event) => event.dataTransfer && [...event.dataTransfer.types].includes('Files');
root.addEventListener('dragover', (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  root.classList.add('dropping');
});
root.addEventListener('dragleave', (event) => {
  if (!root.contains(event.relatedTarget)) root.classList.remove('dropping');
});
root.addEventListener('drop', (event) => {
  root.classList.remove('dropping');
  if (!carriesFile(event)) return;
  event.preventDefault();
  open(event.dataTransfer.files[0]);
});
document.addEventListener('paste', (event) => {
  const file = event.clipboardData && event.clipboardData.files[0];
  if (!file) return;
  event.preventDefault();
  open(file);
});

find('.lc-find').onsubmit = (event) => {
  event.preventDefault();
  const words = find('.lc-find input').value.trim();
  if (words && picture) emit('work', { op: 'find', words });
};
new ResizeObserver(() => stage.layout()).observe(find('.lc-stage'));
followKeys();
refresh();
root.dataset.ready = 'true';
