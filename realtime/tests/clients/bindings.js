// A client of bindings: an application binds functions to events of channels, and the client sees to it that there is a
// connection and that the channels are subscribed. It does what the protocol's document says of its official client
// (R-CONN-10, R-CONN-27, R-CONN-28, R-ERR-11, R-SUB-25, R-LIVE-12, R-LIVE-18, R-PRES-22), over `ws`, and is written for
// these tests alone.
'use strict';

const WebSocket = require('ws');

/** The first attempt after a loss comes at once, the next after this many milliseconds, then half as many more each time. */
const PAUSE = 1_000;
const LONGEST_PAUSE = 20_000;
const WELCOME_WITHIN = 5_000;
const SUBSCRIBE_AGAIN = 250;

class Channel {
  constructor(name) {
    this.name = name;
    this.real = name;
    this.state = 'new';
    this.bindings = new Set();
    this.members = [];
  }

  get uid() { return this.meta?.uid; }
}

class Client {
  /** `connectTokenFn` is asked for a token before every attempt; `chance` is the jitter of its pauses, from 0 to 1. */
  constructor(url, { connectTokenFn, heartbeat = 0, chance = Math.random }) {
    Object.assign(this, { url, connectTokenFn, heartbeat, chance });
    this.channels = new Map();
    this.connects = 0;
    this.failures = [];             // status of each refused upgrade
    this.closes = [];               // code of each close
    this.log = [];                  // every message, as it came
    this.watchers = new Set();
    void this.open();
  }

  // ---- the connection

  async open() {
    const token = await this.connectTokenFn();
    if (this.ended) return;
    const socket = new WebSocket(`${this.url}?token=${encodeURIComponent(token)}`);
    this.socket = socket;
    const late = setTimeout(() => socket.close(), WELCOME_WITHIN);
    socket.on('unexpected-response', (_, response) => {
      this.failures.push(response.statusCode);
      socket.terminate();
    });
    socket.on('error', () => {});
    socket.on('message', (data) => this.received(JSON.parse(data), late));
    socket.on('close', (code) => {
      clearTimeout(late);
      clearInterval(this.beats);
      this.connection = null;
      this.closes.push(code);
      for (const channel of this.channels.values()) channel.state = 'new';
      if (!this.ended) this.again();
      this.changed();
    });
  }

  again() {
    const n = this.attempts ?? 0;
    this.attempts = n + 1;
    const pause = n === 0 ? 0 : Math.min(LONGEST_PAUSE, PAUSE * 1.5 ** (n - 1) + this.chance() * 1_000);
    this.timer = setTimeout(() => this.open(), pause);
  }

  /** Closes for good. */
  terminate() {
    this.ended = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  /** Nothing is read or said any more, as when a cable is pulled. */
  pullTheCable() {
    this.ended = true;
    clearInterval(this.beats);
    this.socket._socket.pause();
  }

  send(message) { this.socket.send(JSON.stringify(message)); }

  // ---- bindings

  /** Calls `f` for every such event of a channel, or of the connection if there is none. */
  bind(event, f, { channel: name, subscribeTokenFn } = {}) {
    const channel = this.channels.get(name) ?? this.find(name) ?? new Channel(name);
    if (!this.find(name)) this.channels.set(name, channel);
    const binding = { event, f, channel, unbind: () => this.unbind(binding) };
    channel.bindings.add(binding);
    if (subscribeTokenFn) channel.subscribeTokenFn = subscribeTokenFn;
    if (this.connection) void this.subscribe(channel);
    return binding;
  }

  unbind({ channel, ...binding }) {
    for (const it of channel.bindings) if (it.f === binding.f && it.event === binding.event) channel.bindings.delete(it);
    if (channel.bindings.size > 0 || channel.state !== 'subscribed') return;
    channel.state = 'unsubscribePending';
    this.send({ event: 'hotsock.unsubscribe', channel: channel.real });
  }

  async subscribe(channel) {
    if (['subscribePending', 'subscribed'].includes(channel.state)) return;
    channel.state = 'subscribePending';
    const { connectionId } = this.connection;
    const token = await channel.subscribeTokenFn?.({ channel: channel.name, connectionId });
    if (this.connection?.connectionId !== connectionId || channel.state !== 'subscribePending') return;
    this.send({ event: 'hotsock.subscribe', channel: channel.name, ...(token ? { data: { token } } : {}) });
  }

  /** The channel of a name or alias. */
  find(name) {
    return this.channels.get(name) ?? [...this.channels.values()].find((it) => it.real === name);
  }

  // ---- what comes

  received(message, late) {
    const { event, channel: name, data, meta, error } = message;
    this.log.push(message);
    const channel = this.find(meta?.channelAlias) ?? this.find(name);
    switch (event) {
      case 'hotsock.connected':
        clearTimeout(late);
        [this.connection, this.attempts] = [{ ...data, ...meta }, 0];
        this.connects += 1;
        if (this.heartbeat) this.beats = setInterval(() => this.send({ event: 'hotsock.heartbeat' }), this.heartbeat * 900);
        for (const each of this.channels.values()) if (each.bindings.size > 0) void this.subscribe(each);
        break;
      case 'hotsock.subscribed': {
        const it = channel ?? new Channel(meta?.channelAlias ?? name);
        if (!channel) this.channels.set(it.name, it);
        Object.assign(it, { real: name, state: 'subscribed', meta, members: data.members ?? [] });
        break;
      }
      case 'hotsock.unsubscribed':
        if (channel) channel.state = 'unsubscribeConfirmed';
        break;
      case 'hotsock.memberAdded':
      case 'hotsock.memberRemoved':
        if (channel) channel.members = data.members;
        break;
      case 'hotsock.error':
        if (channel) this.failed(channel, error.code);
        break;
      case 'hotsock.ping':
        this.send({ event: 'hotsock.pong' });
        break;
      default:
    }
    for (const binding of channel?.bindings ?? []) if (binding.event === event) binding.f(message);
    this.changed();
  }

  failed(channel, code) {
    if (code === 'ALREADY_SUBSCRIBED') channel.state = 'subscribed';
    else if (['SUBSCRIBE_PERMISSION_DENIED', 'INVALID_SUBSCRIBE_TOKEN'].includes(code)) channel.state = 'subscribeFailed';
    else if (code === 'NOT_SUBSCRIBED') {
      channel.state = 'unsubscribeConfirmed';
      if (channel.bindings.size > 0) setTimeout(() => this.connection && this.subscribe(channel), SUBSCRIBE_AGAIN);
    }
  }

  changed() {
    for (const watcher of this.watchers) watcher();
  }

  /** Waits until something is so. */
  until(what, holds, patience = 20_000) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.watchers.delete(look);
        reject(new Error(`not within ${patience} ms: ${what}; the last messages:\n${this.log.slice(-5).map((it) => JSON.stringify(it)).join('\n')}`));
      }, patience);
      const look = () => {
        if (!holds()) return;
        clearTimeout(timer);
        this.watchers.delete(look);
        resolve();
      };
      this.watchers.add(look);
      look();
    });
  }

  /** Everything sent so far has been processed, and whatever was to come before now has come. */
  async settled() {
    const pongs = () => this.log.filter((it) => it.event === 'hotsock.pong').length;
    const before = pongs();
    this.send({ event: 'hotsock.ping' });
    await this.until('a pong', () => pongs() > before);
  }

  /** The messages of an event so far. */
  got(event) { return this.log.filter((it) => it.event === event); }
}

module.exports = { Client };
