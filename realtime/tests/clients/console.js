// A real browser at work with the web console: with mouse, keyboard and a phone's screen; with tokens that are good and
// tokens that are not. Takes pictures on the way. Ends with status 0 when every promise was kept.
//
// Prints `restart` when the server is to be replaced by another one at the same address.
//
// Argument: a folder for screenshots. Variables: REALTIME_URL, REALTIME_SECRET, CHROMIUM, and TOKEN, TOKEN_EXPIRED,
// TOKEN_FORGED, TOKEN_UMD.
'use strict';

const assert = require('node:assert/strict');
const { createHmac } = require('node:crypto');
const WebSocket = require('ws');
const { inBrowser } = require('./browser.js');

const [screenshots] = process.argv.slice(2);
const { REALTIME_URL, REALTIME_SECRET, TOKEN, TOKEN_EXPIRED, TOKEN_FORGED, TOKEN_UMD } = process.env;
const HTTP = REALTIME_URL.replace(/^ws/, 'http').replace(/\/v1$/, '');
const { port } = new URL(HTTP);

/** Frames of a flood: more than the page keeps. */
const FLOOD = 5_000;
const KEPT = 2_000;

const id = (name) => `document.getElementById(${JSON.stringify(name)})`;
const state = `${id('status')}?.dataset.state`;
const active = 'document.activeElement.id';
const rows = 'Array.from(document.querySelectorAll("#list > li"))';
const shown = `${rows}.filter((it) => !it.hidden)`;
const titles = `${shown}.map((it) => it.querySelector(".title").textContent)`;
const row = (title) => `${rows}.findLast((it) => it.querySelector(".title").textContent === ${JSON.stringify(title)})`;

async function press(tab, name) {
  await tab.evaluate(`${id(name)}.click()`);
}

async function fill(tab, name, text) {
  await tab.evaluate(`${id(name)}.focus(); ${id(name)}.select()`);
  assert.equal(await tab.evaluate(active), name, 'a field that can be reached');
  await tab.press('Backspace');
  if (text !== '') await tab.type(text);
}

const act = (tab, value) => tab.evaluate(`document.querySelector('#actions button[value="${value}"]').click()`);

async function open(browser, query = '', fragment = '') {
  const tab = await browser.tab();
  await tab.size(1440, 900);
  await tab.scheme('light');
  await tab.open(`${HTTP}/console${query}${fragment}`);
  await tab.until('the page is ready', `document.readyState === "complete" && ${state} !== undefined && ${id('server')}.value !== ""`);
  return tab;
}

/** What every tab must keep to: nothing goes wrong, nothing comes from elsewhere, and the token stays in the tab. */
async function isClean(tab, { errors = [] } = {}) {
  assert.deepEqual(tab.complaints.exceptions, []);
  assert.deepEqual(tab.complaints.errors.filter((it) => !errors.some((known) => known.test(it))), []);
  const hosts = new Set(tab.complaints.requests.filter((it) => !it.startsWith('data:')).map((it) => new URL(it).host));
  assert.deepEqual([...hosts].filter((it) => ![`127.0.0.1:${port}`, `localhost:${port}`].includes(it)), [], 'only the server is asked');
  const kept = await tab.evaluate('JSON.stringify([location.href, document.referrer, document.title, { ...localStorage }, { ...sessionStorage }, document.cookie])');
  for (const token of [TOKEN, TOKEN_EXPIRED, TOKEN_FORGED]) assert.ok(!kept.includes(token), 'the token stands where others may find it');
}

/** Nothing has to be scrolled sideways, in any part of the page. */
async function fits(tab, what) {
  const wide = await tab.evaluate(`(() => {
    const found = [];
    if (document.documentElement.scrollWidth > innerWidth) found.push('page ' + document.documentElement.scrollWidth);
    for (const it of document.querySelectorAll('body *')) {
      const { right, left, width } = it.getBoundingClientRect();
      if (width > 1 && (right > innerWidth + 1 || left < -1)) found.push(it.tagName + '#' + it.id + '.' + it.className + ' ' + Math.round(left) + '–' + Math.round(right));
    }
    return found;
  })()`);
  assert.deepEqual(wide, [], `${what} does not fit into its window`);
}

function token(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp: Math.floor(Date.now() / 1000) + 600, scope: 'connect', ...claims })}`;
  return `${text}.${createHmac('sha256', Buffer.from(REALTIME_SECRET, 'base64')).update(text).digest('base64url')}`;
}

/** Somebody else, who may send anything to the room. */
async function other() {
  const socket = new WebSocket(`${REALTIME_URL}?token=${token({ uid: 'ben', channels: { 'room.8': { messages: { '*': { broadcast: true }, kept: { store: 60 } } } } })}`);
  await new Promise((resolve, reject) => { socket.on('open', resolve); socket.on('error', reject); });
  return socket;
}

const scenes = {
  // R-CONS-3, R-CONS-4, R-CONS-5, R-JSON-9
  async 'a token in the fragment connects at once, and is taken out of the address'(browser) {
    const tab = await open(browser, '', `#token=${TOKEN}`);
    await tab.until('it is connected', `${state} === "connected"`);
    assert.equal(await tab.evaluate('location.href'), `${HTTP}/console`);
    assert.equal(await tab.evaluate(`${id('status-text')}.textContent`), 'connected as ana');
    const claims = await tab.evaluate(`${id('claims')}.textContent`);
    assert.ok(claims.includes('"uid": "ana"') && claims.includes('9007199254740993'), claims);
    assert.ok((await tab.evaluate(`${id('token-header')}.textContent`)).includes('"HS256"'));
    assert.match(await tab.evaluate(`${id('lifetime')}.textContent`), /^expires in \d+ min \d+ s$/);
    await tab.until('the latency of the first ping', `/^\\d+\\.\\d ms$/.test(${id('latency')}.textContent)`);

    await fill(tab, 'channel', 'room.8');
    await act(tab, 'subscribe');
    await tab.until('the subscription', `${row('hotsock.subscribed')} && ${id('subscriptions')}.textContent.includes("room.8")`);
    await press(tab, 'tab-publish');
    await fill(tab, 'event', 'chat');
    await fill(tab, 'data', '{"text": "Grüße <b>Ben</b>, 世界", "n": 9007199254740993, "none": []}');
    await act(tab, 'publish');
    await tab.until('its own message comes back', `${row('chat')}?.classList.contains("received")`);
    const received = await tab.evaluate(`${row('chat')}.querySelector("pre").textContent`);
    assert.ok(received.includes('"n": 9007199254740993') && received.includes('<b>Ben</b>'), received);
    assert.equal(await tab.evaluate(`${row('chat')}.querySelectorAll(".json-key").length`), 12);
    assert.match(await tab.evaluate(`${row('chat')}.querySelector(".time").textContent`), /^\d\d:\d\d:\d\d\.\d{3}$/);
    assert.ok((await tab.evaluate(`${rows}.find((it) => it.classList.contains("sent") && it.textContent.includes("Grüße")).textContent`)).includes('Sent'));

    await fill(tab, 'channel', 'den');
    await act(tab, 'subscribe');
    await tab.until('the alias', `${id('subscriptions')}.textContent.includes("presence.denalias den; as ana; 1 here: ana")`);
    await fill(tab, 'channel', 'presence.den');
    await press(tab, 'tab-metadata');
    await fill(tab, 'umd-token', TOKEN_UMD);
    await act(tab, 'umd');
    await tab.until('the metadata', `${row('hotsock.memberUpdated')}?.textContent.includes("busy")`);
    assert.ok(!(await tab.evaluate(`${id('list')}.textContent`)).includes(TOKEN_UMD), 'tokens in messages are hidden');
    await press(tab, 'secrets');
    await tab.until('or shown', `${id('list')}.textContent.includes(${JSON.stringify(TOKEN_UMD)})`);
    await press(tab, 'secrets');
    await tab.until('and hidden again', `!${id('list')}.textContent.includes(${JSON.stringify(TOKEN_UMD)})`);

    // An error is told where it happens, and what is no JSON is not sent.
    await fill(tab, 'channel', 'elsewhere');
    await press(tab, 'tab-subscribe');
    await act(tab, 'subscribe');
    await tab.until('the refusal', `${row('hotsock.error')}?.classList.contains("failed") && ${row('hotsock.error')}.textContent.includes("SUBSCRIBE_PERMISSION_DENIED")`);
    await fill(tab, 'channel', 'room.8');
    await press(tab, 'tab-publish');
    await fill(tab, 'data', 'Hello');
    await act(tab, 'publish');
    await tab.until('what is wrong with it', `${id('outcome')}.textContent.startsWith("Data is not JSON")`);
    await fill(tab, 'data', '{"text":"Hello"}');
    await press(tab, 'tab-raw');
    await fill(tab, 'raw', '{"event":"hotsock.heartbeat"}');
    await act(tab, 'raw');
    await tab.until('the raw frame', `${row('hotsock.heartbeat')}?.classList.contains("sent")`);
    await press(tab, 'tab-publish');
    await tab.until('the end of the list stays in view', `${id('list')}.scrollHeight - ${id('list')}.scrollTop - ${id('list')}.clientHeight < 2`);
    await tab.until('everything is drawn', `${id('counts')}.textContent.match(/^\\d+ sent, \\d+ received$/)`);
    await tab.screenshot('desktop-light.png');
    await fits(tab, 'the desktop');
    await tab.scheme('dark');
    await tab.screenshot('desktop-dark.png');
    await tab.size(1000, 760);
    await fits(tab, 'a smaller window');
    await tab.screenshot('laptop-dark.png');
    await isClean(tab);
  },

  // R-CONS-5, R-LOG-4
  async 'storage, reactions, history, and calls over HTTP'(browser) {
    const tab = await open(browser, '', `#token=${TOKEN}`);
    await tab.until('it is connected', `${state} === "connected"`);
    await fill(tab, 'channel', 'room.8');
    await act(tab, 'subscribe');
    await tab.until('the subscription', row('hotsock.subscribed'));
    const says = (title, text) => `${row(title)}?.querySelector("pre").textContent.replace(/\\s/g, "").includes(${JSON.stringify(text)})`;

    await press(tab, 'tab-storage');
    await fill(tab, 'key', 'rules');
    await fill(tab, 'value', '{"seats": 9007199254740993}');
    await act(tab, 'storage-set');
    await tab.until('what was written', says('hotsock.channelStorageUpdated', '"seats":9007199254740993'));
    await act(tab, 'storage-get');
    await tab.until('what is read', says('hotsock.channelStorageData', '"seats":9007199254740993'));
    await act(tab, 'storage-get-http');
    await tab.until('the same over HTTP', says('200 POST /connection/channelStorageGet', '"seats":9007199254740993'));
    await act(tab, 'storage-list');
    await tab.until('the list', says('200 POST /connection/channelStorageList', '"key":"rules"'));
    await fill(tab, 'value', '');
    await act(tab, 'storage-set-http');
    await tab.until('it is cleared', `${row('202 POST /connection/channelStorageSet')} && ${says('hotsock.channelStorageUpdated', '"data":null')}`);

    await press(tab, 'tab-publish');
    await fill(tab, 'event', 'chat');
    await fill(tab, 'data', '"kept"');
    await tab.evaluate(`${id('eager')}.checked = true`);
    await act(tab, 'publish-http');
    await tab.until('the answer has an id', says('202 POST /connection/publishMessage', '"id":"01'));
    await tab.until('the message', says('chat', '"data":"kept"'));
    await tab.evaluate('document.querySelector("#panel-publish details").open = true');
    await fill(tab, 'schedule', 'at(2001-01-01T00:00:00)');
    await act(tab, 'publish');
    await tab.until('a time that has passed is refused', says('hotsock.error', 'INVALID_SCHEDULE'));
    await fill(tab, 'schedule', '');

    await press(tab, 'tab-history');
    await act(tab, 'history');
    await tab.until('the history', `document.querySelectorAll("#history li").length === 1`);
    assert.match(await tab.evaluate(`document.querySelector("#history li").textContent`), /^chat · ana · .*React"kept"$/);
    await tab.evaluate('document.querySelector("#history button").click()');
    assert.match(await tab.evaluate(`${id('message-id')}.value`), /^01[0-9A-Z]{24}$/);
    await fill(tab, 'reaction', '🎉');
    await act(tab, 'react-add');
    await tab.until('the reaction', says('hotsock.messageReactionAdded', '"reaction":"🎉"'));
    await act(tab, 'reactions');
    await tab.until('who reacted', says('200 POST /connection/listReactions', '"uid":"ana"'));
    await press(tab, 'tab-history');
    await act(tab, 'history');
    await tab.until('it is counted', 'document.querySelector("#history li").textContent.includes("🎉 1")');
    await tab.screenshot('desktop-history.png');
    await act(tab, 'react-remove-http');
    await tab.until('it is taken off', says('hotsock.messageReactionRemoved', '"action":"remove"'));

    const ben = await other();
    for (let n = 1; n <= 120; n += 1) ben.send(JSON.stringify({ event: 'kept', channel: 'room.8', data: n }));
    await tab.until('all of them', says('kept', '"data":120'));
    await act(tab, 'history');
    await tab.until('the newest hundred', 'document.querySelectorAll("#history li").length === 100 && document.querySelector("#history pre").textContent === "120"');
    await act(tab, 'history-next');
    await tab.until('the rest', 'document.querySelectorAll("#history li").length === 21 && document.querySelector("#history pre").textContent === "20"');
    assert.ok(await tab.evaluate(`${id('history-next')}.disabled`));
    ben.close();

    await act(tab, 'info');
    await tab.until('the channel', says('200 POST /connection/getChannelInfo', '"channel":"room.8","subscriptionsCount":'));
    await press(tab, 'tab-raw');
    await fill(tab, 'raw-body', '{"channel":"elsewhere"}');
    await act(tab, 'raw-http');
    await tab.until('a refusal', `${row('403 POST /connection/getChannelInfo')}?.classList.contains("failed")`);
    assert.equal(await tab.evaluate(`${id('outcome')}.textContent`), 'It did not work: the messages say why.');
    assert.ok(!(await tab.evaluate('document.body.textContent')).includes('connectionSecret='), 'credentials are not shown');
    // A refused call is an error to the browser, too.
    await isClean(tab, { errors: [/status of 403/] });
  },

  // R-CONS-4
  async 'messages are filtered, paused, cleared, and a flood does not stop the page'(browser) {
    const tab = await open(browser, '', `#token=${TOKEN}`);
    await tab.until('it is connected', `${state} === "connected"`);
    await fill(tab, 'channel', 'room.8');
    await act(tab, 'subscribe');
    await tab.until('the subscription', row('hotsock.subscribed'));
    const ben = await other();
    for (const text of ['apples', 'pears', 'apple cake']) ben.send(JSON.stringify({ event: 'fruit', channel: 'room.8', data: text }));
    await tab.until('three messages', `${titles}.filter((it) => it === "fruit").length === 3`);
    await fill(tab, 'filter', 'APPLE');
    assert.deepEqual(await tab.evaluate(titles), ['fruit', 'fruit']);
    assert.match(await tab.evaluate(`${id('counts')}.textContent`), /, 2 shown$/);
    ben.send(JSON.stringify({ event: 'fruit', channel: 'room.8', data: 'an apple more' }));
    ben.send(JSON.stringify({ event: 'fruit', channel: 'room.8', data: 'a plum' }));
    await tab.until('the filter holds for what comes later', `${rows}.length >= 7 && ${shown}.length === 3`);
    await fill(tab, 'filter', '');
    for (const [direction, other] of [['sent', 'received'], ['received', 'sent']]) {
      await tab.evaluate(`document.querySelector('[data-direction="${direction}"]').click()`);
      assert.ok(await tab.evaluate(`${shown}.length > 0 && ${shown}.every((it) => it.classList.contains("${direction}") && !it.classList.contains("${other}"))`), direction);
    }
    await tab.evaluate('document.querySelector("[data-direction=all]").click()');

    await press(tab, 'pause');
    const before = await tab.evaluate(`${rows}.length`);
    ben.send(JSON.stringify({ event: 'late', channel: 'room.8', data: 1 }));
    await tab.until('it is counted', `${id('counts')}.textContent.includes("1 held")`);
    assert.equal(await tab.evaluate(`${rows}.length`), before);
    await press(tab, 'pause');
    await tab.until('it is shown after the pause', row('late'));
    await press(tab, 'clear');
    assert.equal(await tab.evaluate(`${rows}.length`), 0);

    for (let n = 1; n <= FLOOD; n += 1) ben.send(JSON.stringify({ event: 'flood', channel: 'room.8', data: { n, of: FLOOD } }));
    ben.send(JSON.stringify({ event: 'last', channel: 'room.8' }));
    await tab.until('the end of a flood', `${row('last')} !== undefined`);
    assert.ok((await tab.evaluate(`${rows}.length`)) <= KEPT);
    assert.match(await tab.evaluate(`${id('counts')}.textContent`), /the newest 2,000 kept/);
    const last = await tab.evaluate(`${rows}.slice(-3).map((it) => it.querySelector("pre").textContent.match(/"n": (\\d+)/)?.[1] ?? "last").join()`);
    assert.equal(last, `${FLOOD - 1},${FLOOD},last`, 'in order, to the end');
    await press(tab, 'tab-live');
    await act(tab, 'ping');
    await tab.until('it answers as before', `${row('hotsock.pong')}?.querySelector(".note").textContent.endsWith(" ms")`);
    assert.equal(await tab.evaluate(state), 'connected', 'it was never too slow a reader');
    ben.close();
    await isClean(tab);
  },

  // R-CONS-5, R-CONS-6, R-CONN-28
  async 'suspended, resumed with its subscriptions, and terminated'(browser) {
    const tab = await open(browser, '', `#token=${TOKEN}`);
    await tab.until('it is connected', `${state} === "connected"`);
    await fill(tab, 'channel', 'room.8');
    await act(tab, 'subscribe');
    await tab.until('the subscription', `${id('subscriptions')}.textContent.includes("room.8")`);
    await press(tab, 'suspend');
    await tab.until('it is suspended', `${state} === "suspended"`);
    await act(tab, 'ping');
    assert.equal(await tab.evaluate(`${id('outcome')}.textContent`), 'There is no connection: nothing was sent.');
    await press(tab, 'clear');
    await press(tab, 'resume');
    await tab.until('it subscribes again', `${state} === "connected" && ${row('hotsock.subscribed')}`);
    await press(tab, 'terminate');
    await tab.until('it is over', `${state} === "ended"`);
    assert.ok(await tab.evaluate(`${id('resume')}.disabled && ${id('subscriptions-part')}.hidden`));
    await isClean(tab);
  },

  // R-CONS-3
  async 'a pasted token connects; to the server of a link only after a click'(browser) {
    const paste = (tab) => tab.evaluate(`${id('token')}.value = ${JSON.stringify(TOKEN)}; ${id('token')}.dispatchEvent(new Event("paste"))`);
    const tab = await open(browser);
    await paste(tab);
    await tab.until('it is connected', `${state} === "connected"`);
    assert.ok(await tab.evaluate(`${id('foreign')}.hidden`));
    await isClean(tab);

    const linked = await open(browser, `?wssUrl=${encodeURIComponent(`ws://localhost:${port}/v1`)}`);
    assert.ok((await linked.evaluate(`${id('foreign')}.textContent`)).includes(`localhost:${port}`));
    await paste(linked);
    await linked.until('the claims', `!${id('claims-part')}.hidden`);
    assert.equal(await linked.evaluate(state), 'idle');
    await linked.evaluate('document.querySelector("#token-form button.main").click()');
    await linked.until('it is connected', `${state} === "connected"`);
    // The policy of this page lets it talk with that one server and no other.
    const elsewhere = await linked.evaluate('fetch("http://127.0.0.2:9/").then(() => "let", () => "kept")');
    assert.equal(elsewhere, 'kept');
    await isClean(linked, { errors: [/127\.0\.0\.2:9/] });
  },

  // R-CONS-6
  async 'a token that is not accepted is explained'(browser) {
    const known = { errors: [/WebSocket connection to .* failed/, /^network: /] };
    const expired = await open(browser, '', `#token=${TOKEN_EXPIRED}`);
    await expired.until('it is refused', `${state} === "refused"`);
    assert.match(await expired.evaluate(`${id('faults')}.textContent`), /It expired \d+ min \d+ s ago\./);
    assert.match(await expired.evaluate(`${id('why')}.textContent`), /The server is there and refused the connection\./);
    await expired.screenshot('desktop-refused.png');
    await isClean(expired, known);

    const forged = await open(browser, '', `#token=${TOKEN_FORGED}`);
    await forged.until('it is refused', `${state} === "refused"`);
    assert.match(await forged.evaluate(`${id('faults')}.textContent`), /is it signed with a key of this server/);
    assert.ok((await forged.evaluate(`${id('announcer')}.textContent`)).startsWith('refused. '), 'it is told aloud, too');
    await fill(forged, 'token', 'not.a.token');
    assert.match(await forged.evaluate(`${id('why')}.textContent`), /^This is no token: its header is not/);
    await fill(forged, 'token', TOKEN);
    await forged.press('Enter', { ctrl: true });
    await forged.until('a good one connects', `${state} === "connected"`);
    await isClean(forged, known);

    const nobody = await open(browser, `?wssUrl=${encodeURIComponent('ws://127.0.0.1:1/v1')}`, `#token=${TOKEN}`);
    await nobody.evaluate('document.querySelector("#token-form button.main").click()');
    await nobody.until('nobody is there', `${state} === "waiting" && ${id('why')}.textContent.startsWith("No server answers at 127.0.0.1:1")`);
    assert.ok(await nobody.evaluate(`${id('facts')}.textContent.includes("1006")`));
    await press(nobody, 'terminate');
    assert.equal(await nobody.evaluate(state), 'ended');
  },

  // R-CONS-5, R-CONS-6
  async 'everything is done without a mouse'(browser) {
    const tab = await open(browser);
    await tab.press('?', { shift: true });
    await tab.until('the keys are shown', `${id('help')}.open`);
    await tab.screenshot('desktop-keys.png');
    await tab.press('Escape');
    await tab.until('and go', `!${id('help')}.open`);
    await tab.press('t');
    assert.equal(await tab.evaluate(active), 'token');
    await tab.type(TOKEN);
    await tab.press('Enter', { ctrl: true });
    await tab.until('it is connected', `${state} === "connected"`);
    await tab.press('n');
    assert.equal(await tab.evaluate(active), 'channel');
    await tab.type('room.8');
    await tab.press('Escape');
    await tab.press('s');
    assert.equal(await tab.evaluate(active), 'subscribe-token');
    await tab.press('Tab');
    assert.equal(await tab.evaluate('document.activeElement.textContent'), 'Subscribe');
    assert.notEqual(await tab.evaluate('getComputedStyle(document.activeElement).outlineStyle'), 'none', 'the focus is seen');
    await tab.press('Enter');
    await tab.until('the subscription', row('hotsock.subscribed'));
    await tab.press('p');
    await tab.type('chat');
    await tab.press('Tab');
    await tab.type('"from the keyboard, with a / and a ?"');
    await tab.press('Enter', { ctrl: true });
    await tab.until('the message', `${row('chat')}?.classList.contains("received")`);
    await tab.press('Escape');
    await tab.press('/');
    assert.equal(await tab.evaluate(active), 'filter');
    await tab.type('keyboard');
    await tab.until('the filter', `${shown}.length === 2`);
    await tab.press('Escape');
    await tab.press('j');
    assert.ok(await tab.evaluate(`document.activeElement === ${row('chat')}`), 'the newest message');
    await tab.press('ArrowUp');
    assert.ok(await tab.evaluate('document.activeElement.classList.contains("sent")'), 'the one before');
    await tab.evaluate(`document.querySelector('[role=tab][aria-selected=true]').focus()`);
    await tab.press('ArrowRight');
    assert.equal(await tab.evaluate(`${active} + ${id('panel-storage')}.hidden`), 'tab-storagefalse');

    // Whatever can be done is reached with Tab.
    const wanted = await tab.evaluate(`[...document.querySelectorAll('button, input, textarea, select, summary, [tabindex="0"]')]
      .filter((it) => it.checkVisibility() && !it.disabled && it.tabIndex >= 0).length`);
    await tab.evaluate('document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus(); globalThis.met = new Set()');
    for (let n = 0; n < wanted + 5; n += 1) {
      await tab.press('Tab');
      await tab.evaluate('document.activeElement !== document.body && met.add(document.activeElement)');
    }
    const missed = await tab.evaluate(`[...document.querySelectorAll('button, input, textarea, select, summary, [tabindex="0"]')]
      .filter((it) => it.checkVisibility() && !it.disabled && it.tabIndex >= 0 && !met.has(it)).map((it) => it.id || it.textContent)`);
    assert.deepEqual(missed, []);
    await isClean(tab);
  },

  // R-CONS-6
  async 'a phone shows all of it, one part at a time'(browser) {
    const tab = await open(browser, '', `#token=${TOKEN}`);
    await tab.size(360, 740, { phone: true });
    await tab.until('it is connected', `${state} === "connected"`);
    const part = (name) => tab.evaluate(`document.querySelector('nav [data-pane=${name}]').click()`);
    await fits(tab, 'the connection');
    await tab.screenshot('phone-connection.png');
    await part('actions');
    await fill(tab, 'channel', 'room.8');
    await act(tab, 'subscribe');
    for (const name of ['subscribe', 'storage', 'metadata', 'reactions', 'history', 'live', 'raw', 'publish']) {
      await press(tab, `tab-${name}`);
      await fits(tab, name);
    }
    await fill(tab, 'event', 'chat');
    await fill(tab, 'data', `{"text":"Hello", "long":"${'x'.repeat(300)}"}`);
    await tab.screenshot('phone-actions.png');
    await act(tab, 'publish');
    await part('frames');
    await tab.until('the message', `${row('chat')}?.classList.contains("received")`);
    await fits(tab, 'the messages');
    assert.ok(await tab.evaluate(`${id('list')}.clientHeight > 400`), 'the list fills what is left of the screen');
    await tab.screenshot('phone-messages.png');
    await tab.scheme('dark');
    await tab.screenshot('phone-messages-dark.png');
    const small = await tab.evaluate(`[...document.querySelectorAll('#frames button, nav button')]
      .filter((it) => it.checkVisibility() && it.getBoundingClientRect().height < 31).map((it) => it.textContent)`);
    assert.deepEqual(small, [], 'everything is large enough for a finger');
    await isClean(tab);
  },

  // R-LIVE-12
  async 'a token that asks for heartbeats gets them'(browser) {
    const tab = await open(browser, '', `#token=${token({ uid: 'eve', heartbeatTimeout: 5 })}`);
    await tab.until('it is connected', `${state} === "connected"`);
    await tab.until('a heartbeat', `${row('hotsock.heartbeat')}?.classList.contains("sent")`);
    await isClean(tab);
  },

  // R-CONS-6, R-CONN-27, R-CONN-28
  async 'the server is replaced: that is told, and everything comes back, unless it is not to'(browser) {
    const [tab, still] = [await open(browser, '', `#token=${TOKEN}`), await open(browser, '', `#token=${TOKEN}`)];
    for (const each of [tab, still]) {
      await each.until('it is connected', `${state} === "connected"`);
      await fill(each, 'channel', 'room.8');
      await act(each, 'subscribe');
      await each.until('the subscription', `${id('subscriptions')}.textContent.includes("room.8")`);
    }
    await press(still, 'reconnects');
    console.log('restart');
    await still.until('it stays away', `${state} === "refused"`);
    assert.equal(await still.evaluate(`${id('why')}.textContent`), '1012 “Service restart”. Reconnecting is switched off');
    await tab.until('it was told of the end', `${id('facts')}.textContent.includes("1012 “Service restart”: the server is being replaced") || ${id('facts')}.textContent.includes("1006")`);
    await tab.until('it is back', `${state} === "connected" && ${id('subscriptions')}.textContent.includes("room.8")`);
    await tab.front();
    await tab.until('and subscribed once', `${titles}.filter((it) => it === "hotsock.subscribed").length === 2`);
    const known = { errors: [/WebSocket connection to .* failed/, /^network: /] };
    for (const each of [tab, still]) await isClean(each, known);
  },
};

inBrowser(screenshots, async (browser) => {
  for (const [name, scene] of Object.entries(scenes)) {
    try {
      await scene(browser);
      console.log(`kept: ${name}`);
    } catch (error) {
      error.stack = `BROKEN: ${name}\n${error.stack}`;
      throw error;
    }
  }
});
