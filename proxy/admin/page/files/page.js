// Keeps the page up to date: it asks for the same page again when the event stream tells
// of a change, and puts what has changed in place. Ends sessions and drains replicas with
// the token.
'use strict';

(() => {
  const key = 'usher.token';
  const tick = 2000; // ms between requests while there is no event stream
  const pause = 500; // ms between two requests at least
  const slow = 5000; // ms: times and bytes change without an event
  const silence = 40000; // ms without a byte of the event stream
  const $ = (id) => document.getElementById(id);

  const token = {
    get: () => sessionStorage.getItem(key) || '',
    set: (v) => v ? sessionStorage.setItem(key, v) : sessionStorage.removeItem(key),
  };

  // ask sends a request to this server, with the token if there is one.
  async function ask(path, options = {}) {
    const headers = { ...options.headers };
    if (token.get()) headers.Authorization = 'Bearer ' + token.get();
    return fetch(path, { cache: 'no-store', credentials: 'omit', redirect: 'error', ...options, headers });
  }

  // ---- what has changed is put in place

  const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || '') === (b.id || '');

  // morph makes node like wanted. Nodes stay what they are, and with them the focus, a
  // selection, what is typed and what is open.
  function morph(node, wanted) {
    if (node.nodeType !== Node.ELEMENT_NODE) {
      if (node.data !== wanted.data) node.data = wanted.data;
      return;
    }
    if (node.hasAttribute('data-keep') || node.isEqualNode(wanted)) return;
    for (const { name } of [...node.attributes]) {
      if (!wanted.hasAttribute(name) && !(node.nodeName === 'DETAILS' && name === 'open')) node.removeAttribute(name);
    }
    for (const { name, value } of wanted.attributes) {
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    if (node.nodeName === 'INPUT') return;
    // What is gone goes first, so that the rest need not move: a rule that is moved closes.
    const stays = new Set([...wanted.children].map((c) => c.id));
    for (const c of [...node.children]) if (c.id && !stays.has(c.id)) c.remove();
    const byID = new Map([...node.children].filter((c) => c.id).map((c) => [c.id, c]));
    let at = node.firstChild;
    for (const next of [...wanted.childNodes]) {
      let found = next.id ? byID.get(next.id) : at;
      if (found && same(found, next)) {
        if (found !== at) node.insertBefore(found, at); else at = at.nextSibling;
        morph(found, next);
        continue;
      }
      const made = document.importNode(next, true);
      if (made.nodeName === 'TR') made.classList.add('fresh');
      node.insertBefore(made, at);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function show(text) {
    const page = new DOMParser().parseFromString(text, 'text/html');
    const script = (d) => d.querySelector('script[src]')?.getAttribute('src');
    if (!page.body || !script(page)) throw new Error('the answer is no status page');
    if (script(page) !== script(document)) { // another version of Usher answers
      location.reload();
      return;
    }
    const focused = document.activeElement;
    const within = focused?.closest('section[tabindex]');
    document.title = page.title;
    morph(document.body, page.body);
    if (within && focused && !focused.isConnected) within.focus({ preventScroll: true });
  }

  // ---- requests for the page, one at a time

  let running = false, again = false, last = 0, timer = 0, answered = 0;

  // refresh asks for the page, soon. It is not asked for more often than pause allows.
  function refresh() {
    if (document.hidden) return;
    if (running) {
      again = true;
      return;
    }
    clearTimeout(timer);
    timer = setTimeout(load, Math.max(0, last + pause - Date.now()));
  }

  async function load() {
    running = true;
    again = false;
    const from = location.href;
    try {
      const answer = await ask(from, { headers: { Accept: 'text/html' }, signal: AbortSignal.timeout(10000) });
      if (answer.status === 401) {
        if (document.body.hasAttribute('data-locked')) return locked();
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error('HTTP status ' + answer.status);
      const text = await answer.text();
      if (from === location.href) show(text);
      answered = Date.now();
      connected();
    } catch {
      lost();
    } finally {
      running = false;
      last = Date.now();
      if (again) refresh();
    }
  }

  // ---- the state of the connection

  let streaming = false, wasLost = false;
  const clock = () => new Date(answered || Date.now()).toLocaleTimeString([], { hour12: false });

  function state(name, text) {
    const link = $('link');
    if (!link) return;
    if (link.className !== 'link ' + name) link.className = 'link ' + name;
    if ($('link-text').textContent !== text) $('link-text').textContent = text;
  }

  function connected() {
    wasLost = false;
    const from = document.body.dataset.replica;
    if (streaming) state('live', 'Live from ' + from);
    else state('polling', 'Every ' + tick / 1000 + ' s from ' + from);
    if ($('lost')) $('lost').hidden = true;
  }

  function lost() {
    if (!answered) answered = performance.timeOrigin;
    state('gone', 'No answer since ' + clock());
    const banner = $('lost');
    if (!banner || wasLost) return;
    wasLost = true;
    banner.textContent = 'This replica does not answer. What you see is from ' + clock() + '; the page asks again until it does.';
    banner.hidden = false;
  }

  // ---- the event stream

  let stream = null, wait = 1000;

  async function listen() {
    if (stream || document.hidden) return;
    stream = new AbortController();
    const own = stream;
    let watch = 0;
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(() => own.abort(), silence);
    };
    try {
      alive();
      const answer = await ask('/api/v1/events', { headers: { Accept: 'text/event-stream' }, signal: own.signal });
      if (!answer.ok || !answer.body) throw new Error('no events');
      streaming = true;
      wait = 1000;
      refresh(); // for what has changed while there was no stream
      await read(answer.body.getReader(), alive);
    } catch { /* it is opened again */ }
    clearTimeout(watch);
    own.abort();
    if (stream === own) stream = null;
    streaming = false;
    if (document.hidden) return;
    refresh();
    setTimeout(listen, wait);
    wait = Math.min(wait * 2, 15000);
  }

  // read calls refresh for each event. Lines that begin with a colon only say that the
  // stream is there.
  async function read(reader, alive) {
    const decoder = new TextDecoder();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
      rest = lines.pop().slice(-65536);
      if (lines.some((line) => line.startsWith('data:'))) refresh();
    }
  }

  // ---- links and searches stay on the page

  const pageHere = () => location.pathname + location.search;
  let pageShown = pageHere(); // what the address asks for, without the place within it

  function go(address) {
    const to = new URL(address, location.href);
    history.pushState(null, '', to);
    pageShown = pageHere();
    last = 0;
    refresh();
    const section = to.hash && document.querySelector(to.hash);
    if (section) {
      section.focus({ preventScroll: true });
      section.scrollIntoView({ block: 'start' });
    }
  }

  document.addEventListener('click', (e) => {
    const link = e.target.closest('a[data-stay]');
    if (link && !e.metaKey && !e.ctrlKey && !e.shiftKey && e.button === 0) {
      e.preventDefault();
      go(link.href);
    }
    const button = e.target.closest('[data-end], [data-drain], [data-undrain]');
    if (button) askTo(deedOf(button));
    if (e.target.closest('#token')) askForToken();
  });

  document.addEventListener('submit', (e) => {
    if (e.target.id === 'unlock') return unlock(e);
    if (e.target.id === 'ask-form') return answerAsk(e);
    if (!e.target.matches('form.find')) return;
    e.preventDefault();
    search(e.target, true);
  });

  let typing = 0;
  document.addEventListener('input', (e) => {
    const form = e.target.closest('form.find');
    if (!form) return;
    clearTimeout(typing);
    typing = setTimeout(() => search(form, false), 250);
  });

  // search keeps the focus where it is: people go on typing.
  function search(form, pushed) {
    const to = new URL('/', location.href);
    for (const [name, value] of new FormData(form)) if (value) to.searchParams.set(name, value);
    history[pushed ? 'pushState' : 'replaceState'](null, '', to);
    pageShown = pageHere();
    last = 0;
    refresh();
  }

  // Back and forward. A link to a place within the page is heard here, too.
  window.addEventListener('popstate', () => {
    if (pageHere() !== pageShown) location.reload();
  });

  // ---- writing

  let asked = null; // the deed that the dialog is about; null: the token itself

  // deedOf returns what a button does: the request, and the words of the dialog.
  function deedOf({ dataset }) {
    if (dataset.end) {
      return {
        path: 'sessions/' + encodeURIComponent(dataset.end) + '/end', danger: true,
        title: 'End this session?', what: dataset.what, button: 'End session', done: 'The session was ended.',
      };
    }
    const name = dataset.drain || dataset.undrain;
    const replica = '?replica=' + encodeURIComponent(name);
    if (dataset.undrain) {
      return {
        path: 'undrain' + replica,
        title: 'Undrain ' + name + '?', what: 'It takes new sessions again.', button: 'Undrain', done: name + ' takes new sessions again.',
      };
    }
    const last = 'last' in dataset ? 'No other replica takes new sessions: all new clients would be refused. ' : '';
    return {
      path: 'drain' + replica, danger: true,
      title: 'Drain ' + name + '?', what: last + 'It takes no new sessions until Undrain. Its running sessions go on.', button: 'Drain',
      done: name + ' takes no new sessions.',
    };
  }

  function open(title, what, button, danger, withToken) {
    $('ask-title').textContent = title;
    $('ask-what').textContent = what;
    $('ask-yes').textContent = button;
    $('ask-yes').className = danger ? 'danger' : 'main';
    $('ask-yes').disabled = false;
    $('ask-token').hidden = !withToken;
    $('ask-secret').value = '';
    $('ask-error').textContent = '';
    $('ask').showModal();
    (withToken ? $('ask-secret') : $('ask-no')).focus();
  }

  function askTo(deed) {
    asked = deed;
    open(deed.title, deed.what, deed.button, deed.danger, !token.get());
  }

  function askForToken() {
    asked = null;
    open('Admin token', token.get() ? 'This tab has a token. Give another one, or none to forget it.' : 'It is needed to end sessions and drain replicas.', 'Keep', false, true);
  }

  document.addEventListener('click', (e) => {
    if (e.target.id === 'ask-no') $('ask').close();
  });

  async function answerAsk(e) {
    e.preventDefault();
    const typed = $('ask-secret').value.trim();
    if (!asked) {
      token.set(typed);
      $('ask').close();
      return say(typed ? 'This tab keeps the token.' : 'This tab has no token.');
    }
    if (typed) token.set(typed);
    if (!token.get()) {
      $('ask-error').textContent = 'This needs the token.';
      return $('ask-secret').focus();
    }
    $('ask-yes').disabled = true;
    const failure = await change(asked.path);
    $('ask-yes').disabled = false;
    if (failure) {
      $('ask-error').textContent = failure;
      return;
    }
    $('ask').close();
    say(asked.done);
    last = 0;
    refresh();
  }

  // change sends a request to the API that changes something. It returns what went wrong,
  // '' if nothing did.
  async function change(path) {
    try {
      const answer = await ask('/api/v1/' + path, { method: 'POST', signal: AbortSignal.timeout(10000) });
      if (answer.ok) return '';
      if (answer.status === 401 || answer.status === 403) {
        token.set('');
        $('ask-token').hidden = false;
        $('ask-secret').value = '';
        $('ask-secret').focus();
      }
      const body = await answer.json().catch(() => ({}));
      const sentence = [body.error || 'HTTP status ' + answer.status, body.remedy].filter(Boolean).join('; ');
      return sentence[0].toUpperCase() + sentence.slice(1) + '.';
    } catch {
      return 'This replica does not answer.';
    }
  }

  function say(text) {
    $('done').textContent = text;
    setTimeout(() => { $('done').textContent = ''; }, 5000);
  }

  // ---- the page of a listener that tells nothing without the token

  function unlock(e) {
    e.preventDefault();
    token.set($('unlock-secret').value.trim());
    $('unlock-error').textContent = '';
    last = 0;
    start();
  }

  function locked() {
    if (token.get()) $('unlock-error').textContent = 'The token is not accepted.';
    token.set('');
    $('unlock-secret').value = '';
    $('unlock-secret').focus();
  }

  // ----

  function start() {
    if (document.body.hasAttribute('data-locked')) {
      if (token.get()) unlockNow();
      return;
    }
    listen();
  }

  // unlockNow asks for the page with the token, and puts it in the place of the form.
  async function unlockNow() {
    try {
      const answer = await ask(location.href, { headers: { Accept: 'text/html' }, signal: AbortSignal.timeout(10000) });
      if (answer.status === 401) return locked();
      const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
      document.title = page.title;
      document.body.replaceWith(document.importNode(page.body, true));
      answered = Date.now();
      listen();
    } catch {
      $('unlock-error').textContent = 'This replica does not answer.';
    }
  }

  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      stream?.abort();
      return;
    }
    refresh();
    start();
  });

  setInterval(() => {
    if (document.body.hasAttribute('data-locked')) return;
    if (!streaming || Date.now() - last > slow) refresh();
  }, tick);
  start();
})();
