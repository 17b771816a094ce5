"use strict";

// Asking is no use of the session, so a page that is left open does not keep its user signed in.
const EVERY = 3000;

const show = (id, on) => { document.getElementById(id).hidden = !on; };
const write = (id, text) => { document.getElementById(id).textContent = text; };
const tabs = new BroadcastChannel("session");
const draft = document.getElementById("draft");

// Whom this tab shows: the server's name for the sign-in, or nobody.
let who = null;
let endsAt = 0;
let warned = false;
let next;

const WHY = {
  Idle: "You were signed out because you were away.",
  Absolute: "You were signed out because your session was old.",
  UserSignOut: "You are signed out.",
};

// What this tab showed or kept for its user goes, whoever ended the session.
function forget(cause) {
  sessionStorage.clear();
  draft.value = "";
  document.getElementById("orders").replaceChildren();
  write("name", "");
  show("warning", false);
  show("signed-in", false);
  show("signed-out", true);
  if (who) {
    write("why", WHY[cause] || "You are signed out.");
  }
  who = null;
}

// What the server says, unless it says it of somebody else by now: another tab may have signed another user in.
async function get(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  const said = answer.ok ? await answer.json() : {};
  return { ok: answer.ok, status: answer.status, ...said };
}

async function welcome(signIn) {
  const me = await get("/api/me");
  if (!me.ok || me.sign_in !== signIn) {
    return;
  }
  who = signIn;
  write("name", me.name);
  draft.value = sessionStorage.getItem(who) || "";
  write("why", "");
  show("signed-out", false);
  show("signed-in", true);
}

async function learn(status) {
  if (!status.signed_in) {
    if (who) {
      tabs.postMessage({ ended: status.ended });
    }
    forget(status.ended);
    return;
  }
  const latest = status.sign_ins.at(-1).sign_in;
  if (who && who !== latest) {
    forget();
  }
  if (!who) {
    await welcome(latest);
  }
  endsAt = Date.now() + status.expires_in * 1000;
  warned = status.warn;
  countDown();
}

function countDown() {
  const left = Math.round((endsAt - Date.now()) / 1000);
  show("warning", Boolean(who) && warned);
  write("seconds", Math.max(0, left));
  // Without the server, too: it may be out of reach when the time is up. A minute more, for clocks that were set.
  if (who && left < -60) {
    forget("Idle");
  }
}

async function ask(method) {
  clearTimeout(next);
  let pause = EVERY;
  try {
    const answer = await fetch("/signout/status", { method, headers: { Accept: "application/json" } });
    if (!answer.ok) {
      throw new Error(answer.status);
    }
    await learn(await answer.json());
    show("trouble", false);
    if (who) {
      // Just after the end, rather than some time later.
      pause = Math.min(pause, Math.max(500, endsAt - Date.now() + 500));
    }
  } catch {
    // Nothing is known: the server decides, and shows nothing to who is not signed in.
    show("trouble", true);
  }
  clearTimeout(next);
  next = setTimeout(ask, pause, "GET");
}

async function logOff() {
  try {
    const answer = await fetch("/signout", { method: "POST", headers: { Accept: "application/json" } });
    if (!answer.ok) {
      throw new Error(answer.status);
    }
    const { location } = await answer.json();
    forget("UserSignOut");
    tabs.postMessage({ ended: "UserSignOut" });
    // To the provider, whose session ends too.
    window.location.assign(location);
  } catch {
    show("trouble", true);
  }
}

async function load() {
  const mine = who;
  const answer = await get("/api/orders").catch(() => ({ ok: false }));
  if (who !== mine) {
    return;
  }
  if (answer.status === 401 || (answer.ok && answer.sign_in !== mine)) {
    ask("GET");
    return;
  }
  const orders = answer.ok ? answer.orders : ["The orders cannot be had just now."];
  const items = orders.map((order) => {
    const item = document.createElement("li");
    item.textContent = order;
    return item;
  });
  document.getElementById("orders").replaceChildren(...items);
}

draft.addEventListener("input", () => who && sessionStorage.setItem(who, draft.value));
document.getElementById("log-off").addEventListener("click", logOff);
document.getElementById("stay").addEventListener("click", () => ask("POST"));
document.getElementById("load").addEventListener("click", load);
tabs.addEventListener("message", ({ data }) => forget(data.ended));
// Timers of hidden tabs are slowed down, and a page may come back from the browser's memory.
document.addEventListener("visibilitychange", () => document.hidden || ask("GET"));
window.addEventListener("pageshow", (event) => event.persisted && ask("GET"));
setInterval(countDown, 1000);
ask("GET");
