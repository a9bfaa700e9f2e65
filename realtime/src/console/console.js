// The page: what its fields and buttons do, and what it shows of the client. Nothing here is loaded from elsewhere, and the
// token is kept in this variable of this tab and nowhere else.

import { Client, meaning } from './client.js';
import { Frames } from './frames.js';
import { parsed, pretty } from './json.js';
import { channelNames, decode, faults, lifetime, span } from './token.js';

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];

/** Latencies of which the smallest, the middle and the largest are shown. */
const LATENCIES = 100;

const PING_EVERY = 5_000;

const serverOfThisPage = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1`;

let client = null;
let token = null;                   // as decoded
let latencies = [];
let pingTimer = 0;
let heartbeatTimer = 0;

// ---- telling -----------------------------------------------------------------------------------------------------

function say(text) {
  $('announcer').textContent = text;
}

/** Shows a sentence in one of the page's notices, or hides it. */
function note(id, text, bad = false) {
  $(id).hidden = text === '';
  $(id).textContent = text;
  $(id).classList.toggle('bad', bad);
}

function outcome(text, bad = false) {
  note('outcome', text, bad);
  if (text) say(text);
}

function facts(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value, code]) => {
    const [term, description] = [document.createElement('dt'), document.createElement('dd')];
    term.textContent = name;
    if (code) {
      const text = document.createElement('code');
      text.textContent = value;
      description.append(text);
    } else {
      description.textContent = value;
    }
    return [term, description];
  }));
}

const frames = new Frames($('list'), {
  say,
  changed({ sent, received, shown, kept, waiting }) {
    const left = kept < sent + received ? `, the newest ${kept.toLocaleString()} kept` : '';
    const held = frames.paused && waiting > 0 ? `, ${waiting.toLocaleString()} held` : '';
    const of = shown + waiting < kept ? `, ${shown.toLocaleString()} shown` : '';
    $('counts').textContent = `${sent.toLocaleString()} sent, ${received.toLocaleString()} received${of}${held}${left}`;
    $('nav-count').textContent = sent + received > 0 ? `(${(sent + received).toLocaleString()})` : '';
    $('empty').hidden = kept > 0;
  },
});

// ---- the connection ----------------------------------------------------------------------------------------------

const STATES = {
  idle: 'not connected', connecting: 'connecting', connected: 'connected', waiting: 'waiting to reconnect',
  suspended: 'suspended', refused: 'refused', ended: 'terminated',
};

function showState() {
  const { state, why, attempts, connection } = client;
  $('status').dataset.state = state;
  const who = connection?.uid ? ` as ${connection.uid}` : '';
  $('status-text').textContent = STATES[state] + who;
  note('why', why, state === 'refused');
  const found = ['refused', 'waiting'].includes(state) && token ? faults(token, Date.now()) : [];
  if (state === 'refused' && token && found.length === 0 && !client.wasConnected) {
    found.push('Nothing in the token itself looks wrong: is it signed with a key of this server, meant for it (aud, iss), and not spent? The server’s log says why, at level WARN.');
  }
  showFaults(found);
  $('suspend').disabled = !['connected', 'connecting', 'waiting'].includes(state);
  $('resume').disabled = !['suspended', 'waiting'].includes(state);
  $('terminate').disabled = ['idle', 'ended', 'refused'].includes(state);
  if (state !== 'connected') $('latency').textContent = '';
  say([STATES[state] + who, why, ...found].filter(Boolean).join('. '));
  showFacts(attempts);
}

function showFaults(found) {
  $('faults').hidden = found.length === 0;
  $('faults').replaceChildren(...found.map((text) => Object.assign(document.createElement('li'), { textContent: text })));
}

/** What is known of the connection; called every second, too, since some of it is about time. */
function showFacts() {
  if (token) {
    $('lifetime').textContent = lifetime(token.claims.value, Date.now());
  }
  if (!client) return;
  const { connection, attempts, lastClose } = client;
  const pairs = [];
  if (connection) {
    pairs.push(['Connection', connection.connectionId, true]);
    const expires = connection.connectionExpiresAt;
    pairs.push(['Ends', expires ? `in ${span((Date.parse(expires) - Date.now()) / 1000)} (${expires})` : 'never by age']);
  }
  if (attempts > 0) pairs.push(['Attempts', String(attempts)]);
  if (lastClose) {
    const { code, reason, at } = lastClose;
    pairs.push(['Last close', `${code}${reason ? ` “${reason}”` : ''}: ${meaning(code)} (${at.toLocaleTimeString()})`]);
  }
  facts($('facts'), pairs);
}

function showSubscriptions() {
  const { subscriptions } = client;
  $('subscriptions-part').hidden = subscriptions.size === 0;
  $('subscriptions').replaceChildren(...[...subscriptions].map(([name, { alias, uid, auto, members }]) => {
    const item = document.createElement('li');
    const pick = Object.assign(document.createElement('button'), { type: 'button', textContent: name, title: 'Use this channel in the actions' });
    pick.addEventListener('click', () => { $('channel').value = name; say(`Channel ${name}`); });
    const about = [alias && `alias ${alias}`, uid && `as ${uid}`, auto && 'automatic', members && `${members.length} here: ${members.map((it) => it.uid).join(', ')}`];
    const text = Object.assign(document.createElement('span'), { className: 'quiet', textContent: about.filter(Boolean).join('; ') });
    item.append(pick, text);
    return item;
  }));
  showChannels();
}

function showChannels() {
  const names = new Set([...(client?.subscriptions.keys() ?? []), ...(token ? channelNames(token.claims.value) : [])]);
  $('channels').replaceChildren(...[...names].map((value) => Object.assign(document.createElement('option'), { value })));
  if ($('channel').value === '' && names.size === 1) [$('channel').value] = names;
}

function showLatency(milliseconds) {
  latencies = [...latencies, milliseconds].slice(-LATENCIES);
  const sorted = latencies.toSorted((a, b) => a - b);
  const shown = (value) => `${value.toFixed(1)} ms`;
  $('latency').textContent = shown(milliseconds);
  facts($('latencies'), [
    ['Last', shown(milliseconds)], ['Smallest', shown(sorted[0])], ['Middle', shown(sorted[sorted.length >> 1])],
    ['Largest', shown(sorted.at(-1))], ['Of', `${latencies.length} ${latencies.length === 1 ? 'ping' : 'pings'}`],
  ]);
}

function connected() {
  latencies = [];
  // Once the page has drawn what there is: else its own work would be measured, too.
  (window.requestIdleCallback ?? window.setTimeout)(() => client.ping());
  if ($('token-form').contains(document.activeElement)) document.activeElement.blur();
}

function beat() {
  clearInterval(heartbeatTimer);
  const timeout = token?.claims.value.heartbeatTimeout;
  if (Number.isInteger(timeout) && $('heartbeats').checked && client?.state === 'connected') {
    heartbeatTimer = setInterval(() => client.send({ event: 'hotsock.heartbeat' }), timeout * 900);
  }
}

function listen() {
  client.addEventListener('state', ({ detail: { state } }) => {
    showState();
    beat();
    if (state === 'connected') connected();
  });
  client.addEventListener('frame', ({ detail }) => frames.add(detail));
  client.addEventListener('latency', ({ detail: { milliseconds } }) => showLatency(milliseconds));
  client.addEventListener('changed', showSubscriptions);
}

/** Shows what a token says; whether it is one. */
function takeToken() {
  const text = $('token').value;
  token = null;
  for (const id of ['claims-part', 'faults', 'why']) $(id).hidden = true;
  if (text.trim() === '') return false;
  try {
    token = decode(text);
  } catch (error) {
    note('why', `This is no token: ${error.message}.`, true);
    say($('why').textContent);
    return false;
  }
  $('claims').replaceChildren(pretty(token.claims.json));
  $('token-header').replaceChildren(pretty(token.header.json));
  $('claims-part').hidden = false;
  showFacts();
  showChannels();
  return true;
}

function connect() {
  if (!takeToken()) return;
  if (!client) return;
  client.reconnects = $('reconnects').checked;
  client.connect(token.token, { once: token.claims.value.singleUse === true });
}

// ---- where to connect --------------------------------------------------------------------------------------------

/** Is this another server than the one that this page comes from? Links can say so, and tokens are worth stealing. */
let foreign = false;

function takeServer() {
  const given = new URLSearchParams(location.search).get('wssUrl');
  $('server').value = given ?? serverOfThisPage;
  try {
    const url = new URL($('server').value);
    if (!['ws:', 'wss:'].includes(url.protocol)) throw new Error('it begins neither with wss:// nor with ws://');
    foreign = url.host !== location.host;
    client = new Client(url.href);
    if (foreign) note('foreign', `Tokens go to ${url.host}, which is not the server of this page. Connect only if you trust it.`);
  } catch (error) {
    note('foreign', `This address is of no use: ${error.message}.`, true);
    return;
  }
  listen();
  showState();
}

$('server-form').addEventListener('submit', (event) => {
  event.preventDefault();
  // The page's policy names the one server that it may talk with, so another one needs another page.
  const search = new URLSearchParams({ wssUrl: $('server').value });
  location.assign(`${location.pathname}?${search}`);
});

$('token').addEventListener('paste', () => setTimeout(() => {
  // Of a link with a server of its own, the token is only sent when somebody says so.
  if (foreign) takeToken(); else connect();
}));
$('token').addEventListener('input', takeToken);
$('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  connect();
});
$('suspend').addEventListener('click', () => client?.suspend());
$('resume').addEventListener('click', () => (client?.state === 'waiting' ? client.hurry() : client?.resume()));
$('terminate').addEventListener('click', () => client?.terminate());
$('reconnects').addEventListener('change', ({ target }) => { if (client) client.reconnects = target.checked; });

// ---- actions -----------------------------------------------------------------------------------------------------

/** The text of a JSON field, made compact but otherwise as it was typed; undefined if it is blank. */
function json(id) {
  const text = $(id).value.trim();
  if (text === '') return undefined;
  try {
    JSON.parse(text);
  } catch (error) {
    $(id).focus();
    throw new Error(`${$(id).labels[0].textContent.split(',')[0]} is not JSON: ${error.message}. A text needs quotes around it.`);
  }
  return text;
}

/** A message with members whose JSON is put in as it was typed, so that no digit of a number changes. */
function message(members, raw = {}) {
  const put = (name, text) => `${JSON.stringify(name)}:${text}`;
  const known = Object.entries(members).filter(([, value]) => value !== undefined && value !== '');
  const typed = Object.entries(raw).filter(([, text]) => text !== undefined);
  return `{${[...known.map(([name, value]) => put(name, JSON.stringify(value))), ...typed.map(([name, text]) => put(name, text))].join(',')}}`;
}

function required(id, what) {
  const value = $(id).value.trim();
  if (value !== '') return value;
  $(id).focus();
  throw new Error(`${what} is missing.`);
}

const channel = () => required('channel', 'A channel');
const tokenOf = (id) => $(id).value.replace(/\s+/g, '');
const post = (name, body) => client.request('POST', `connection/${name}`, body, true);

const publication = () => message({
  channel: channel(), event: required('event', 'An event'), scheduleExpression: $('schedule').value.trim(),
  scheduleExpressionTimezone: $('timezone').value.trim(), eagerIdGeneration: $('eager').checked || undefined,
}, { data: json('data') });

const storageWrite = (event) => message({ event, channel: channel(), key: required('key', 'A key') }, { data: json('value') });

function reaction(action) {
  return {
    channel: channel(), event: 'hotsock.messageReaction',
    data: { messageId: required('message-id', 'A message id'), reaction: required('reaction', 'A reaction'), action },
  };
}

let historyNext = null;

async function history(cursor) {
  const reverse = $('reverse').checked;
  const ask = { channel: channel(), reverse, expandReactions: $('expand').checked };
  if (cursor) ask[reverse ? 'before' : 'after'] = cursor;
  const answer = await client.call('listMessages', ask);
  if (!answer) return false;
  $('history').replaceChildren(...answer.messages.map(historyRow));
  historyNext = answer.messages.at(-1)?.id ?? null;
  $('history-next').disabled = answer.messages.length < 100;
  const { length } = answer.messages;
  outcome(`${length} ${length === 1 ? 'message' : 'messages'}${length === 100 ? ', and perhaps more' : ''}`);
  return true;
}

function historyRow({ id, event, data, meta, reactions }) {
  const item = document.createElement('li');
  const head = document.createElement('span');
  const at = new Date([...id.slice(0, 10)].reduce((ms, letter) => ms * 32 + '0123456789ABCDEFGHJKMNPQRSTVWXYZ'.indexOf(letter), 0));
  const counts = Object.entries(reactions ?? {}).map(([value, { count }]) => `${value} ${count}`).join(' ');
  head.textContent = [event, meta?.uid ?? 'server', at.toLocaleString(), counts].filter(Boolean).join(' · ');
  const react = Object.assign(document.createElement('button'), { type: 'button', textContent: 'React', title: id });
  react.addEventListener('click', () => {
    $('message-id').value = id;
    openTab('reactions', true);
  });
  const body = document.createElement('pre');
  body.append(pretty(JSON.stringify(data)));
  item.append(head, react, body);
  return item;
}

const ACTIONS = {
  subscribe: () => client.subscribe(channel(), tokenOf('subscribe-token')),
  unsubscribe: () => client.unsubscribe(channel()),
  info: () => client.call('getChannelInfo', { channel: channel() }),
  publish: () => client.sendText(publication()),
  'publish-http': () => post('publishMessage', publication()),
  'storage-get': () => client.send({ event: 'hotsock.channelStorageGet', channel: channel(), key: required('key', 'A key') }),
  'storage-set': () => client.sendText(storageWrite('hotsock.channelStorageSet')),
  'storage-get-http': () => client.call('channelStorageGet', { channel: channel(), key: required('key', 'A key') }),
  'storage-set-http': () => post('channelStorageSet', storageWrite()),
  'storage-list': () => client.call('channelStorageList', { channel: channel() }),
  umd: () => client.send({ event: 'hotsock.umdUpdate', channel: $('channel').value.trim() || undefined, data: { token: tokenOf('umd-token') } }),
  'umd-http': () => client.call('umdUpdate', { channel: $('channel').value.trim() || undefined, token: tokenOf('umd-token') }),
  'react-add': () => client.send(reaction('add')),
  'react-remove': () => client.send(reaction('remove')),
  'react-add-http': () => client.call('publishMessage', reaction('add')),
  'react-remove-http': () => client.call('publishMessage', reaction('remove')),
  reactions: () => client.call('listReactions', { channel: channel(), messageId: required('message-id', 'A message id') }),
  history: () => history($('cursor').value.trim()),
  'history-next': () => history(historyNext),
  ping: () => client.ping(),
  heartbeat: () => client.send({ event: 'hotsock.heartbeat' }),
  raw: () => client.sendText($('raw').value),
  'raw-http': () => client.request($('raw-method').value, required('raw-path', 'A path'), $('raw-body').value, $('raw-credentials').checked),
};

for (const form of all('#actions form')) {
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    outcome('');
    if (client?.state !== 'connected') {
      outcome('There is no connection: nothing was sent.', true);
      return;
    }
    try {
      const done = await ACTIONS[event.submitter?.value ?? form.querySelector('button.main').value]();
      if (done === false || done === null) outcome('It did not work: the messages say why.', true);
    } catch (error) {
      outcome(error.message, true);
    }
  });
}
$('pings').addEventListener('change', ({ target }) => {
  clearInterval(pingTimer);
  if (target.checked) pingTimer = setInterval(() => client?.ping(), PING_EVERY);
});
$('heartbeats').addEventListener('change', beat);
// A page that was turned is not the next page of another question.
for (const id of ['reverse', 'expand', 'channel', 'cursor']) $(id).addEventListener('input', () => { $('history-next').disabled = true; });

// ---- tabs, parts, theme, keys ------------------------------------------------------------------------------------

const tabs = all('[role=tab]');

function openTab(name, focus = false) {
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.ariaSelected = String(chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute('aria-controls')).hidden = !chosen;
  }
  if (focus) {
    openPart('actions');
    $(`panel-${name}`).querySelector('input, textarea, button').focus();
  }
}

for (const tab of tabs) {
  tab.addEventListener('click', () => openTab(tab.id.slice(4)));
  tab.addEventListener('keydown', ({ key }) => {
    const at = tabs.indexOf(tab);
    const to = { ArrowRight: tabs[(at + 1) % tabs.length], ArrowLeft: tabs.at(at - 1), Home: tabs[0], End: tabs.at(-1) }[key];
    if (!to) return;
    openTab(to.id.slice(4));
    to.focus();
  });
}

/** On a phone one part is seen at a time. */
function openPart(name) {
  document.body.dataset.pane = name;
  for (const button of all('nav button')) button.ariaPressed = String(button.dataset.pane === name);
  if (name === 'frames') frames.follow();
}

for (const button of all('nav button')) button.addEventListener('click', () => openPart(button.dataset.pane));

const THEMES = ['system', 'light', 'dark'];

function setTheme(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = theme;
  $('theme-name').textContent = theme;
  $('theme').ariaLabel = `Theme: ${theme}`;
}

$('theme').addEventListener('click', () => {
  const now = document.documentElement.dataset.theme ?? 'system';
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  setTheme(next);
  try {
    localStorage.setItem('theme', next);
  } catch { /* it is remembered where the browser lets it be */ }
});

$('filter').addEventListener('input', ({ target }) => frames.show({ filter: target.value }));
for (const button of all('[data-direction]')) {
  button.addEventListener('click', () => {
    for (const other of all('[data-direction]')) other.ariaPressed = String(other === button);
    frames.show({ direction: button.dataset.direction });
  });
}
$('pause').addEventListener('click', ({ target }) => {
  frames.pause(!frames.paused);
  target.ariaPressed = String(frames.paused);
  target.textContent = frames.paused ? 'Go on' : 'Pause';
});
$('copy').addEventListener('click', () => frames.copy(frames.text(), 'Messages'));
$('clear').addEventListener('click', () => { frames.clear(); say('Cleared'); });
$('secrets').addEventListener('change', ({ target }) => { frames.secrets = target.checked; frames.redraw(); });
$('help-button').addEventListener('click', () => $('help').showModal());

function into(part, id) {
  openPart(part);
  $(id).focus();
}

const KEYS = {
  '?': () => $('help').showModal(),
  t: () => into('connection', 'token'),
  n: () => into('actions', 'channel'),
  s: () => openTab('subscribe', true),
  p: () => openTab('publish', true),
  o: () => openTab('storage', true),
  m: () => openTab('metadata', true),
  r: () => openTab('reactions', true),
  h: () => openTab('history', true),
  l: () => openTab('live', true),
  w: () => openTab('raw', true),
  g: () => client?.ping(),
  '/': () => into('frames', 'filter'),
  j: () => { openPart('frames'); [...$('list').children].findLast((row) => !row.hidden)?.focus(); },
  b: () => $('pause').click(),
  x: () => $('clear').click(),
};

document.addEventListener('keydown', (event) => {
  const { target, key } = event;
  const writes = target.matches('textarea, select, input:not([type=checkbox])');
  if (writes && key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    target.form?.requestSubmit();
  } else if (writes && key === 'Escape') {
    target.blur();
  } else if (!writes && $('keys').checked && !$('help').open && !(event.ctrlKey || event.metaKey || event.altKey) && key in KEYS) {
    event.preventDefault();
    KEYS[key]();
  }
});

// ---- beginning ---------------------------------------------------------------------------------------------------

try {
  const theme = localStorage.getItem('theme');
  if (THEMES.includes(theme)) setTheme(theme);
} catch { /* where nothing may be kept, nothing was */ }
openTab('subscribe');
takeServer();
setInterval(showFacts, 1_000);

// A token in the fragment reaches no server and no log; it is taken out of the address at once.
const handed = new URLSearchParams(location.hash.slice(1)).get('token');
if (location.hash) window.history.replaceState(null, '', location.pathname + location.search);
if (handed) {
  $('token').value = handed;
  if (foreign) takeToken(); else connect();
}

