// Questions and answers, the question box, and settings. Every text is written as text.

const root = element.querySelector('.lt');
const find = (selector) => root.querySelector(selector);
const log = find('.lt-log');
const box = find('textarea');
const blank = find('.lt-blank');
const settings = find('.lt-settings');
const parts = new Map(); // entry id -> {key, node}
const snapshots = new Map(); // entry id -> small picture
const looks = new Map(); // entry id -> what it was read from
let state = { entries: [], asked: [], suggestions: [], settings: {} };
let editing = null; // {id, answer: bool}, the entry that is being put right

function work(operation) {
  if (state.busy) return;
  state = { ...state, busy: true };
  follows = true;
  fetches = getComputedStyle(log).overflowY === 'visible';
  busy();
  trigger('work', operation);
}

on('work', work);
on('type', () => box.focus());
on('lost', () => {
  state = { ...state, busy: false };
  busy();
});
on('looked', (found) => {
  looks.set(found.entry, found);
  show();
});

// The end stays in sight, unless somebody reads further up.
let follows = true;
let fetches = false; // on a phone, where the page scrolls as a whole, only to what was just asked
const toEnd = () => {
  if (follows) log.scrollTop = log.scrollHeight;
  if (fetches) log.lastElementChild.scrollIntoView({ block: 'nearest' });
};
for (const moved of ['wheel', 'touchmove']) document.addEventListener(moved, () => { fetches = false; }, { passive: true });
log.onscroll = () => { follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80; };
log.addEventListener('load', toEnd, true); // a snapshot has got its size
new ResizeObserver(toEnd).observe(log);

// Entries --------------------------------------------------------------------------------------

function show() {
  const next = props.value;
  if (next) state = next;
  for (const entry of state.entries) if (entry.snapshot) snapshots.set(entry.id, entry.snapshot);
  const nodes = state.entries.map((entry, place) => {
    const last = place === state.entries.length - 1;
    const key = JSON.stringify([entry, last, state.busy, looks.get(entry.id), editing?.id === entry.id]);
    const known = parts.get(entry.id);
    if (known && known.key === key) return known.node;
    const node = editing?.id === entry.id && known ? known.node : turn(entry, last);
    parts.set(entry.id, { key, node });
    return node;
  });
  for (const id of [...parts.keys()]) if (!state.entries.some((entry) => entry.id === id)) parts.delete(id);
  const wanted = nodes.length ? nodes : [blank];
  if (wanted.length !== log.children.length || wanted.some((node, i) => log.children[i] !== node)) log.replaceChildren(...wanted);
  toEnd();
  fetches = fetches && state.busy;
  find('.lt-note').textContent = state.note || '';
  if (state.kept) box.value = box.value || state.kept;
  about();
  quick();
  busy();
  showSettings();
}

function turn(entry, last) {
  const node = make('article', 'lt-entry ' + entry.role + ' ' + entry.state);
  node.dataset.entry = entry.id;
  if (entry.role === 'notice') notice(node, entry);
  else if (entry.role === 'question') question(node, entry);
  else answer(node, entry, last);
  return node;
}

// What the page has to say; of a picture that another model knows better, with a way to that one.
function notice(node, entry) {
  node.append(make('p', '', entry.text));
  if (!entry.offers || document.body.dataset.chooses !== 'true') return;
  const change = make('button', 'l-pill', "Change to the " + entry.offers + "' model");
  change.onclick = () => emit('choose', entry.offers);
  node.append(change);
}

function question(node, entry) {
  const bubble = make('div', 'lt-bubble');
  const picture = snapshots.get(entry.id);
  if (picture) {
    const image = make('img');
    image.src = picture;
    image.alt = 'The picture with ' + entry.numbers.map((number) => 'region ' + number).join(', ');
    bubble.append(image);
  }
  const text = make('p');
  const named = new Set([...entry.text.matchAll(/(?:#|\bregion )(\d+)/gi)].map((found) => Number(found[1])));
  for (const number of entry.numbers) if (!named.has(number)) text.append(badge(number), ' ');
  linked(text, entry.text);
  bubble.append(text);
  node.append(bubble);
  if (!state.busy) node.append(actions(iconButton('pencil', 'Edit the question', () => edit(node, entry, false))));
}

// "#2" and "region 2" become badges.
function linked(place, text) {
  let from = 0;
  for (const found of text.matchAll(/#(\d{1,6})\b|\b(region) (\d{1,6})\b/gi)) {
    place.append(text.slice(from, found.index), badge(Number(found[1] || found[3]), found[0]));
    from = found.index + found[0].length;
  }
  place.append(text.slice(from));
}

function answer(node, entry, last) {
  const bubble = make('div', 'lt-bubble');
  node.append(bubble);
  if (entry.state === 'writing' && !entry.text && !entry.rows.length) {
    bubble.classList.add('lt-thinking');
    bubble.setAttribute('aria-label', 'Writing');
    bubble.append(make('i'), make('i'), make('i'));
    return;
  }
  if (entry.state === 'withheld') withheld(bubble, entry);
  else {
    const text = make('p');
    if (entry.state === 'failed') text.append('⚠ ');
    linked(text, entry.text);
    if (entry.state === 'stopped') text.append(make('small', '', ' (stopped)'));
    if (text.textContent) bubble.append(text);
  }
  if (entry.rows.length) bubble.append(table(entry));
  const tags = [];
  if (entry.corrected) tags.push('put right by you');
  if (entry.sampled) tags.push('another try');
  if (entry.certainty !== null && entry.state !== 'withheld') tags.push(percent(entry.certainty) + ' sure');
  if (tags.length) bubble.append(make('small', 'lt-tags', tags.join(' · ')));
  const look = looks.get(entry.id);
  if (look) bubble.append(evidence(look));
  if (entry.state !== 'writing' && !state.busy) node.append(answerActions(node, entry, last));
}

function withheld(bubble, entry) {
  bubble.append(make('p', '', "I can't tell."));
  const more = make('details', 'lt-guess');
  more.append(make('summary', '', 'Show the guess'), make('span', '', entry.text + ' (' + percent(entry.certainty || 0) + ' sure)'));
  bubble.append(more);
}

function table(entry) {
  const made = make('table');
  made.append(make('caption', 'l-hidden', 'What is in the picture'));
  for (const [number, caption] of entry.rows) {
    const row = made.insertRow();
    const head = make('th');
    head.scope = 'row';
    head.append(badge(number));
    row.append(head, make('td', '', caption));
  }
  return made;
}

function evidence(look) {
  const list = make('ul', 'lt-evidence');
  list.append(make('li', '', percent(look.certainty) + ' sure of its words'));
  if (look.grounding !== null) {
    const much = look.grounding;
    const says = much > 0.5 ? 'The regions speak for it' : much > 0.05 ? 'The regions speak for it a little' : much < -0.05 ? 'The regions speak against it' : 'The answer would be the same without the regions';
    list.append(make('li', '', says + ' (' + (much >= 0 ? '+' : '') + much.toFixed(2) + ' nats a word)'));
  }
  for (const number of Object.keys(look.close_ups)) {
    const item = make('li');
    item.append(badge(Number(number)), ' too small, used a close-up');
    list.append(item);
  }
  return list;
}

function actions(...buttons) {
  const made = make('div', 'lt-actions');
  made.append(...buttons);
  return made;
}

function answerActions(node, entry, last) {
  const rate = (name, label, rating) => {
    const button = iconButton(name, label, () => emit('do', { op: 'rate', entry: entry.id, rating: entry.rating === rating ? 0 : rating }));
    button.setAttribute('aria-pressed', entry.rating === rating);
    return button;
  };
  const told = ['done', 'withheld'].includes(entry.state);
  const plain = told && !entry.rows.length;
  const made = [];
  if (told) made.push(iconButton('copy', 'Copy', () => copy(entry)));
  if (!entry.rows.length) made.push(iconButton('cycle', 'Try again', () => work({ op: 'retry', entry: entry.id })));
  if (plain) made.push(iconButton('eye', 'Show what it was read from', () => emit('do', { op: 'evidence', entry: entry.id })));
  if (told) made.push(rate('up', 'Right', 1), rate('down', 'Wrong', -1));
  if (plain) made.push(iconButton('pencil', 'Put the answer right', () => edit(node, entry, true)));
  const list = actions(...made);
  list.classList.toggle('last', last);
  return list;
}

function copy(entry) {
  const rows = entry.rows.map((row) => row.join('\t')).join('\n');
  navigator.clipboard?.writeText([entry.text, rows].filter(Boolean).join('\n'));
}

function edit(node, entry, isAnswer) {
  editing = { id: entry.id };
  const form = make('form', 'lt-edit');
  const input = make('textarea');
  input.value = entry.text;
  input.maxLength = isAnswer ? 4000 : 2000;
  input.setAttribute('aria-label', isAnswer ? 'The right answer' : 'The question');
  const save = make('button', 'l-main', isAnswer ? 'Save' : 'Ask again');
  save.type = 'submit';
  const cancel = make('button', 'l-pill', 'Cancel');
  const finish = () => {
    editing = null;
    parts.delete(entry.id);
    show();
    box.focus();
  };
  cancel.onclick = finish;
  form.onsubmit = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    finish();
    if (!text) return;
    if (isAnswer) emit('do', { op: 'correct', entry: entry.id, answer: text });
    else work({ op: 'edit', entry: entry.id, question: text });
  };
  input.onkeydown = (event) => {
    if (event.key === 'Escape') finish();
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      form.requestSubmit();
    }
  };
  form.append(input, actions(save, cancel));
  node.replaceChildren(form);
  input.focus();
}

// Below the log ----------------------------------------------------------------------------------

function about() {
  const place = find('.lt-about');
  place.replaceChildren();
  if (!state.picture) return;
  place.append(state.asked.length ? 'Asking about ' : 'Asking about the whole picture');
  for (const { number, label } of state.asked) place.append(badge(number, label ? number + ' ' + label : undefined), ' ');
}

function quick() {
  find('.lt-quick').replaceChildren(...(state.suggestions || []).map((text) => {
    const button = make('button', 'l-pill', text);
    button.disabled = Boolean(state.busy);
    button.onclick = () => work({ op: 'ask', question: text });
    return button;
  }));
}

function busy() {
  find('.lt-send').hidden = Boolean(state.busy);
  find('.lt-stop').hidden = !state.busy;
  for (const name of ['describe', 'restart']) find('[data-act=' + name + ']').disabled = Boolean(state.busy) || !state.picture;
  const [what, done, total] = state.progress || [];
  find('.lt-progress').hidden = !what;
  if (what) {
    find('.lt-progress span').textContent = what === 'looking' ? 'Looking for everything' : 'Describing ' + done + ' of ' + total;
    Object.assign(find('progress'), { max: total, value: done });
  }
  root.dataset.busy = Boolean(state.busy);
}

find('.lt-ask').onsubmit = (event) => {
  event.preventDefault();
  const text = box.value;
  if (state.busy) return;
  box.value = '';
  grow();
  work({ op: 'ask', question: text });
};
box.onkeydown = (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find('.lt-ask').requestSubmit();
  }
};
const grow = () => {
  box.style.height = 'auto';
  box.style.height = Math.min(box.scrollHeight, 120) + 'px';
};
box.oninput = grow;
for (const button of root.querySelectorAll('[data-act=stop]')) button.onclick = () => trigger('stop');
find('[data-act=describe]').onclick = () => work({ op: 'describe' });
find('[data-act=restart]').onclick = () => emit('do', { op: 'restart' });

// Settings ---------------------------------------------------------------------------------------

find('[data-act=settings]').onclick = (event) => {
  settings.hidden = !settings.hidden;
  event.currentTarget.setAttribute('aria-expanded', !settings.hidden);
};

function showSettings() {
  find('.lt-save').hidden = !state.saves;
  if (settings.contains(document.activeElement)) return told();
  for (const [name, value] of Object.entries(state.settings)) {
    const field = settings.elements[name];
    if (!field) continue;
    if (field.type === 'checkbox') field.checked = value;
    else field.value = value ?? (name === 'temperature' ? -0.1 : '');
  }
  told();
}

function told() {
  const { temperature, threshold } = settings.elements;
  temperature.parentElement.querySelector('output').textContent = temperature.value < 0 ? 'own' : temperature.value;
  threshold.parentElement.querySelector('output').textContent = Number(threshold.value) ? percent(Number(threshold.value)) + ' sure' : 'never';
}

settings.oninput = told;
settings.onsubmit = (event) => event.preventDefault();
settings.onchange = () => {
  const { preset, composer, max_new_tokens: length, beams, temperature, threshold, save } = settings.elements;
  const whole = (field) => (field.value === '' ? null : Math.round(Number(field.value)));
  emit('do', {
    op: 'settings',
    preset: preset.value || null,
    composer: composer.value || null,
    max_new_tokens: whole(length),
    beams: whole(beams),
    temperature: temperature.value < 0 ? null : Number(temperature.value),
    threshold: Number(threshold.value),
    save: save.checked,
  });
};

watch('value', () => {
  const before = state.version;
  show();
  // Work has changed the picture's regions: the canvas asks for them.
  if (before !== undefined && state.version !== before) emit('do', { op: 'sync' });
});
show();
