// Asks for the page anew when it is no longer true, whichever node made it so: at once where this node tells, and within a second
// by asking. The page works without it.

const { signedIn, status } = document.body.dataset;

let leaving = false;

function renew(noticed) {
  if (leaving) return;
  leaving = true;
  location.replace(`/?noticed=${noticed}`);
}

// No use of the sign-in, so it prolongs nothing. A page that nobody watches so closely asks once in a minute.
async function ask() {
  try {
    const answer = await fetch(status);
    if (answer.ok && String((await answer.json()).signed_in) !== signedIn) renew('asked');
  } catch {
    // The next time, then.
  }
}

if (signedIn === 'true') {
  const events = new EventSource('/events');
  events.addEventListener('ended', () => renew('told'));
  addEventListener('pagehide', () => events.close());
}
setInterval(ask, 1000);

// A page that is being left must not get in the way of where it goes.
addEventListener('submit', () => { leaving = true; });
addEventListener('pagehide', () => { leaving = true; });
addEventListener('pageshow', ({ persisted }) => { if (persisted) location.reload(); });
