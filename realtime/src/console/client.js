// A client of the protocol: one connection, its way back after it is lost, its subscriptions, and its HTTP calls. It knows
// nothing of the page; whoever listens is told with events:
//
//   state    { state, why }           idle, connecting, connected, waiting, suspended, refused or ended, and why
//   frame    { sent, via, title, text, note }   whatever went over the wire
//   latency  { milliseconds }         a ping was answered
//   changed                           subscriptions or their members are others now

/** Messages that a client sends before the welcome would wait; without one the connection is no good (R-CONN-10). */
const WELCOME_WITHIN = 5_000;

/** An HTTP call is given up after that; the server answers within five seconds (R-LIM-18). */
const CALL_WITHIN = 10_000;

const CODES = {
  1000: 'closed in agreement',
  1001: 'the server let it go: its time was up, it was idle, or a heartbeat was missed',
  1002: 'a frame was against the WebSocket protocol',
  1003: 'the server takes no binary frames',
  1005: 'closed without a code',
  1006: 'lost, or never opened',
  1007: 'a text frame was not UTF-8',
  1008: 'messages came faster than this page could take them',
  1009: 'a message was too large',
  1012: 'the server is being replaced',
};

/** What a close code means. */
export function meaning(code) {
  return CODES[code] ?? 'no code of this protocol';
}

/** The pause before the n-th attempt after a loss: none, then 1 s growing by half, up to 1 s more by chance, 20 s at most. */
export function pause(n, chance = Math.random()) {
  return n === 0 ? 0 : Math.min(20_000, 1_000 * 1.5 ** (n - 1) + chance * 1_000);
}

export class Client extends EventTarget {
  #socket = null;
  #token = '';
  #timer = 0;
  #pings = [];
  #wanted = new Map();              // name → subscribe token, of what is to be there again after a loss

  state = 'idle';
  why = '';
  attempts = 0;                     // since the last good connection
  lastClose = null;                 // { code, reason, at }
  reconnects = true;
  connection = null;                // data and meta of hotsock.connected
  subscriptions = new Map();        // channel → { alias, uid, umd, auto, members }

  /** `url` is the WebSocket's; the HTTP interfaces are at the same host. */
  constructor(url) {
    super();
    this.url = new URL(url);
    this.http = new URL('/', this.url);
    this.http.protocol = this.url.protocol === 'wss:' ? 'https:' : 'http:';
  }

  #tell(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #become(state, why = '') {
    [this.state, this.why] = [state, why];
    this.#tell('state', { state, why });
  }

  /** Opens a connection with this token; an earlier one ends. `once`: a token that is good for one connection. */
  connect(token, { once = false } = {}) {
    this.#drop();
    this.#wanted.clear();
    [this.#token, this.once, this.attempts, this.wasConnected] = [token, once, 0, false];
    this.#open();
  }

  /** Closes for now: subscriptions come back with `resume`. */
  suspend() {
    if (!['connected', 'connecting', 'waiting'].includes(this.state)) return;
    this.#drop();
    this.#become('suspended');
  }

  resume() {
    if (this.state !== 'suspended') return;
    this.attempts = 0;
    this.#open();
  }

  /** Closes for good. */
  terminate() {
    this.#drop();
    this.#wanted.clear();
    this.#token = '';
    if (this.state !== 'idle') this.#become('ended');
  }

  /** Tries at once what would be tried later. */
  hurry() {
    if (this.state !== 'waiting') return;
    clearTimeout(this.#timer);
    this.#open();
  }

  #drop() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#lost();
    socket?.close();
  }

  #lost() {
    this.#socket = null;
    this.#pings = [];
    this.connection = null;
    this.subscriptions.clear();
    this.#tell('changed');
  }

  #open() {
    const url = new URL(this.url);
    url.searchParams.set('token', this.#token);
    this.#become('connecting');
    let socket;
    try {
      socket = new WebSocket(url);
    } catch (error) {
      this.#become('refused', error.message);
      return;
    }
    this.#socket = socket;
    this.attempts += 1;
    const mine = () => this.#socket === socket;
    const late = setTimeout(() => { if (!this.connection) socket.close(); }, WELCOME_WITHIN);
    socket.onmessage = ({ data }) => { if (mine()) this.#received(data); };
    socket.onclose = ({ code, reason }) => {
      clearTimeout(late);
      this.lastClose = { code, reason, at: new Date() };
      if (!mine()) return;
      const welcomed = this.connection !== null;
      this.#lost();
      void this.#closed(welcomed, code, reason);
    };
  }

  async #closed(welcomed, code, reason) {
    const said = `${code} ${reason ? `“${reason}”` : meaning(code)}`;
    if (welcomed) {
      if (this.once) return this.#become('refused', `${said}. The token was for a single use: another one is needed`);
      return this.#again(said);
    }
    // A browser does not tell a page why an upgrade failed: the state of the server is a hint.
    this.#become('connecting', 'asking the server how it is');
    const socket = this.#socket;
    const found = await this.#health();
    if (this.state !== 'connecting' || this.#socket !== socket) return undefined;
    if (found.refuses && !this.wasConnected) return this.#become('refused', found.why);
    return this.#again(found.why);
  }

  #again(why) {
    if (!this.reconnects) return this.#become('refused', `${why}. Reconnecting is switched off`);
    const wait = pause(this.attempts);
    this.#become('waiting', wait < 1000 ? why : `${why}; next attempt in ${Math.round(wait / 1000)} s`);
    this.#timer = setTimeout(() => this.#open(), wait);
    return undefined;
  }

  async #health() {
    try {
      const answer = await fetch(new URL('healthz', this.http), { cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(CALL_WITHIN) });
      if (answer.ok) return { refuses: true, why: 'The server is there and refused the connection.' };
      const { status } = await answer.json().catch(() => ({}));
      return { refuses: false, why: `The server does not take connections now: ${status ?? answer.status}` };
    } catch {
      return { refuses: false, why: `No server answers at ${this.http.host}` };
    }
  }

  #received(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      this.#tell('frame', { sent: false, via: 'WebSocket', title: 'not JSON', text: String(text) });
      return;
    }
    const { event, channel, data, meta, error } = message;
    let note = '';
    switch (event) {
      case 'hotsock.connected':
        this.connection = { ...data, ...meta };
        [this.attempts, this.wasConnected] = [0, true];
        break;
      case 'hotsock.subscribed':
        this.subscriptions.set(channel, {
          alias: meta?.channelAlias, uid: meta?.uid, umd: meta?.umd, auto: data?.autoSubscribed === true, members: data?.members,
        });
        break;
      case 'hotsock.unsubscribed':
        this.subscriptions.delete(channel);
        break;
      case 'hotsock.memberAdded':
      case 'hotsock.memberUpdated':
      case 'hotsock.memberRemoved': {
        const subscription = this.subscriptions.get(channel);
        if (subscription) subscription.members = data.members;
        break;
      }
      case 'hotsock.error':
        if (error?.code === 'NOT_SUBSCRIBED') this.subscriptions.delete(channel);
        if (error?.code !== 'ALREADY_SUBSCRIBED' && !this.subscriptions.has(channel)) this.#wanted.delete(channel);
        break;
      case 'hotsock.pong': {
        const begun = this.#pings.shift();
        if (begun !== undefined) {
          const milliseconds = performance.now() - begun;
          note = `${milliseconds.toFixed(1)} ms`;
          this.#tell('latency', { milliseconds });
        }
        break;
      }
      default:
    }
    this.#tell('frame', { sent: false, via: 'WebSocket', title: event, channel, text, note, failed: event === 'hotsock.error' });
    if (event === 'hotsock.ping') this.send({ event: 'hotsock.pong' });
    if (event === 'hotsock.connected') {
      this.#become('connected');
      for (const [name, token] of this.#wanted) this.#subscribe(name, token);
    }
    if (event.startsWith('hotsock.')) this.#tell('changed');
  }

  /** Sends a text as it is; whether there was a connection to send it on. */
  sendText(text) {
    if (this.state !== 'connected') return false;
    this.#socket.send(text);
    let message = null;
    try {
      message = JSON.parse(text);
    } catch { /* it is shown as it is */ }
    this.#tell('frame', { sent: true, via: 'WebSocket', title: message?.event ?? 'raw', channel: message?.channel, text });
    return true;
  }

  send(message) {
    return this.sendText(JSON.stringify(message));
  }

  subscribe(channel, token) {
    if (this.state === 'connected') this.#wanted.set(channel, token);
    return this.#subscribe(channel, token);
  }

  #subscribe(channel, token) {
    return this.send({ event: 'hotsock.subscribe', channel, ...(token ? { data: { token } } : {}) });
  }

  unsubscribe(channel) {
    const alias = this.subscriptions.get(channel)?.alias;
    this.#wanted.delete(channel);
    if (alias !== undefined) this.#wanted.delete(alias);
    return this.send({ event: 'hotsock.unsubscribe', channel });
  }

  ping() {
    if (this.state !== 'connected') return false;
    this.#pings.push(performance.now());
    return this.send({ event: 'hotsock.ping' });
  }

  /** `POST /connection/{name}` in the name of this connection; the answer's value, or null. */
  call(name, body) {
    return this.request('POST', `connection/${name}`, JSON.stringify(body), true);
  }

  /** An HTTP request. With `credentials` the connection's are added to the query, and shown to nobody. */
  async request(method, path, body, credentials) {
    const shown = `${method} /${path.replace(/^\//, '')}`;
    const url = new URL(path.replace(/^\//, ''), this.http);
    if (url.host !== this.http.host) throw new Error('a path on this server is wanted');
    if (credentials) {
      if (!this.connection) return null;
      url.searchParams.set('connectionId', this.connection.connectionId);
      url.searchParams.set('connectionSecret', this.connection.connectionSecret);
    }
    this.#tell('frame', { sent: true, via: 'HTTP', title: shown, text: body ?? '' });
    const begun = performance.now();
    const took = () => `${(performance.now() - begun).toFixed(1)} ms`;
    try {
      const answer = await fetch(url, {
        method, cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(CALL_WITHIN),
        ...(method === 'GET' || method === 'HEAD' ? {} : { body }),
      });
      const text = await answer.text();
      this.#tell('frame', { sent: false, via: 'HTTP', title: `${answer.status} ${shown}`, text, note: took(), failed: !answer.ok });
      if (!answer.ok) return null;
      return JSON.parse(text);
    } catch (error) {
      this.#tell('frame', { sent: false, via: 'HTTP', title: `no answer: ${shown}`, text: String(error.message), note: took(), failed: true });
      return null;
    }
  }
}
