// Counts down, follows the evictions, and shows what the browser keeps. The page works without it.

// The server's clock, which the times on the page are by.
const lead = Number(document.body.dataset.now) - Date.now();

function countdown(left) {
  const seconds = Math.ceil(left / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((part, at) => String(part).padStart(at ? 2 : 1, '0')).join(':');
}

function tick() {
  const now = Date.now() + lead;
  for (const element of document.querySelectorAll('[data-until]')) {
    const left = Math.max(0, Number(element.dataset.until) - now);
    if (element.tagName === 'PROGRESS') {
      element.value = left;
      continue;
    }
    element.textContent = left ? countdown(left) : 'expired';
    element.classList.toggle('soon', left < 15_000);
  }
}

function showLocalTimes() {
  for (const element of document.querySelectorAll('time.clock')) {
    element.textContent = new Date(Number(element.dataset.at)).toLocaleTimeString();
  }
}

// Only written while somebody is signed in: what is there after a sign-out was left behind by it.
function showStorage() {
  const { account } = document.getElementById('data').dataset;
  for (const [id, storage] of [['session-storage', sessionStorage], ['local-storage', localStorage]]) {
    if (account) storage.setItem('draft', `a draft of ${account}`);
    document.getElementById(id).textContent = storage.getItem('draft') ?? 'empty';
  }
}

function follow() {
  const events = new EventSource('/events');
  const live = document.getElementById('live');
  events.addEventListener('open', () => live.classList.add('on'));
  events.addEventListener('error', () => live.classList.remove('on'));
  events.addEventListener('evicted', ({ data }) => {
    // Made and escaped by the server, by the same function as the rows of the page.
    const list = document.getElementById('evictions');
    list.insertAdjacentHTML('afterbegin', data);
    list.firstElementChild.classList.add('new');
    showLocalTimes();
  });
  // In this tab or elsewhere: what the page shows is no longer true.
  events.addEventListener('ended', () => location.replace('/'));
  // A page that is being left must not get in the way of where it goes.
  for (const leaving of ['submit', 'pagehide']) addEventListener(leaving, () => events.close());
}

tick();
setInterval(tick, 250);
showLocalTimes();
showStorage();
follow();
