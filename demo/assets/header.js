// The status of the model, what it knows, saving and loading, and the page's theme.

const root = element.querySelector('.lh');
const menu = root.querySelector('.l-menu');
const file = root.querySelector('input[type=file]');
const choose = root.querySelector('.lh-choose');
const dialog = root.querySelector('.lh-models');

function show() {
  const { state, text, knows, model, why } = props.value || {};
  const status = root.querySelector('.lh-status');
  status.dataset.state = state || 'loading';
  status.querySelector('b').textContent = text || '';
  status.title = text || '';
  const chip = root.querySelector('.lh-knows');
  chip.hidden = !knows;
  chip.textContent = knows ? 'knows ' + knows : '';
  chip.title = chip.textContent;
  choose.hidden = !props.value?.chooses;
  const banner = root.parentElement.querySelector('.lh-why');
  banner.hidden = !why;
  banner.textContent = banner.title = why || '';
  document.documentElement.style.setProperty('--why', why ? '35px' : '0px');
  use(model, state);
  dialog.querySelector('.lh-note').textContent = props.value?.note || '';
  if (props.value?.note && !dialog.open) dialog.showModal();
  if (props.value?.choices) list(props.value.choices);
}

// The other parts read on the body which model answers, and whether it may be changed.
function use(model, state) {
  const shown = document.body.dataset;
  shown.chooses = Boolean(props.value?.chooses);
  if (!model || shown.model === model || (shown.model && state !== 'ready')) return;
  shown.model = model;
  emit('model');
}

on('choose', (model) => trigger('model', { op: 'choose', model, segmenter: null, precision: 'fp32' }));

// Models -----------------------------------------------------------------------------------------

const { precision, segmenter } = dialog.querySelector('form').elements;
const gigabytes = (bytes) => (bytes / 1e9).toFixed(bytes < 1e9 ? 2 : 1) + ' GB';
let choices = null;

function list(next) {
  const first = !choices;
  choices = next;
  dialog.querySelector('.lh-free').textContent = choices.free === null ? '' : gigabytes(choices.free) + ' of memory are free.';
  if (!first) return weigh();
  dialog.querySelector('.lh-list').replaceChildren(...choices.models.map((one) => {
    const row = make('label', 'lh-model');
    const radio = make('input');
    Object.assign(radio, { type: 'radio', name: 'model', value: one.model });
    const told = make('span');
    told.append(make('b', '', one.model.split('/').pop()), make('small', '', one.suits + ' · ' + one.licence));
    row.append(radio, told, make('span', 'lh-memory'));
    return row;
  }));
  const own = make('option', '', "the model's own");
  own.value = '';
  segmenter.replaceChildren(own, ...choices.segmenters.map((one) => {
    const option = make('option');
    option.value = one.model;
    return option;
  }));
  mark();
}

// What each needs in the precision that is chosen, with its segmenter; what is more than there is
// stands back. The model that has a segmenter of its own, the embedded one, is never made smaller.
function weigh() {
  choices.models.forEach((one, place) => {
    const row = dialog.querySelectorAll('.lh-model')[place];
    const held = one.segmenter ? precision.value : 'fp32';
    const beside = choices.segmenters.find(({ model }) => model === (segmenter.value || one.segmenter));
    const needed = one.memory[held] + (beside ? beside.memory[held] : 0);
    const tooLarge = choices.free !== null && needed > choices.free;
    row.classList.toggle('large', tooLarge);
    row.querySelector('.lh-memory').replaceChildren(gigabytes(needed), ...(tooLarge ? [make('small', '', 'too large')] : []));
  });
  choices.segmenters.forEach((one, place) => {
    segmenter.options[place + 1].textContent = one.model.split('/').pop() + ': ' + one.suits + ', ' + one.licence + ', ' + gigabytes(one.memory[precision.value]);
  });
}

// What runs now, in the list.
function mark() {
  if (!choices) return;
  for (const radio of dialog.querySelectorAll('input')) radio.checked = radio.value === props.value?.model;
  segmenter.value = props.value?.segmenter || '';
  precision.value = props.value?.precision || 'fp32';
  weigh();
}

precision.onchange = segmenter.onchange = weigh;
choose.onclick = () => {
  mark();
  dialog.showModal();
  trigger('model', { op: 'list' }); // what is free changes
};
dialog.querySelector('[data-close]').onclick = () => dialog.close();
dialog.querySelector('form').onsubmit = () => {
  const model = dialog.querySelector('input:checked')?.value;
  if (model) trigger('model', { op: 'choose', model, segmenter: segmenter.value || null, precision: precision.value });
};

for (const button of root.querySelectorAll('[data-form]')) {
  button.onclick = () => {
    emit('do', { op: 'export', form: button.dataset.form });
    menu.open = false;
  };
}
root.querySelector('[data-load]').onclick = () => {
  menu.open = false;
  file.click();
};
file.onchange = () => {
  emit('open', file.files[0]);
  file.value = '';
};
document.addEventListener('click', (event) => { if (!menu.contains(event.target)) menu.open = false; });
menu.onkeydown = (event) => {
  if (event.key !== 'Escape') return;
  menu.open = false;
  menu.querySelector('summary').focus();
};

const chosen = remember('theme');
if (chosen) document.body.classList.toggle('dark', chosen === 'dark');
root.querySelector('.lh-theme').onclick = () => {
  remember('theme', document.body.classList.toggle('dark') ? 'dark' : 'light');
};
watch('value', show);
show();
