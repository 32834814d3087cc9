// The status of the model, what it knows, and the page's theme.
const root = element.querySelector('.lh');

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

function remember(theme) {
  try {
    if (theme === undefined) return localStorage.getItem('loupe-theme');
    localStorage.setItem('loupe-theme', theme);
  } catch {
    return null; // storage is off: the theme lasts as long as the page
  }
}

const chosen = remember();
if (chosen) document.body.classList.toggle('dark', chosen === 'dark');
root.querySelector('.lh-theme').onclick = () => {
  remember(document.body.classList.toggle('dark') ? 'dark' : 'light');
};
watch('value', show);
show();
