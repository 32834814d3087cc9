// What every part of the page starts with. `element`, `trigger`, `props`, `upload` and `watch` are
// gradio's. The parts talk to each other by events on the document: emit('do', {op: ...}).

// As adapters/draw.py has it (a test compares them): colour, and the ink that reads on it.
const PALETTE = [
  ['#0072b2', '#ffffff'], ['#e69f00', '#000000'], ['#009e73', '#ffffff'], ['#cc79a7', '#000000'],
  ['#56b4e9', '#000000'], ['#d55e00', '#ffffff'], ['#f0e442', '#000000'], ['#bbbbbb', '#000000'],
];
const ICONS = {
  add: 'M10 4v12M4 10h12',
  box: 'M4 4h12v12H4z',
  brush: 'M16.5 3.5c-4 1-7 4-8.5 7.5M8 11c-2 0-3 1.2-3 3 0 1.4-.8 2-2 2.3 3.5 1.2 7-.3 7-3.3 0-1-.8-2-2-2z',
  check: 'M4 10.5l4 4 8-9',
  close: 'M5 5l10 10M15 5L5 15',
  copy: 'M7 7h9v10H7zM13 7V3H4v10h3',
  cycle: 'M15.5 8A6 6 0 1 0 16 11.5M15.8 4v4.2h-4.2',
  down: 'M6 3v8l4 6c2 0 2-1 2-2v-3h4.5c1 0 1.5-1 1.2-2l-1.5-5.5C16 3.5 15.5 3 14.5 3zM6 3H3v8h3',
  everything: 'M3 3h5v5H3zM12 3h5v5h-5zM3 12h5v5H3zM12 12h5v5h-5z',
  exclude: 'M4 10h12',
  eye: 'M2 10c2-3.6 4.7-5.5 8-5.5s6 1.9 8 5.5c-2 3.6-4.7 5.5-8 5.5S4 13.6 2 10zM10 12.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z',
  find: 'M9 15A6 6 0 1 0 9 3a6 6 0 0 0 0 12zM13.5 13.5L17 17',
  fit: 'M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4',
  fresh: 'M4 4h12v12H4zM10 7v6M7 10h6',
  gear: 'M3 6h8M15 6h2M3 14h2M9 14h8M13 8V4M7 16v-4',
  help: 'M7 7.5a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1-1.5 2.2M10 15.5v.1',
  menu: 'M10 3v9M6 8.5l4 4 4-4M4 13.5V17h12v-3.5',
  open: 'M10 13V4M6 7.5L10 3.5l4 4M4 12v4h12v-4',
  pencil: 'M4 16l.8-3.5L13.5 3.8l2.7 2.7L7.5 15.2zM11.5 5.8l2.7 2.7',
  point: 'M4 3l12 6-5 1.6L8.6 16z',
  redo: 'M15 8H8a4 4 0 0 0 0 8h4M12 4.5L15.5 8 12 11.5',
  send: 'M3 10L17 3.5 12.5 17 9.5 11.5zM9.5 11.5L17 3.5',
  stop: 'M5.5 5.5h9v9h-9z',
  trash: 'M5 6h10l-1 11H6zM3.5 6h13M8 6V3.5h4V6',
  undo: 'M5 8h7a4 4 0 0 1 0 8H8M8 4.5L4.5 8 8 11.5',
  up: 'M6 17V9l4-6c2 0 2 1 2 2v3h4.5c1 0 1.5 1 1.2 2l-1.5 5.5c-.2 1-.7 1.5-1.7 1.5zM6 17H3V9h3',
};

const colourOf = (number) => PALETTE[(number - 1) % PALETTE.length][0];
const inkOf = (number) => PALETTE[(number - 1) % PALETTE.length][1];
const percent = (share) => (share >= 0.1 ? Math.round(share * 100) : Math.max(0.1, Math.round(share * 1000) / 10)) + ' %';
const emit = (name, detail) => document.dispatchEvent(new CustomEvent('loupe:' + name, { detail }));
const on = (name, act) => document.addEventListener('loupe:' + name, (event) => act(event.detail));
const isTyping = (target) => target instanceof Element && target.closest('input, textarea, select, [contenteditable]');

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  if (tag === 'button') made.type = 'button';
  return made;
}

function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 20 20');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(document.createElementNS(svg.namespaceURI, 'path'));
  svg.firstChild.setAttribute('d', ICONS[name]);
  svg.classList.add('icon-' + name);
  return svg;
}

function iconButton(name, label, act, className) {
  const button = make('button', 'l-icon ' + (className || ''));
  button.append(icon(name));
  button.setAttribute('aria-label', label);
  button.title = label;
  button.onclick = act;
  return button;
}

// A region's number in its colour; a press shows the region.
function badge(number, text) {
  const link = make('a', 'l-badge', text === undefined ? number : text);
  link.href = '#region-' + number;
  link.style.setProperty('--region', colourOf(number));
  link.style.setProperty('--ink', inkOf(number));
  link.setAttribute('aria-label', 'Show region ' + number);
  link.onclick = (event) => {
    event.preventDefault();
    emit('show', number);
  };
  link.onpointerenter = () => emit('hover', number);
  link.onpointerleave = () => emit('hover', null);
  return link;
}

function remember(name, value) {
  try {
    if (value === undefined) return localStorage.getItem('loupe-' + name);
    localStorage.setItem('loupe-' + name, value);
  } catch {
    return null; // storage is off: the choice lasts as long as the page
  }
}

for (const place of element.querySelectorAll('[data-icon]')) place.prepend(icon(place.dataset.icon));
