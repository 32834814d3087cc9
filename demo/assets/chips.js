// Below the picture: the regions as chips, the open pictures and the examples; and the keys.

function refresh() {
  refreshChips();
  refreshShelf();
  const refined = activeRegion();
  for (const name of ['add', 'exclude']) find('[data-sign=' + name + ']').disabled = !refined;
  if (!refined && sign !== 'new') setSign('new');
  const target = find('.lc-target');
  target.hidden = !refined;
  if (refined) {
    target.textContent = refined.number;
    target.style.background = colourOf(refined.number);
    target.style.color = inkOf(refined.number);
  }
  find('[data-act=clear]').disabled = !scene.regions.length;
  find('[data-act=undo]').disabled = !scene.undo;
  find('[data-act=redo]').disabled = !scene.redo;
  find('.lc-find').hidden = !scene.finds;
  const names = scene.regions.map((region) => region.label || 'region ' + region.number);
  canvas.setAttribute('aria-label', picture ? 'The picture, ' + (names.length ? 'with ' + names.join(', ') : 'without regions') + '. Arrows move the cross, Enter clicks.' : 'No picture yet');
  refreshLook();
  draw();
}

let pressed = null; // the chip pressed last, and whether it was asked about before

function refreshChips() {
  const chips = find('.lc-chips');
  // The first press of two has put a new chip under the pointer: look there.
  chips.ondblclick = (event) => {
    const chip = document.elementFromPoint(event.clientX, event.clientY)?.closest('.lc-chip');
    const number = Number(chip?.dataset.region);
    if (!pressed || pressed.number !== number) return;
    send({ op: 'choose', region: number, asked: pressed.asked });
    rename(number);
  };
  const focused = document.activeElement && document.activeElement.dataset.key;
  if (chips.querySelector('input')) return; // a name is being typed
  chips.replaceChildren(...scene.regions.map(chip));
  if (focused) chips.querySelector('[data-key="' + CSS.escape(focused) + '"]')?.focus();
}

function chip(region) {
  const { number } = region;
  const made = make('span', 'lc-chip');
  made.style.setProperty('--region', colourOf(number));
  made.style.setProperty('--ink', inkOf(number));
  made.classList.toggle('asked', region.asked);
  made.classList.toggle('active', number === scene.active);
  const name = region.label || 'region ' + number;
  const press = make('button', 'lc-name');
  press.dataset.key = 'ask-' + number;
  press.setAttribute('aria-pressed', region.asked);
  press.title = (region.asked ? 'Asked about: press to leave it out' : 'Press to ask about it') + '. Double click or F2 renames.';
  press.append(make('i', '', number), make('span', '', name));
  press.onclick = (event) => {
    if (event.detail > 1) return;
    pressed = { number, asked: region.asked };
    send({ op: 'choose', region: number, asked: !region.asked });
  };
  press.onkeydown = (event) => {
    if (event.key === 'F2') rename(number);
    if (event.key === 'Delete') send({ op: 'delete', region: number });
  };
  made.append(press);
  if (region.readings > 1) {
    const cycle = iconButton('cycle', 'Another reading of the click, ' + (region.reading + 1) + ' of ' + region.readings, () => send({ op: 'cycle', region: number }), 'lc-cycle');
    cycle.dataset.key = 'cycle-' + number;
    made.append(cycle);
  }
  const pencil = iconButton('pencil', 'Rename ' + name, () => rename(number), 'lc-rename');
  const remove = iconButton('close', 'Delete ' + name, () => send({ op: 'delete', region: number }), 'lc-remove');
  pencil.dataset.key = 'name-' + number;
  remove.dataset.key = 'delete-' + number;
  made.append(pencil, remove);
  made.onpointerenter = () => hover(number);
  made.onpointerleave = () => hover(null);
  made.dataset.region = number;
  return made;
}

function rename(number) {
  const region = scene.regions.find((one) => one.number === number);
  const place = find('.lc-chip[data-region="' + number + '"] .lc-name');
  if (!region || !place) return;
  const input = make('input', 'lc-typing');
  input.value = region.label;
  input.maxLength = 60;
  input.placeholder = 'region ' + number;
  input.setAttribute('aria-label', 'Name of region ' + number);
  let done = false;
  const finish = (keep) => {
    if (done) return;
    done = true;
    input.remove();
    if (keep && input.value.trim() !== region.label) send({ op: 'rename', region: number, label: input.value });
    refreshChips();
    find('[data-key="ask-' + number + '"]')?.focus();
  };
  input.onblur = () => finish(true);
  input.onkeydown = (event) => {
    event.stopPropagation();
    if (event.key !== 'Enter' && event.key !== 'Escape') return;
    event.preventDefault(); // the chip that gets the focus shall not take it for a press
    finish(event.key === 'Enter');
  };
  place.replaceWith(input);
  input.select();
}

function refreshShelf() {
  const open = scene.pictures.map((one) => {
    const here = picture && one.id === picture.id;
    const slot = make('span', 'lc-slot');
    const button = thumb(one.title, thumbs.get(one.id), () => { if (!here) send({ op: 'switch', picture: one.id }); });
    button.setAttribute('aria-pressed', Boolean(here));
    button.dataset.picture = one.id;
    slot.append(button, iconButton('close', 'Close ' + one.title, () => send({ op: 'close', picture: one.id }), 'lc-shut'));
    return slot;
  });
  const offered = suiting().map((example) => {
    const button = thumb('Example: ' + example.title, example.src, () => send({ op: 'example', name: example.name }));
    button.dataset.example = example.name;
    return button;
  });
  const label = make('span', 'lc-offer', open.length ? 'Examples' : '');
  find('.lc-shelf').replaceChildren(...open, ...(offered.length ? [label] : []), ...offered);
  refreshCredits();
}

// The examples follow the model that answers: paintings for the paintings' own, photos for others.
function suiting() {
  const all = props.examples || [];
  const wanted = document.body.dataset.model === 'paintings' ? 'paintings' : 'photos';
  const set = all.filter((example) => example.set === wanted);
  return set.length ? set : all;
}

function refreshCredits() {
  const credited = suiting().filter((example) => example.source);
  const place = find('.lc-credits');
  place.hidden = !credited.length;
  place.querySelector('ul').replaceChildren(...credited.map((example) => {
    const item = make('li');
    item.append(outward(example.source, example.title));
    if (example.terms) item.append(' · ', outward(example.terms, 'licence'));
    return item;
  }));
}

function outward(address, text) {
  const link = make('a', '', text);
  Object.assign(link, { href: address, target: '_blank', rel: 'noopener noreferrer' });
  return link;
}

function thumb(title, src, act) {
  const button = make('button', 'lc-thumb');
  button.title = title;
  const image = make('img');
  image.src = src || '';
  image.alt = title;
  button.append(image);
  button.onclick = act;
  return button;
}

function hover(number) {
  if (hovered === number) return;
  hovered = number;
  draw();
}

// Keys, while the picture has the focus --------------------------------------------------------

function followKeys() {
  canvas.addEventListener('keydown', (event) => {
    if (!picture || !act(event)) return;
    event.preventDefault();
    event.stopPropagation();
  });
  canvas.addEventListener('focus', () => {
    if (canvas.matches(':focus-visible')) cross ??= { x: 0.5, y: 0.5 };
    draw();
  });
  canvas.addEventListener('blur', draw);
  document.addEventListener('keydown', (event) => {
    if (isTyping(event.target) || !(event.ctrlKey || event.metaKey)) return;
    const key = event.key.toLowerCase();
    if (key === 'z') send({ op: event.shiftKey ? 'redo' : 'undo' });
    else if (key === 'y') send({ op: 'redo' });
    else return;
    event.preventDefault();
  });

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const tools = { v: 'point', b: 'box', r: 'brush', e: 'everything' };
  const signs = { n: 'new', a: 'add', x: 'exclude' };
  const others = { m: acts.masks, 0: acts.fit, '+': acts.in, '=': acts.in, '-': acts.out, '?': acts.help, '/': () => emit('type') };

  function act(event) {
    if (event.ctrlKey || event.metaKey) return false;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const refined = activeRegion();
    if (arrows[key]) move(...arrows[key], event.shiftKey ? 0.1 : 0.02);
    else if (key === 'Enter' || key === ' ') press(event);
    else if (tools[key]) chooseTool(tools[key]);
    else if (signs[key]) chooseSign(signs[key]);
    else if (others[key]) others[key]();
    else if (key === 'Escape') escape();
    else if (key === 'c' && refined) send({ op: 'cycle', region: refined.number });
    else if (key === 'F2' && refined) rename(refined.number);
    else if ((key === 'Delete' || key === 'Backspace') && refined) send({ op: 'delete', region: refined.number });
    else if (/^[1-9]$/.test(key)) toggle(Number(key));
    else return false;
    return true;
  }

  function move(dx, dy, step) {
    cross ??= { x: 0.5, y: 0.5 };
    [cross.x, cross.y] = bounded([cross.x + dx * step / stage.view.zoom, cross.y + dy * step / stage.view.zoom]);
    stage.reveal(cross.x, cross.y);
    if (tool === 'everything') aimed = candidateAt([cross.x, cross.y]);
    draw();
  }

  function press(event) {
    cross ??= { x: 0.5, y: 0.5 };
    const place = [cross.x, cross.y];
    const pressed = { button: 0, altKey: event.altKey, shiftKey: event.shiftKey };
    if (tool === 'brush') return paintStroke([place], pressed);
    if (tool !== 'box') return point(place, pressed);
    if (!cross.corner) cross.corner = place;
    else {
      send({ op: 'box', box: [...cross.corner, ...place] });
      cross.corner = null;
    }
    draw();
  }

  function toggle(number) {
    const region = scene.regions.find((one) => one.number === number);
    if (region) send({ op: 'choose', region: number, asked: !region.asked });
  }

  function escape() {
    if (look) look = null;
    else if (cross?.corner) cross.corner = null;
    else if (tool !== 'point' || sign !== 'new') {
      setTool('point');
      setSign('new');
    } else canvas.blur();
    refreshLook();
    draw();
  }
}
