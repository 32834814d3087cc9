// What the next question is about, and questions to put with one press.
const root = element.querySelector('.lq');

function show() {
  const state = props.value || {};
  const about = root.querySelector('.lq-about');
  const quick = root.querySelector('.lq-quick');
  about.replaceChildren();
  if (state.picture) {
    about.append(state.asked.length ? 'Asking about ' : 'Asking about the whole picture');
    for (const region of state.asked) {
      const badge = document.createElement('a');
      badge.href = '#region-' + region.number;
      badge.textContent = region.number;
      badge.title = 'Show region ' + region.number;
      about.append(badge, ' ');
    }
  }
  root.querySelector('.lq-note').textContent = state.note || '';
  quick.replaceChildren(...(state.suggestions || []).map((question) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = question;
    button.disabled = Boolean(state.busy);
    button.onclick = () => trigger('quick', { question });
    return button;
  }));
}

watch('value', show);
show();
