// A conversation with a real server through `ws`, the WebSocket library of most Node programs. Tokens are signed here
// too, so nothing of the server's own code takes part. Ends with status 0 when every promise was kept; otherwise says
// which not.
//
// Variables: REALTIME_URL (ws://…/v1), REALTIME_SECRET (Base64, of the HS256 key), REALTIME_API_KEY, REALTIME_FILE
// (the server's settings, which get other keys for a while), REALTIME_PID (told of that, and to end, at the end).
'use strict';

const assert = require('node:assert/strict');
const { constants, createHmac, generateKeyPairSync, sign } = require('node:crypto');
const { readFileSync, writeFileSync } = require('node:fs');
const WebSocket = require('ws');

const URL_ = process.env.REALTIME_URL;
const HTTP = URL_.replace(/^ws/, 'http').replace(/\/v1$/, '');
const PATIENCE = 20_000;

function hs256(text) {
  return createHmac('sha256', Buffer.from(process.env.REALTIME_SECRET, 'base64')).update(text).digest();
}

function token(claims, alg = 'HS256', signature = hs256) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 600;
  const text = `${part({ alg, typ: 'JWT' })}.${part({ exp, scope: 'connect', ...claims })}`;
  return `${text}.${signature(Buffer.from(text)).toString('base64url')}`;
}

// A key pair for an algorithm: how it signs, and its table in the settings.
function keyPair(alg) {
  const [kind, options] = { RS256: ['rsa', { modulusLength: 2048 }], PS256: ['rsa', { modulusLength: 2048 }],
    ES256: ['ec', { namedCurve: 'P-256' }], EdDSA: ['ed25519', {}] }[alg];
  const { privateKey, publicKey } = generateKeyPairSync(kind, options);
  const how = {
    PS256: { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 },
    ES256: { dsaEncoding: 'ieee-p1363' },
  }[alg];
  const digest = alg === 'EdDSA' ? null : 'sha256';
  const pem = Buffer.from(publicKey.export({ type: 'spki', format: 'pem' })).toString('base64');
  return {
    token: (claims) => token(claims, alg, (text) => sign(digest, text, { key: privateKey, ...how })),
    table: (slot) => `\n[signing_keys.${slot}]\nmethod = "${alg}"\nkey = "${pem}"\n`,
  };
}

const SETTINGS = readFileSync(process.env.REALTIME_FILE, 'utf8');
const WITHOUT_KEYS = SETTINGS.replace(/\[signing_keys\.1\][^[]*/, '');

// The server reads other settings; whoever calls waits for what must be different then.
function settings(text) {
  writeFileSync(process.env.REALTIME_FILE, text);
  process.kill(Number(process.env.REALTIME_PID), 'SIGHUP');
}

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${PATIENCE} ms: ${what}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A connection whose frames are read one after the other.
class Client {
  constructor(claims, options = {}) {
    this.frames = [];
    this.readers = [];
    this.socket = new WebSocket(`${URL_}?token=${encodeURIComponent(token(claims))}`, options);
    this.socket.on('message', (data, binary) => this.push({ data, binary }));
    this.ended = new Promise((resolve) => this.socket.on('close', (code) => resolve({ code })));
    this.socket.on('error', (error) => this.push({ error }));
  }

  push(frame) {
    const reader = this.readers.shift();
    if (reader) reader(frame); else this.frames.push(frame);
  }

  async next(event) {
    const frame = this.frames.length
      ? this.frames.shift()
      : await within(new Promise((resolve) => this.readers.push(resolve)), `a message (${event})`);
    if (frame.error) throw frame.error;
    assert.equal(frame.binary, false, 'R-JSON-1: text frames only');
    const message = JSON.parse(frame.data);
    assert.equal(message.event, event, JSON.stringify(message));
    return message;
  }

  send(message) { this.socket.send(JSON.stringify(message)); }

  // Everything sent so far is processed, and nothing else came.
  async settled() {
    this.send({ event: 'hotsock.ping' });
    assert.deepEqual(await this.next('hotsock.pong'), { event: 'hotsock.pong', data: '{}' });
  }

  async refused(code, channel) {
    const { error, channel: named } = await this.next('hotsock.error');
    assert.equal(error.code, code);
    assert.equal(named, channel);
    assert.equal(typeof error.message, 'string');
  }

  closed(what) { return within(this.ended, what); }
}

async function connected(claims, options) {
  const client = new Client(claims, options);
  client.welcome = await client.next('hotsock.connected');
  return client;
}

// The status with which the server answers an upgrade.
function answer(signed) {
  return within(new Promise((resolve) => {
    const socket = new WebSocket(`${URL_}?token=${signed}`);
    socket.on('unexpected-response', (_, response) => { resolve(response.statusCode); socket.terminate(); });
    socket.on('open', () => { socket.close(); resolve(101); });
    socket.on('error', () => {});
  }), 'an answer');
}

async function answers(signed, status) {
  const end = Date.now() + PATIENCE;
  while ((await answer(signed)) !== status) assert.ok(Date.now() < end, `no ${status} within ${PATIENCE} ms`);
}

// The same token with another signature.
function flipped(signed) {
  const at = signed.length - 10;
  return signed.slice(0, at) + (signed[at] === 'A' ? 'B' : 'A') + signed.slice(at + 1);
}

const room = {
  'presence.den': {
    subscribe: true,
    messages: { chat: { publish: true, echo: true }, 'is-typing': { publish: true } },
  },
};

const scenes = {
  async 'connect: id, secret, user (scenario 1; R-CONN-1, R-CONN-3, R-CONN-8, R-CONN-12, R-CONN-13, R-CONN-16)'() {
    const ana = await connected({ uid: 'ana', umd: { role: 'host' } });
    assert.equal(ana.socket.protocol, '');
    assert.match(ana.welcome.data.connectionId, /^[A-Za-z0-9_-]{15}=$/);
    assert.match(ana.welcome.data.connectionSecret, /^[A-Za-z0-9]{20}$/);
    assert.deepEqual(ana.welcome.meta, { uid: 'ana', umd: { role: 'host' } });
    ana.socket.close(1000, 'done');
    assert.equal((await ana.closed('the answer to a close')).code, 1000);
  },

  async 'refused before the upgrade (scenario 2; R-CONN-6, R-CONN-7, R-AUTH-14)'() {
    const now = Math.floor(Date.now() / 1000);
    assert.equal(await answer(token({ exp: now - 10 })), 401);
    assert.equal(await answer(token({ nbf: now + 1000 })), 401);
    assert.equal(await answer(flipped(token({}))), 401);
    assert.equal(await answer(token({ scope: 'subscribe' })), 403);
    assert.equal(await answer(token({ connectionId: 'Zt4Qw8LmPoAxBC0=' })), 403);
  },

  // R-AUTH-1, R-AUTH-4, R-AUTH-12, R-AUTH-16, R-AUTH-17
  async 'keys of every kind are added and taken away while it runs (scenarios 1, 3)'() {
    const ana = await connected({ uid: 'ana', channels: room });
    ana.send({ event: 'hotsock.subscribe', channel: 'presence.den' });
    await ana.next('hotsock.subscribed');
    for (const alg of ['RS256', 'PS256', 'ES256', 'EdDSA']) {
      const key = keyPair(alg);
      settings(SETTINGS + key.table(2));
      await answers(key.token({ uid: 'ben' }), 101);
      assert.equal(await answer(token({ uid: 'ben' })), 101, `both keys are good beside ${alg}`);
      assert.equal(await answer(flipped(key.token({ uid: 'ben' }))), 401);
      assert.equal(await answer(keyPair(alg).token({ uid: 'ben' })), 401, `another ${alg} key is not good`);
      settings(WITHOUT_KEYS + key.table(1));
      await answers(token({ uid: 'ben' }), 401);
      assert.equal(await answer(key.token({ uid: 'ben' })), 101);
      ana.send({ event: 'chat', channel: 'presence.den', data: alg });
      assert.equal((await ana.next('chat')).data, alg, 'who is connected stays, also without the key');
    }
    settings(SETTINGS);
    await answers(token({ uid: 'ben' }), 101);
    ana.socket.close();
  },

  async 'one of two wins a single-use token (scenario 4)'() {
    const once = token({ singleUse: true, jti: 'only-once', uid: 'ana' });
    assert.deepEqual((await Promise.all([answer(once), answer(once)])).sort(), [101, 403]);
  },

  async 'subscribe, publish from a backend, unsubscribe (scenario 5; R-SUB-1, R-SUB-12, R-DLV-2, R-DLV-4, R-SRV-7)'() {
    const ana = await connected({ uid: 'ana', channels: { 'board.1': { subscribe: true } } });
    ana.send({ event: 'hotsock.subscribe', channel: 'board.1' });
    assert.deepEqual(await ana.next('hotsock.subscribed'),
      { event: 'hotsock.subscribed', channel: 'board.1', data: {}, meta: { uid: 'ana', umd: null } });
    const publish = (key) => fetch(`${HTTP}/publish`, {
      method: 'POST', headers: { Authorization: `Bearer ${key}` },
      body: JSON.stringify({ channel: 'board.1', event: 'price', data: { bid: 101.5 }, eagerIdGeneration: true }),
    });
    assert.equal((await publish('wrong')).status, 401);
    const answer = await publish(process.env.REALTIME_API_KEY);
    assert.equal(answer.status, 202);
    const { id } = await answer.json();
    assert.match(id, /^[0-9A-HJKMNP-TV-Z]{26}$/);
    assert.deepEqual(await ana.next('price'), { id, event: 'price', channel: 'board.1', data: { bid: 101.5 } });
    ana.send({ event: 'hotsock.unsubscribe', channel: 'board.1' });
    await ana.next('hotsock.unsubscribed');
    assert.equal((await publish(process.env.REALTIME_API_KEY)).status, 202);
    await ana.settled();
    ana.socket.close();
  },

  async 'a subscribe token brings a user of its own (scenario 6; R-SUB-4, R-SUB-6)'() {
    const [ana, ben] = [await connected({ uid: 'ana' }), await connected({ uid: 'ben' })];
    const { connectionId } = ana.welcome.data;
    const given = token({ scope: 'subscribe', connectionId, uid: 'anna', channels: { vault: { subscribe: true } } });
    ben.send({ event: 'hotsock.subscribe', channel: 'vault', data: { token: given } });
    await ben.refused('INVALID_SUBSCRIBE_TOKEN', 'vault');
    ana.send({ event: 'hotsock.subscribe', channel: 'vault', data: { token: given } });
    assert.equal((await ana.next('hotsock.subscribed')).meta.uid, 'anna');
    ana.socket.close();
    ben.socket.close();
  },

  // R-PRES-3, R-PRES-4, R-PRES-13, R-PUB-8, R-PUB-9, R-PUB-12, R-PUB-13
  async 'chat with presence (scenarios 8, 12)'() {
    const [ana, ben] = await Promise.all(['ana', 'ben'].map((uid) => connected({ uid, channels: room })));
    ana.send({ event: 'hotsock.subscribe', channel: 'presence.den' });
    assert.deepEqual((await ana.next('hotsock.subscribed')).data.members, [{ uid: 'ana', umd: null }]);
    ben.send({ event: 'hotsock.subscribe', channel: 'presence.den' });
    const members = [{ uid: 'ana', umd: null }, { uid: 'ben', umd: null }];
    assert.deepEqual((await ben.next('hotsock.subscribed')).data.members, members);
    assert.deepEqual((await ana.next('hotsock.memberAdded')).data, { member: { uid: 'ben', umd: null }, members });

    ben.send({ event: 'is-typing', channel: 'presence.den' });
    ben.send({ event: 'chat', channel: 'presence.den', data: 'Grüße, 世界 👋' });
    const typing = await ana.next('is-typing');
    assert.deepEqual([typing.data, typing.meta], [null, { uid: 'ben', umd: null }]);
    const [hers, his] = [await ana.next('chat'), await ben.next('chat')];
    assert.deepEqual(hers, his);
    assert.equal(hers.data, 'Grüße, 世界 👋');

    ben.send({ event: 'shout', channel: 'presence.den', data: 'no' });
    await ben.refused('PUBLISH_PERMISSION_DENIED', 'presence.den');
    await ana.settled();
    ben.socket.terminate();
    assert.deepEqual((await ana.next('hotsock.memberRemoved')).data.members, [{ uid: 'ana', umd: null }]);
    ana.socket.close();
  },

  async 'an alias and an automatic subscription (scenarios 10, 11; R-SUB-22, R-SUB-28, R-SUB-29, R-ERR-4)'() {
    const messages = { note: { publish: true, echo: true } };
    const inbox = { subscribe: true, autoSubscribe: true, alias: 'me', messages };
    const ana = await connected({ uid: 'ana', channels: { 'inbox.7': inbox } });
    const confirmed = await ana.next('hotsock.subscribed');
    const { channel, data, meta } = confirmed;
    assert.deepEqual([channel, data.autoSubscribed, meta.channelAlias], ['inbox.7', true, 'me']);
    ana.send({ event: 'hotsock.subscribe', channel: 'me' });
    await ana.refused('ALREADY_SUBSCRIBED', 'inbox.7');
    ana.send({ event: 'note', channel: 'me', data: 1 });
    assert.equal((await ana.next('note')).channel, 'inbox.7');
    ana.send({ event: 'hotsock.unsubscribe', channel: 'me' });
    assert.equal((await ana.next('hotsock.unsubscribed')).meta.channelAlias, 'me');
    await ana.settled();
    ana.socket.close();
  },

  async 'metadata changes while subscribed (scenario 15; R-UMD-1, R-UMD-4)'() {
    const ana = await connected({ uid: 'ana', channels: room });
    ana.send({ event: 'hotsock.subscribe', channel: 'presence.den' });
    await ana.next('hotsock.subscribed');
    const umd = { mood: 'busy' };
    const change = token({ scope: 'umd', uid: 'ana', umd, channels: { 'presence.den': { umdUpdate: true } } });
    for (const repeat of [false, true]) {
      ana.send({ event: 'hotsock.umdUpdate', channel: 'presence.den', data: { token: change } });
      if (!repeat) assert.deepEqual((await ana.next('hotsock.memberUpdated')).data.member, { uid: 'ana', umd });
    }
    await ana.settled();
    ana.socket.close();
  },

  async 'errors leave the connection open (R-ERR-5, R-ERR-6, R-ERR-7, R-ERR-8, R-PRES-2)'() {
    const nobody = await connected({ channels: { 'presence.den': { subscribe: true } } });
    nobody.socket.send('not JSON');
    await nobody.refused('INVALID_MESSAGE', undefined);
    nobody.send({ event: 'hotsock.unheardOf' });
    await nobody.refused('INVALID_EVENT', undefined);
    nobody.send({ event: 'chat' });
    await nobody.refused('INVALID_CHANNEL', undefined);
    nobody.send({ event: 'hotsock.subscribe', channel: 'elsewhere' });
    await nobody.refused('SUBSCRIBE_PERMISSION_DENIED', 'elsewhere');
    nobody.send({ event: 'hotsock.unsubscribe', channel: 'elsewhere' });
    await nobody.refused('NOT_SUBSCRIBED', 'elsewhere');
    nobody.send({ event: 'hotsock.subscribe', channel: 'presence.den' });
    await nobody.refused('PRESENCE_CHANNEL_USER_ID_REQUIRED', 'presence.den');
    await nobody.settled();
    nobody.socket.close();
  },

  async 'frames: pings, fragments, compression, and what closes (R-CONN-29, R-CONN-32, R-LIVE-15)'() {
    for (const perMessageDeflate of [true, false]) {
      const ana = await connected({ uid: 'ana', channels: room }, { perMessageDeflate });
      assert.equal(ana.socket.extensions.includes('permessage-deflate'), perMessageDeflate);
      const pong = within(new Promise((resolve) => ana.socket.once('pong', resolve)), 'a pong');
      ana.socket.ping('here?');
      assert.equal(String(await pong), 'here?');
      ana.send({ event: 'hotsock.subscribe', channel: 'presence.den' });
      await ana.next('hotsock.subscribed');
      const text = JSON.stringify({ event: 'chat', channel: 'presence.den', data: 'x'.repeat(30_000) });
      ana.socket.send(text.slice(0, 1000), { fin: false });
      ana.socket.ping();
      ana.socket.send(text.slice(1000, 2000), { fin: false });
      ana.socket.send(text.slice(2000), { fin: true });
      assert.equal((await ana.next('chat')).data.length, 30_000);
      ana.socket.send(Buffer.from('{}'), { binary: true });
      assert.equal((await ana.closed('a close')).code, 1003);
    }
    const ben = await connected({ uid: 'ben' });
    ben.socket.send(' '.repeat(128 * 1024 + 1));
    assert.equal((await ben.closed('a close')).code, 1009);
  },

  async 'keep-alive with the claim only (scenario 24; R-LIVE-1, R-LIVE-2)'() {
    const [ana, ben] = [await connected({ uid: 'ana', keepAlive: true }), await connected({ uid: 'ben' })];
    assert.deepEqual(await ana.next('hotsock.keepAlive'), { event: 'hotsock.keepAlive', data: {} });
    assert.deepEqual(await ana.next('hotsock.keepAlive'), { event: 'hotsock.keepAlive', data: {} });
    await ben.settled();
    ana.socket.close();
    ben.socket.close();
  },

  async 'the server ends: 1012 (R-CONN-30)'() {
    const clients = await Promise.all([1, 2, 3].map((n) => connected({ uid: `user-${n}` })));
    process.kill(Number(process.env.REALTIME_PID), 'SIGTERM');
    for (const client of clients) assert.equal((await client.closed('1012')).code, 1012);
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
  }
  // Sockets that were closed politely may wait for the server's last word.
  process.exit(0);
})();
