// Acceptance scenarios of the protocol's document (section 26): connecting, subscribing, publishing, aliases, presence,
// metadata, storage, history and reactions, with a client of bindings. Tokens are signed here, so nothing of the server's own code takes part. Ends with
// status 0 when every promise was kept; otherwise says which not.
//
// Variables: REALTIME_URL (ws://…/v1), REALTIME_SECRET (Base64, of the HS256 key), REALTIME_API_KEY, REALTIME_FILE (the
// server's settings, which get an audience and an issuer for a while), REALTIME_PID (told of that).
'use strict';

const assert = require('node:assert/strict');
const { createHmac } = require('node:crypto');
const { readFileSync, writeFileSync } = require('node:fs');
const { Client } = require('./bindings.js');

const URL_ = process.env.REALTIME_URL;
const HTTP = URL_.replace(/^ws/, 'http').replace(/\/v1$/, '');
const key = { Authorization: `Bearer ${process.env.REALTIME_API_KEY}` };
const now = () => Math.floor(Date.now() / 1000);

function token(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const all = { exp: now() + 600, scope: 'connect', ...claims };
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(all)}`;
  const secret = Buffer.from(process.env.REALTIME_SECRET, 'base64');
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const clients = new Set();

function client(claims, options = {}) {
  const made = new Client(URL_, { connectTokenFn: async () => token(claims), chance: () => 0, ...options });
  clients.add(made);
  return made;
}

async function connected(claims, options) {
  const made = client(claims, options);
  await made.until('@@connect', () => made.connection);
  return made;
}

async function publish(body) {
  const answer = await fetch(`${HTTP}/publish`, { method: 'POST', headers: key, body: JSON.stringify(body) });
  assert.equal(answer.status, 202);
  return answer.json();
}

/** A call of the client HTTP API in the name of a connection; its status and value. */
async function call(made, name, body) {
  const { connectionId, connectionSecret } = made.connection;
  const credentials = new URLSearchParams({ connectionId, connectionSecret });
  const answer = await fetch(`${HTTP}/connection/${name}?${credentials}`, { method: 'POST', body: JSON.stringify(body) });
  return { status: answer.status, ...(await answer.json()) };
}

async function bound(made, event, options) {
  const got = [];
  const binding = made.bind(event, (message) => got.push(message), options);
  await made.until('the subscription', () => binding.channel.state === 'subscribed');
  return { binding, got };
}

const SETTINGS = readFileSync(process.env.REALTIME_FILE, 'utf8');

function settings(text) {
  writeFileSync(process.env.REALTIME_FILE, text);
  process.kill(Number(process.env.REALTIME_PID), 'SIGHUP');
}

/** Tries one token, until the server has read its settings; the status with which it is answered. */
async function becomes(claims, status) {
  for (const end = Date.now() + 20_000; ;) {
    const one = client(claims);
    await one.until('an answer', () => one.connection || one.failures.length > 0);
    const [found = 101] = one.failures;
    one.terminate();
    if (found === status) return;
    assert.ok(Date.now() < end, `${JSON.stringify(claims)}: ${found}, not ${status}`);
  }
}

const scenes = {
  // R-CONN-9, R-CONN-13, R-CONN-16
  async '1: connect'() {
    const ana = await connected({ uid: 'ana', umd: { role: 'host' } });
    const { connectionId, connectionSecret, uid, umd, connectionExpiresAt } = ana.connection;
    assert.equal(connectionId.length, 16);
    assert.match(connectionSecret, /^[A-Za-z0-9]{20}$/);
    assert.deepEqual([uid, umd, connectionExpiresAt], ['ana', { role: 'host' }, null]);
    // R-CONN-2: the base may end in any of these.
    for (const base of [URL_, `${URL_}/`, URL_.slice(0, -3), URL_.slice(0, -2)]) {
      const other = new Client(base, { connectTokenFn: async () => token({ uid: 'ana' }) });
      clients.add(other);
      await other.until(`@@connect at ${base}`, () => other.connection);
    }
  },

  // R-CONN-6, R-CONN-7, R-CONN-27, R-CLAIM-4, R-CLAIM-6, R-CLAIM-7, R-CLAIM-8
  async '2: refused tokens, and a good one on a later attempt'() {
    const bad = [[{ exp: now() - 10 }, 401], [{ nbf: now() + 600 }, 401], [{ scope: undefined }, 401], [{ scope: 'subscribe' }, 403],
      [{ connectionId: 'Zt4Qw8LmPoAxBC0=' }, 403]];
    for (const [claims, status] of bad) await becomes(claims, status);
    const asked = [];
    const tokens = [{ exp: now() - 10 }, { nbf: now() + 600 }, { uid: 'late' }];
    const late = client({}, { connectTokenFn: async () => token(tokens[asked.push(Date.now()) - 1]) });
    await late.until('@@connect', () => late.connection);
    assert.deepEqual([late.connection.uid, late.failures, asked.length], ['late', [401, 401], 3]);
    assert.ok(asked[2] - asked[1] >= 990, 'it waits before it tries a third time');

    settings(`audience = "chat"\nissuer = "https://login.example"\n${SETTINGS}`);
    const right = { aud: 'chat', iss: 'https://login.example' };
    await becomes({}, 401);
    await becomes(right, 101);
    for (const [wrong, status] of [[{ aud: 'other' }, 401], [{ iss: 'https://other.example' }, 401], [{ aud: ['other', 'chat'] }, 101]]) {
      await becomes({ ...right, ...wrong }, status);
    }
    assert.ok(late.connection, 'who is connected stays');
    settings(SETTINGS);
    await becomes({}, 101);
  },

  // R-SUB-1, R-SUB-12, R-DLV-2, R-DLV-4
  async '5: subscribe and publish'() {
    const ana = await connected({ uid: 'ana', channels: { 'board.1': { subscribe: true } } });
    const { binding, got } = await bound(ana, 'price', { channel: 'board.1' });
    await publish({ channel: 'board.1', event: 'price', data: { bid: 101.5 } });
    await ana.until('the price', () => got.length === 1);
    assert.deepEqual(Object.keys(got[0]).sort(), ['channel', 'data', 'event', 'id']);
    assert.match(got[0].id, /^[0-9A-HJKMNP-TV-Z]{26}$/);
    // R-CONN-28: a lost connection comes back with its subscriptions.
    ana.socket.terminate();
    await ana.until('it is back', () => ana.connects === 2 && binding.channel.state === 'subscribed');
    await publish({ channel: 'board.1', event: 'price', data: { bid: 103 } });
    await ana.until('the price', () => got.length === 2);
    binding.unbind();
    await ana.until('the end of the subscription', () => binding.channel.state === 'unsubscribeConfirmed');
    await publish({ channel: 'board.1', event: 'price', data: { bid: 102 } });
    await ana.settled();
    assert.deepEqual([got.length, ana.got('price').length], [2, 2]);
  },

  // R-CLAIM-12, R-CLAIM-14, R-SUB-3, R-SUB-4, R-SUB-6, R-ERR-11
  async '6: a subscribe token for one connection, with a user of its own'() {
    const [ana, ben] = [await connected({ uid: 'ana' }), await connected({ uid: 'ben' })];
    const asked = [];
    const grant = (connectionId, uid) => token({ scope: 'subscribe', connectionId, uid, channels: { vault: { subscribe: true } } });
    const given = grant(ana.connection.connectionId, 'anna');
    const hers = await bound(ana, 'note', { channel: 'vault', subscribeTokenFn: async (about) => { asked.push(about); return given; } });
    assert.deepEqual(asked, [{ channel: 'vault', connectionId: ana.connection.connectionId }]);
    assert.equal(hers.binding.channel.uid, 'anna');
    const stolen = ben.bind('note', () => {}, { channel: 'vault', subscribeTokenFn: async () => given });
    await ben.until('the refusal', () => stolen.channel.state === 'subscribeFailed');
    assert.deepEqual(ben.got('hotsock.error').map((it) => it.error.code), ['INVALID_SUBSCRIBE_TOKEN']);
    const own = await bound(ben, 'note', { channel: 'vault', subscribeTokenFn: async ({ connectionId }) => grant(connectionId, 'benno') });
    assert.equal(own.binding.channel.uid, 'benno');
    await publish({ channel: 'vault', event: 'note', data: 1 });
    await ben.until('the note', () => own.got.length === 1);
  },

  // R-PUB-1, R-PUB-6, R-PUB-8, R-PUB-9, R-PUB-12
  async '8: chat'() {
    const messages = { chat: { publish: true, echo: true }, 'is-typing': { publish: true } };
    const claims = (uid) => ({ uid, channels: { room: { subscribe: true, messages } } });
    const [ana, ben] = [await connected(claims('ana')), await connected(claims('ben'))];
    for (const each of [ana, ben]) for (const event of ['chat', 'is-typing', 'shout']) await bound(each, event, { channel: 'room' });
    ana.send({ event: 'is-typing', channel: 'room' });
    ana.send({ event: 'chat', channel: 'room', data: 'Moin' });
    ana.send({ event: 'shout', channel: 'room', data: 'no' });
    await ana.until('the refusal', () => ana.got('hotsock.error').length === 1);
    assert.equal(ana.got('hotsock.error')[0].error.code, 'PUBLISH_PERMISSION_DENIED');
    await ben.settled();
    const seen = (it) => ['is-typing', 'chat', 'shout'].map((event) => it.got(event).length);
    assert.deepEqual([seen(ana), seen(ben)], [[0, 1, 0], [1, 1, 0]]);
    assert.deepEqual(ben.got('chat')[0].meta, { uid: 'ana', umd: null });
    assert.deepEqual(ben.got('chat'), ana.got('chat'));
  },

  // R-PUB-2, R-PUB-3, R-PUB-4, R-PUB-5, R-PUB-17, R-HIST-6, R-HTTP-13
  async '9: broadcast, and what is kept of it'() {
    const sender = await connected({ uid: 'probe', channels: { lab: { messages: { reading: { broadcast: true, store: 3600 } } } } });
    sender.send({ event: 'reading', channel: 'lab', data: 21.5 });
    await sender.settled();
    const reader = await connected({ uid: 'ana', channels: { lab: { subscribe: true, historyStart: 0 } } });
    await bound(reader, 'reading', { channel: 'lab' });
    const { messages } = await call(reader, 'listMessages', { channel: 'lab' });
    assert.deepEqual(messages.map(({ data, meta }) => [data, meta.uid]), [[21.5, 'probe']]);

    const verdicts = [[{ publish: true }, false, 'NOT_SUBSCRIBED'], [{ publish: true }, true, undefined], [{ broadcast: true }, false, undefined],
      [{ broadcast: true }, true, undefined], [{ publish: true, broadcast: false }, false, 'NOT_SUBSCRIBED'],
      [{ publish: false, broadcast: true }, true, 'PUBLISH_PERMISSION_DENIED'], [{}, true, 'PUBLISH_PERMISSION_DENIED']];
    for (const [grants, subscribed, code] of verdicts) {
      const one = await connected({ uid: 'cem', channels: { lab: { subscribe: true, messages: { say: grants } } } });
      if (subscribed) await bound(one, 'x', { channel: 'lab' });
      const before = reader.got('say').length;
      one.send({ event: 'say', channel: 'lab' });
      await one.settled();
      await reader.settled();
      const found = [one.got('hotsock.error').map((it) => it.error.code)[0], reader.got('say').length - before];
      assert.deepEqual(found, [code, code ? 0 : 1], `${JSON.stringify(grants)}, ${subscribed ? '' : 'not '}subscribed`);
    }
  },

  // R-JSON-3, R-SUB-20, R-SUB-22, R-SUB-23, R-SUB-25
  async '10: an alias'() {
    const grants = { subscribe: true, alias: 'me', messages: { note: { publish: true, echo: true } } };
    const ana = await connected({ uid: 'ana', channels: { 'member.9f2': grants } });
    const { binding, got } = await bound(ana, 'note', { channel: 'me' });
    assert.equal(binding.channel.real, 'member.9f2');
    await publish({ channel: 'member.9f2', event: 'note', data: 1 });
    ana.send({ event: 'note', channel: 'me', data: 2 });
    await ana.until('both', () => got.length === 2);
    assert.deepEqual(got.map((it) => [it.channel, it.data]), [['member.9f2', 1], ['member.9f2', 2]]);
    binding.unbind();
    await ana.until('the confirmation', () => binding.channel.state === 'unsubscribeConfirmed');
    const [confirmed] = ana.got('hotsock.unsubscribed');
    assert.deepEqual([confirmed.channel, confirmed.meta.channelAlias], ['member.9f2', 'me']);
  },

  // R-SUB-8, R-SUB-27, R-SUB-28, R-SUB-29, R-SUB-30
  async '11: an automatic subscription'() {
    const claims = { uid: 'ana', channels: { 'inbox.7': { autoSubscribe: true, alias: 'inbox' } } };
    for (const name of ['inbox', 'inbox.7']) {
      const before = client(claims);
      const early = [];
      before.bind('mail', (message) => early.push(message), { channel: name });
      await before.until('@@connect', () => before.connection);
      const after = await connected(claims);
      await after.until('the subscription', () => after.got('hotsock.subscribed').length === 1);
      const late = await bound(after, 'mail', { channel: name });
      after.send({ event: 'hotsock.subscribe', channel: name });
      await after.until('the refusal', () => after.got('hotsock.error').length === 1);
      const [{ error, channel }] = after.got('hotsock.error');
      assert.deepEqual([error.code, channel], ['ALREADY_SUBSCRIBED', 'inbox.7']);
      await before.settled();
      for (const each of [before, after]) {
        assert.deepEqual(each.got('hotsock.subscribed').map((it) => it.data), [{ autoSubscribed: true }]);
        assert.ok(each.got('hotsock.error').every((it) => it.error.code === 'ALREADY_SUBSCRIBED'));
        assert.equal(each.log[0].event, 'hotsock.connected');
      }
      await publish({ channel: 'inbox.7', event: 'mail', data: name });
      await before.until('the mail', () => early.length > 0);
      await after.until('the mail', () => late.got.length > 0);
      for (const each of [before, after]) await each.settled();
      assert.deepEqual([early.length, late.got.length], [1, 1], 'exactly once');
      for (const each of [before, after]) each.terminate();
      for (const each of [before, after]) await each.until('it is closed', () => each.closes.length === 1);
    }
  },

  // R-PRES-2, R-PRES-3, R-PRES-4, R-PRES-5, R-PRES-8, R-PRES-12, R-PRES-13, R-SRV-27
  async '12: members come and go, and everybody agrees with the server'() {
    const claims = (uid) => ({ uid, channels: { 'presence.den': { subscribe: true } } });
    const there = [];
    const agree = async (wanted) => {
      const uids = (members) => members.map((it) => it.uid);
      for (const { binding, who } of there) await who.until(`${wanted}`, () => String(uids(binding.channel.members)) === String(wanted));
      const answer = await (await fetch(`${HTTP}/channels/presence.den`, { headers: key })).json();
      assert.deepEqual(answer.members, wanted.map((uid) => ({ uid, umd: null })));
      assert.equal(answer.subscriptionsCount, wanted.length);
      for (const { binding } of there) assert.deepEqual(binding.channel.members, answer.members);
    };
    for (const uid of ['ana', 'ben', 'cem']) {
      const who = await connected(claims(uid));
      there.push({ who, ...(await bound(who, 'hotsock.memberAdded', { channel: 'presence.den' })) });
      await agree(there.map((it) => it.who.connection.uid));
    }
    const [ana, ben, cem] = there.map((it) => it.who);
    const nobody = await connected({ channels: { 'presence.den': { subscribe: true } } });
    nobody.bind('x', () => {}, { channel: 'presence.den' });
    await nobody.until('the refusal', () => nobody.got('hotsock.error').length === 1);
    assert.equal(nobody.got('hotsock.error')[0].error.code, 'PRESENCE_CHANNEL_USER_ID_REQUIRED');
    assert.deepEqual(there.map((it) => it.got.length), [2, 1, 0], 'whoever joins is not told of itself');

    ben.terminate();
    there.splice(1, 1);
    await agree(['ana', 'cem']);
    there[0].binding.unbind();
    there.splice(0, 1);
    await agree(['cem']);
    await ana.settled();
    assert.equal(ana.got('hotsock.memberRemoved').length, 1, 'who has left is told nothing more');
    cem.terminate();
    there.length = 0;
    for (let members = null; String(members) !== ''; ({ members } = await (await fetch(`${HTTP}/channels/presence.den`, { headers: key })).json()));
  },

  // R-PRES-7, R-PRES-9, R-PRES-10, R-PRES-12, R-LIVE-5, R-LIVE-7, R-LIVE-11, R-LIVE-12
  async '13: one user in several tabs, and one whose network is gone'() {
    const claims = (uid, umd, more) => ({ uid, umd, channels: { 'presence.hall': { subscribe: true } }, ...more });
    const join = async (...about) => {
      const who = await connected(claims(...about), { heartbeat: about[2] ? 2 : 0 });
      await bound(who, 'x', { channel: 'presence.hall' });
      return who;
    };
    const ana = await join('ana');
    const events = () => ana.log.filter((it) => it.event.startsWith('hotsock.member')).map((it) => [it.event.slice(8), it.data.member]);
    const [plain, busy] = [{ uid: 'ben', umd: null }, { uid: 'ben', umd: { mood: 'busy' } }];
    const first = await join('ben');
    await ana.until('ben', () => events().length === 1);
    const same = await join('ben');
    await ana.settled();
    assert.deepEqual(events(), [['memberAdded', plain]], 'the second tab is not seen');
    const other = await join('ben', busy.umd);
    await ana.until('the change', () => events().length === 2);
    for (const tab of [first, same]) {
      tab.terminate();
      await tab.until('it is closed', () => tab.closes.length === 1);
    }
    await ana.settled();
    assert.deepEqual(events(), [['memberAdded', plain], ['memberUpdated', busy]], 'neither is a tab that closes');
    other.terminate();
    await ana.until('the last one', () => events().length === 3);
    assert.deepEqual(events()[2], ['memberRemoved', busy]);

    const steady = await join('cem', null, { heartbeatTimeout: 5 });
    const gone = await join('dan', null, { heartbeatTimeout: 5 });
    const since = Date.now();
    gone.pullTheCable();
    await ana.until('it is missed', () => events().some(([event, { uid }]) => event === 'memberRemoved' && uid === 'dan'));
    const took = Date.now() - since;
    assert.ok(took < 8_000, `${took} ms`);
    assert.ok(steady.connection, 'who sends heartbeats stays');
    assert.equal(steady.connects, 1);
  },

  // R-UMD-1, R-UMD-4, R-UMD-6, R-UMD-8, R-UMD-10, R-PRES-15, R-PRES-16, R-HTTP-52, R-HTTP-53, R-HTTP-54
  async '15: metadata that changes'() {
    const channels = { 'presence.*': { subscribe: true } };
    const [ana, ben] = [await connected({ uid: 'ana', channels }), await connected({ uid: 'ben', channels })];
    for (const each of [ana, ben]) await bound(each, 'x', { channel: 'presence.yard' });
    const change = (umd, more) => token({ scope: 'umd', uid: 'ana', umd, ...more });
    const here = (umd) => change(umd, { channels: { 'presence.yard': { umdUpdate: true } } });
    const updates = async (wanted) => {
      for (const each of [ana, ben]) {
        await each.until('the change', () => each.got('hotsock.memberUpdated').length >= wanted.length);
        await each.settled();
        assert.deepEqual(each.got('hotsock.memberUpdated').map((it) => it.data.member.umd), wanted);
      }
    };
    ana.send({ event: 'hotsock.umdUpdate', channel: 'presence.yard', data: { token: here({ mood: 'busy' }) } });
    await updates([{ mood: 'busy' }]);
    assert.deepEqual(await call(ana, 'umdUpdate', { channel: 'presence.yard', token: here({ mood: 'calm' }) }), { status: 200 });
    await updates([{ mood: 'busy' }, { mood: 'calm' }]);
    assert.equal((await call(ana, 'umdUpdate', { channel: 'presence.yard', token: here({ mood: 'calm' }) })).status, 200);
    await updates([{ mood: 'busy' }, { mood: 'calm' }]);
    ana.send({ event: 'hotsock.umdUpdate', data: { token: change({ mood: 'away' }, { umdUpdate: true, umdPropagate: true }) } });
    await updates([{ mood: 'busy' }, { mood: 'calm' }, { mood: 'away' }]);
    const next = await bound(ana, 'x', { channel: 'presence.roof' });
    assert.deepEqual(next.binding.channel.members, [{ uid: 'ana', umd: { mood: 'away' } }]);
  },

  // R-STOR-4, R-STOR-5, R-STOR-7, R-STOR-9, R-STOR-11, R-STOR-12, R-STOR-14, R-STOR-15, R-STOR-17, R-STOR-18, R-STOR-25, R-STOR-26
  async '16: storage'() {
    const storage = { '*': { get: true, set: true, observe: true } };
    const claims = (uid) => ({ uid, channels: { game: { subscribe: true, storage, messages: { '*': { publish: true } } } } });
    const [ana, ben] = [await connected(claims('ana')), await connected(claims('ben'))];
    for (const each of [ana, ben]) await bound(each, 'x', { channel: 'game' });
    const set = (key, data) => ana.send({ event: 'hotsock.channelStorageSet', channel: 'game', key, data });
    set('rules', { seats: 4, time: 60 });
    set('rules', { time: 60.0, seats: 4 });
    set('turn', 'ben');
    set('rules', {});
    set('board', [1, 2]);
    const wanted = [['rules', { seats: 4, time: 60 }], ['turn', 'ben'], ['rules', null], ['board', [1, 2]]];
    for (const each of [ana, ben]) {
      await each.until('all of them', () => each.got('hotsock.channelStorageUpdated').length >= wanted.length);
      await each.settled();
      const found = each.got('hotsock.channelStorageUpdated');
      assert.deepEqual(found.map((it) => [it.key, it.data]), wanted);
      assert.ok(found.every((it) => it.meta.uid === 'ana' && it.id === undefined));
    }
    ben.send({ event: 'hotsock.channelStorageGet', channel: 'game', key: 'turn' });
    ben.send({ event: 'hotsock.channelStorageGet', channel: 'game', key: 'rules' });
    await ben.until('both answers', () => ben.got('hotsock.channelStorageData').length === 2);
    assert.deepEqual(ben.got('hotsock.channelStorageData').map((it) => [it.key, it.data, it.meta]),
      [['turn', 'ben', { uid: 'ana', umd: null }], ['rules', null, null]]);
    assert.equal(ana.got('hotsock.channelStorageData').length, 0);

    const cem = await connected(claims('cem'));
    cem.send({ event: 'hotsock.subscribe', channel: 'game' });
    ben.send({ event: 'move', channel: 'game' });
    await cem.until('all entries', () => cem.got('hotsock.channelStorageUpdated').length === 2);
    await cem.settled();
    const order = cem.log.map((it) => it.key ?? it.event).filter((it) => !['hotsock.connected', 'hotsock.pong'].includes(it));
    assert.deepEqual(order.slice(0, 3), ['hotsock.subscribed', 'board', 'turn'], 'before anything else of the channel');
  },

  // R-HIST-5, R-HIST-9, R-HTTP-13, R-HTTP-14, R-HTTP-15, R-HTTP-17, R-HTTP-18, R-HTTP-24
  async '19: history'() {
    const claims = (more) => ({ uid: 'ana', channels: { diary: { subscribe: true, ...more } } });
    const all = await connected(claims({ historyStart: 0 }));
    await bound(all, 'day', { channel: 'diary' });
    for (let n = 1; n <= 250; n += 1) await publish({ channel: 'diary', event: 'day', data: n, store: 600 });
    const page = async (who, more) => (await call(who, 'listMessages', { channel: 'diary', ...more })).messages;
    for (const [reverse, cursor] of [[false, 'after'], [true, 'before']]) {
      const found = [];
      for (let part = await page(all, { reverse }); part.length > 0; part = await page(all, { reverse, [cursor]: found.at(-1).id })) {
        found.push(...part);
      }
      const days = Array.from({ length: 250 }, (_, n) => n + 1);
      assert.deepEqual(found.map((it) => it.data), reverse ? days.reverse() : days);
      const ids = found.map((it) => it.id);
      assert.deepEqual(ids, reverse ? ids.toSorted().reverse() : ids.toSorted());
    }
    const late = await connected(claims({}));
    const { binding } = await bound(late, 'day', { channel: 'diary' });
    assert.deepEqual(await page(late), []);
    await publish({ channel: 'diary', event: 'day', data: 251, store: 600 });
    assert.deepEqual((await page(late)).map((it) => it.data), [251]);
    binding.unbind();
    await late.until('the end of the subscription', () => binding.channel.state === 'unsubscribeConfirmed');
    await bound(late, 'day', { channel: 'diary' });
    assert.deepEqual(await page(late), []);
  },

  // R-REACT-4, R-REACT-6, R-REACT-8, R-REACT-9, R-REACT-10, R-REACT-11, R-HTTP-20, R-HTTP-21, R-HTTP-25, R-HTTP-26
  async '20: reactions'() {
    const messages = (echo) => ({ chat: { publish: true, echo: true, store: 600, react: ['🎉', '👍'] }, 'hotsock.messageReaction': { echo } });
    const claims = (uid, echo) => ({ uid, channels: { wall: { subscribe: true, messages: messages(echo) } } });
    const [ana, ben] = [await connected(claims('ana', false)), await connected(claims('ben', true))];
    for (const each of [ana, ben]) await bound(each, 'chat', { channel: 'wall' });
    ana.send({ event: 'chat', channel: 'wall', data: 'We did it' });
    await ana.until('the message', () => ana.got('chat').length === 1);
    const [{ id: messageId }] = ana.got('chat');
    const react = (who, action, reaction, id = messageId) => who.send({ event: 'hotsock.messageReaction', channel: 'wall', data: { messageId: id, reaction, action } });
    const seen = (who) => who.log.filter((it) => it.event.startsWith('hotsock.messageReaction')).map((it) => [it.event.slice(23), it.meta.uid]);
    for (const action of ['add', 'add', 'remove', 'remove', 'add']) react(ana, action, '🎉');
    await ben.until('what changed', () => seen(ben).length === 3);
    react(ben, 'add', '🎉');
    react(ben, 'add', 'no');
    react(ben, 'add', '👍', '01KA5T6Q2M8Y0V3WZ4B7C9D1EF');
    await ben.until('both refusals', () => ben.got('hotsock.error').length === 2);
    await ana.until('the other one', () => seen(ana).length === 1);
    for (const each of [ana, ben]) await each.settled();
    assert.deepEqual(ben.got('hotsock.error').map((it) => it.error.code), ['REACTION_PERMISSION_DENIED', 'MESSAGE_NOT_FOUND']);
    assert.deepEqual(seen(ben), [['Added', 'ana'], ['Removed', 'ana'], ['Added', 'ana'], ['Added', 'ben']]);
    assert.deepEqual(seen(ana), [['Added', 'ben']], 'without echo its own are not told');
    const counted = await call(ana, 'listMessages', { channel: 'wall' });
    assert.deepEqual(counted.messages[0].reactions, { '🎉': { count: 2 } });
    const expanded = await call(ana, 'listMessages', { channel: 'wall', expandReactions: true });
    assert.deepEqual(expanded.messages[0].reactions, { '🎉': { count: 2, items: [{ uid: 'ana' }, { uid: 'ben' }] } });
    const listed = await call(ana, 'listReactions', { channel: 'wall', messageId });
    assert.deepEqual(listed.reactions, [{ reaction: '🎉', uid: 'ana' }, { reaction: '🎉', uid: 'ben' }]);
  },
};

(async () => {
  for (const [name, scene] of Object.entries(scenes)) {
    try {
      await scene();
      console.log(`kept: ${name}`);
    } catch (error) {
      console.error(`BROKEN: ${name}\n${error.stack}`);
      process.exit(1);
    }
    for (const each of clients) each.terminate();
    clients.clear();
  }
  process.exit(0);
})();
