// The region canvas. Runs inside gr.HTML's js_on_load with (element, trigger, props, upload, watch).
// One operation is in flight at a time; the server's answer carries its id as `ack`.
// Coordinates sent are shares of the picture, 0 to 1. Everything shown goes through textContent.

const root = element.querySelector('.lc');
const find = (selector) => root.querySelector(selector);
const canvas = find('canvas');
const pen = canvas.getContext('2d');
const stage = find('.lc-stage');
const fileInput = find('input[type=file]');
const MAX_BYTES = 20 * 1024 * 1024;
const PATIENCE = 180000; // milliseconds until an operation counts as lost

let picture = null; // {id, width, height, image}
let regions = []; // as the server lists them, each with its `shape`
let shapes = new Map(); // number -> {canvas, box, width}, decoded once a change
let layers = new Map(); // number -> {key, canvas, x, y}, drawn once a change or resize
let active = null;
let tool = 'point';
let drag = null;
let hovered = null;
let dots = []; // clicks under way, shown at once
let queue = [];
let inFlight = null;
let timer = null;
let sent = 0;

// Operations ---------------------------------------------------------------------------------

function send(operation) {
  queue.push(operation);
  pump();
}

function pump() {
  if (inFlight || !queue.length) return;
  inFlight = { ...queue.shift(), id: ++sent };
  timer = setTimeout(() => lost('The server does not answer. Is it still running?'), PATIENCE);
  const opening = inFlight.op === 'example' || inFlight.op === 'upload';
  find('.lc-wait').hidden = !opening;
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

function say(message, isError) {
  const note = find('.lc-note');
  note.textContent = message || '';
  note.classList.toggle('error', Boolean(message && isError));
}

watch('value', () => {
  const scene = props.value;
  if (scene) receive(scene);
});

// The app fires this when an operation fails before it reaches the session (a full queue).
document.addEventListener('loupe:lost', () => lost('The server is busy. Try again in a moment.'));

function receive(scene) {
  const shown = () => {
    if (inFlight && scene.ack === inFlight.id) settle();
    regions = scene.regions;
    active = scene.active;
    for (const number of [...shapes.keys()]) {
      if (!regions.some((region) => region.number === number)) forget(number);
    }
    for (const region of regions) {
      if (!region.rle) continue;
      forget(region.number);
      shapes.set(region.number, decode(region.rle));
    }
    say(scene.error || hint(), Boolean(scene.error));
    refresh();
    root.dataset.acks = scene.ack;
    pump();
  };
  if (!scene.picture) {
    picture = null;
    root.dataset.state = 'empty';
    shown();
  } else if (scene.picture.src && (!picture || picture.id !== scene.picture.id)) {
    const image = new Image();
    image.onload = () => {
      picture = { ...scene.picture, image };
      shapes.clear();
      layers.clear();
      setTool('point');
      root.dataset.state = 'ready';
      canvas.setAttribute('aria-label', 'The picture; click a thing to select it');
      layout();
      shown();
    };
    image.onerror = () => lost('The browser cannot show this picture.');
    image.src = scene.picture.src;
  } else {
    shown();
  }
}

function forget(number) {
  shapes.delete(number);
  layers.delete(number);
}

function hint() {
  if (!picture) return '';
  if (!regions.length) return 'Click a thing, or drag a box around it. Then ask about it.';
  if (tool === 'add') return 'Click what belongs to region ' + active + ' too.';
  if (tool === 'exclude') return 'Click what does not belong to region ' + active + '.';
  return '';
}

// Shapes -------------------------------------------------------------------------------------

// COCO's compressed run lengths, down the columns -> a canvas cropped to the region.
function decode(rle) {
  const [height, width] = rle.size;
  const runs = [];
  for (let i = 0; i < rle.counts.length; ) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = rle.counts.charCodeAt(i++) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  let x0 = width, y0 = height, x1 = 0, y1 = 0;
  const inside = [];
  for (let i = 0, start = 0; i < runs.length; start += runs[i++]) {
    for (let from = start, left = i % 2 ? runs[i] : 0; left > 0; ) {
      const x = Math.floor(from / height);
      const y = from % height;
      const length = Math.min(left, height - y);
      inside.push([x, y, length]);
      x0 = Math.min(x0, x); x1 = Math.max(x1, x + 1);
      y0 = Math.min(y0, y); y1 = Math.max(y1, y + length);
      from += length;
      left -= length;
    }
  }
  const shape = document.createElement('canvas');
  shape.width = Math.max(1, x1 - x0);
  shape.height = Math.max(1, y1 - y0);
  const data = new ImageData(shape.width, shape.height);
  for (const [x, y, length] of inside) {
    for (let row = y; row < y + length; row++) {
      data.data[((row - y0) * shape.width + x - x0) * 4 + 3] = 255;
    }
  }
  shape.getContext('2d').putImageData(data, 0, 0);
  return { canvas: shape, x: x0, y: y0, width };
}

// The tinted, outlined region at screen size.
function layer(region) {
  const shape = shapes.get(region.number);
  if (!shape) return null;
  const key = [canvas.width, region.asked, hovered === region.number].join();
  const known = layers.get(region.number);
  if (known && known.key === key) return known;
  const ratio = window.devicePixelRatio || 1;
  const scale = canvas.width / shape.width;
  const line = (region.asked ? 3 : 1.75) * ratio;
  const pad = Math.ceil(line + 2.5 * ratio);
  const made = document.createElement('canvas');
  made.width = Math.ceil(shape.canvas.width * scale) + 2 * pad;
  made.height = Math.ceil(shape.canvas.height * scale) + 2 * pad;
  const paint = (colour, reach, alpha) => {
    const sheet = document.createElement('canvas');
    sheet.width = made.width;
    sheet.height = made.height;
    const brush = sheet.getContext('2d');
    const stamp = (dx, dy) => brush.drawImage(shape.canvas, pad + dx, pad + dy,
      shape.canvas.width * scale, shape.canvas.height * scale);
    stamp(0, 0);
    if (reach) {
      for (let i = 0; i < 20; i++) stamp(Math.cos(i * Math.PI / 10) * reach, Math.sin(i * Math.PI / 10) * reach);
      brush.globalCompositeOperation = 'destination-out';
      stamp(0, 0);
    }
    brush.globalCompositeOperation = 'source-in';
    brush.fillStyle = colour;
    brush.fillRect(0, 0, sheet.width, sheet.height);
    const target = made.getContext('2d');
    target.globalAlpha = alpha;
    target.drawImage(sheet, 0, 0);
  };
  paint('#ffffff', line + 1.5 * ratio, 0.9);
  paint(region.colour, line, 1);
  const tint = hovered === region.number ? 0.5 : region.asked ? 0.2 : 0;
  if (tint) paint(region.colour, 0, tint);
  const result = { key, canvas: made, x: shape.x * scale - pad, y: shape.y * scale - pad };
  layers.set(region.number, result);
  return result;
}

// Drawing ------------------------------------------------------------------------------------

function layout() {
  if (!picture) return;
  const wide = window.innerWidth > 900; // beside the chat all of it shall be seen at once
  const room = Math.max(260, wide ? window.innerHeight - 350 : window.innerHeight * 0.55);
  const scale = Math.min(stage.clientWidth / picture.width, room / picture.height);
  const width = Math.max(1, Math.round(picture.width * scale));
  const height = Math.max(1, Math.round(picture.height * scale));
  const ratio = window.devicePixelRatio || 1;
  canvas.style.width = width + 'px';
  canvas.style.height = height + 'px';
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  draw();
}

function draw() {
  if (!picture) return;
  const ratio = window.devicePixelRatio || 1;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(picture.image, 0, 0, canvas.width, canvas.height);
  for (const region of regions) {
    const sheet = layer(region);
    if (sheet) pen.drawImage(sheet.canvas, sheet.x, sheet.y);
  }
  for (const region of regions) badge(region, ratio);
  const refined = regions.find((region) => region.number === active);
  for (const [x, y, positive] of refined ? refined.points : []) {
    dot(x, y, ratio, positive ? '#0b7a4b' : '#b3261e', positive);
  }
  for (const { x, y, positive } of dots) dot(x, y, ratio, 'rgba(20, 20, 30, .55)', positive);
  if (drag && drag.moved) {
    pen.setLineDash([6 * ratio, 4 * ratio]);
    for (const [colour, width] of [['#ffffff', 3.5], ['#111827', 1.5]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width * ratio;
      pen.strokeRect(drag.x0 * canvas.width, drag.y0 * canvas.height,
        (drag.x1 - drag.x0) * canvas.width, (drag.y1 - drag.y0) * canvas.height);
    }
    pen.setLineDash([]);
  }
}

function badge(region, ratio) {
  const radius = (region.number === active ? 13 : 11) * ratio;
  const keep = (value, limit) => Math.min(Math.max(value, radius + 2), Math.max(radius + 2, limit - radius - 2));
  const x = keep((region.box[0] + region.box[2]) / 2 * canvas.width, canvas.width);
  const y = keep(region.box[1] * canvas.height, canvas.height);
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = region.colour;
  pen.fill();
  pen.lineWidth = 2 * ratio;
  pen.strokeStyle = '#ffffff';
  pen.stroke();
  pen.fillStyle = region.ink;
  pen.font = '700 ' + 13 * ratio + 'px "IBM Plex Sans", system-ui, sans-serif';
  pen.textAlign = 'center';
  pen.textBaseline = 'middle';
  pen.fillText(region.number, x, y + ratio);
}

function dot(x, y, ratio, colour, positive) {
  const [px, py, r] = [x * canvas.width, y * canvas.height, 6 * ratio];
  pen.beginPath();
  pen.arc(px, py, r, 0, 2 * Math.PI);
  pen.fillStyle = colour;
  pen.fill();
  pen.lineWidth = 1.5 * ratio;
  pen.strokeStyle = '#ffffff';
  pen.stroke();
  pen.beginPath();
  pen.moveTo(px - r / 2, py);
  pen.lineTo(px + r / 2, py);
  if (positive) {
    pen.moveTo(px, py - r / 2);
    pen.lineTo(px, py + r / 2);
  }
  pen.stroke();
}

// Chips and tools ----------------------------------------------------------------------------

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  if (tag === 'button') made.type = 'button';
  return made;
}

function refresh() {
  const chips = find('.lc-chips');
  const focused = document.activeElement && document.activeElement.dataset.key;
  chips.replaceChildren(...regions.map((region) => {
    const chip = make('span', 'lc-chip');
    chip.style.setProperty('--region', region.colour);
    chip.style.setProperty('--ink', region.ink);
    chip.classList.toggle('asked', region.asked);
    const press = make('button', 'lc-name');
    press.dataset.key = 'ask-' + region.number;
    press.setAttribute('aria-pressed', region.asked);
    press.title = region.asked ? 'Asked about: press to leave it out' : 'Press to ask about it';
    press.append(make('i', '', region.number), make('span', '', 'region ' + region.number));
    press.onclick = () => send({ op: 'choose', region: region.number, asked: !region.asked });
    const remove = make('button', 'lc-remove', '×');
    remove.dataset.key = 'delete-' + region.number;
    remove.setAttribute('aria-label', 'Delete region ' + region.number);
    remove.onclick = () => send({ op: 'delete', region: region.number });
    chip.append(press, remove);
    chip.onpointerenter = () => hover(region.number);
    chip.onpointerleave = () => hover(null);
    return chip;
  }));
  if (focused) chips.querySelector('[data-key="' + CSS.escape(focused) + '"]')?.focus();
  const refined = regions.find((region) => region.number === active);
  for (const name of ['add', 'exclude']) find('[data-tool=' + name + ']').disabled = !refined;
  if (!refined && (tool === 'add' || tool === 'exclude')) setTool('point');
  const target = find('.lc-target');
  target.hidden = !refined;
  if (refined) {
    target.textContent = refined.number;
    target.style.background = refined.colour;
    target.style.color = refined.ink;
  }
  find('[data-act=clear]').disabled = !regions.length;
  draw();
}

function hover(number) {
  if (hovered === number) return;
  hovered = number;
  draw();
}

function setTool(name) {
  tool = name;
  for (const button of root.querySelectorAll('[data-tool]')) {
    button.setAttribute('aria-pressed', button.dataset.tool === name);
  }
  canvas.dataset.tool = name;
}

for (const button of root.querySelectorAll('[data-tool]')) {
  button.onclick = () => {
    setTool(button.dataset.tool);
    say(hint());
  };
}
find('[data-act=clear]').onclick = () => send({ op: 'clear' });
for (const button of root.querySelectorAll('[data-act=open]')) button.onclick = () => fileInput.click();

// Pointing -----------------------------------------------------------------------------------

function place(event) {
  const box = canvas.getBoundingClientRect();
  const share = (value, size) => Math.min(Math.max(value / size, 0), 1);
  return [share(event.clientX - box.left, box.width), share(event.clientY - box.top, box.height)];
}

canvas.addEventListener('contextmenu', (event) => event.preventDefault());
canvas.addEventListener('pointerdown', (event) => {
  if (!picture || drag || event.button === 1) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  const [x, y] = place(event);
  const boxes = event.button === 0 && (tool === 'box' || (tool === 'point' && event.pointerType === 'mouse'));
  drag = { x0: x, y0: y, x1: x, y1: y, fromX: event.clientX, fromY: event.clientY, boxes, moved: false };
});
canvas.addEventListener('pointermove', (event) => {
  if (!drag || !drag.boxes) return;
  [drag.x1, drag.y1] = place(event);
  if (Math.hypot(event.clientX - drag.fromX, event.clientY - drag.fromY) > 6) drag.moved = true;
  draw();
});
canvas.addEventListener('pointercancel', () => { drag = null; draw(); });
canvas.addEventListener('pointerup', (event) => {
  if (!drag) return;
  const { x0, y0, x1, y1, moved } = drag;
  drag = null;
  if (moved) send({ op: 'box', box: [x0, y0, x1, y1] });
  else point(event, x0, y0);
  draw();
});

function point(event, x, y) {
  const exclude = tool === 'exclude' || event.button === 2 || event.altKey;
  const refine = exclude || tool === 'add' || event.shiftKey;
  if (tool === 'box' && !refine) return say('Drag from one corner of the thing to the other.');
  if (exclude && active === null) return say('There is nothing to exclude from: click a thing first.');
  const operation = { op: 'point', x, y, positive: !exclude, region: refine ? active : null };
  dots.push({ x, y, positive: !exclude, operation });
  send(operation);
}

// Pictures: a file, a drop, a paste, an example ------------------------------------------------

async function open(file) {
  if (!file) return;
  if (file.size > MAX_BYTES) return say('This file is larger than 20 MB: choose a smaller one.', true);
  find('.lc-wait').hidden = false;
  try {
    const { path } = await upload(file);
    send({ op: 'upload', file: { path, meta: { _type: 'gradio.FileData' } } });
  } catch {
    find('.lc-wait').hidden = true;
    say('The upload failed: try again, with a file below 20 MB.', true);
  }
}

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
find('.lc-examples').replaceChildren(...(props.examples || []).map((example) => {
  const button = make('button');
  button.title = example.title;
  button.dataset.example = example.name;
  const thumbnail = make('img');
  thumbnail.src = example.src;
  thumbnail.alt = example.title;
  button.append(thumbnail);
  button.onclick = () => send({ op: 'example', name: example.name });
  return button;
}));

// A link to a region in the chat shows it.
document.addEventListener('click', (event) => {
  const link = event.target.closest && event.target.closest('a[href^="#region-"]');
  if (!link) return;
  event.preventDefault();
  hover(Number(link.getAttribute('href').slice('#region-'.length)));
  canvas.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
  setTimeout(() => hover(null), 1200);
});

new ResizeObserver(layout).observe(stage);
window.addEventListener('resize', layout);
root.dataset.ready = 'true';
