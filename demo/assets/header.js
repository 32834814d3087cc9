// The status of the model, what it knows, saving and loading, and the page's theme.

const root = element.querySelector('.lh');
const menu = root.querySelector('.l-menu');
const file = root.querySelector('input[type=file]');

function show() {
  const { state, text, knows } = props.value || {};
  const status = root.querySelector('.lh-status');
  status.dataset.state = state || 'loading';
  status.querySelector('b').textContent = text || '';
  status.title = text || '';
  const chip = root.querySelector('.lh-knows');
  chip.hidden = !knows;
  chip.textContent = knows ? 'knows ' + knows : '';
  chip.title = chip.textContent;
}

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
