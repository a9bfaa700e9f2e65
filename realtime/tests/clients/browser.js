// A real browser, driven over the DevTools protocol through `ws`: as much of it as the tests of pages need.
//
// Variable: CHROMIUM.
'use strict';

const { spawn } = require('node:child_process');
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const WebSocket = require('ws');

const PATIENCE = 30_000;

// Keys by the names that a page is told.
const KEYS = {
  Enter: { code: 'Enter', windowsVirtualKeyCode: 13, text: '\r' },
  Tab: { code: 'Tab', windowsVirtualKeyCode: 9 },
  Escape: { code: 'Escape', windowsVirtualKeyCode: 27 },
  ' ': { code: 'Space', windowsVirtualKeyCode: 32, text: ' ' },
  Backspace: { code: 'Backspace', windowsVirtualKeyCode: 8 },
  ArrowUp: { code: 'ArrowUp', windowsVirtualKeyCode: 38 },
  ArrowDown: { code: 'ArrowDown', windowsVirtualKeyCode: 40 },
  ArrowRight: { code: 'ArrowRight', windowsVirtualKeyCode: 39 },
};

// What a page said that nobody wants to hear, and where it asked for anything.
class Complaints {
  constructor() {
    this.exceptions = [];
    this.errors = [];
    this.requests = [];
  }

  hear({ method, params }) {
    if (method === 'Runtime.exceptionThrown') {
      const { text, exception } = params.exceptionDetails;
      this.exceptions.push(exception?.description ?? text);
    } else if (method === 'Log.entryAdded' && params.entry.level === 'error') {
      this.errors.push(`${params.entry.source}: ${params.entry.text} ${params.entry.url ?? ''}`);
    } else if (method === 'Runtime.consoleAPICalled' && ['error', 'warning', 'assert'].includes(params.type)) {
      this.errors.push(params.args.map((it) => it.value ?? it.description).join(' '));
    } else if (method === 'Network.requestWillBeSent') {
      this.requests.push(params.request.url);
    } else if (method === 'Network.webSocketCreated') {
      this.requests.push(params.url);
    }
  }
}

class Tab {
  constructor(send, screenshots, complaints) {
    Object.assign(this, { send, screenshots, complaints });
  }

  async evaluate(expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    return result.value;
  }

  async until(what, expression) {
    const end = Date.now() + PATIENCE;
    while (!(await this.evaluate(`!!(${expression})`))) {
      if (Date.now() > end) {
        const text = await this.evaluate('document.body.innerText');
        throw new Error(`not within ${PATIENCE} ms: ${what}; the page says:\n${text}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async size(width, height, { phone = false } = {}) {
    await this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: phone ? 2 : 1, mobile: phone });
  }

  async scheme(value) {
    await this.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value }] });
  }

  async open(url) {
    await this.send('Page.navigate', { url });
  }

  // A tab behind another one draws nothing.
  async front() {
    await this.send('Page.bringToFront');
  }

  // Types into whatever has the focus.
  async type(text) {
    await this.send('Input.insertText', { text });
  }

  // Presses a key: a letter, or one of KEYS.
  async press(key, { ctrl = false, shift = false } = {}) {
    const known = KEYS[key] ?? { text: key, windowsVirtualKeyCode: key.toUpperCase().charCodeAt(0) };
    const modifiers = (ctrl ? 2 : 0) | (shift ? 8 : 0);
    const { text, ...rest } = known;
    await this.send('Input.dispatchKeyEvent', { type: 'keyDown', key, modifiers, ...rest, ...(ctrl ? {} : { text }) });
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', key, modifiers, ...rest });
  }

  async screenshot(name) {
    const { data } = await this.send('Page.captureScreenshot', { format: 'png' });
    writeFileSync(path.join(this.screenshots, name), Buffer.from(data, 'base64'));
  }
}

class Browser {
  constructor(screenshots) {
    this.screenshots = screenshots;
    this.profile = mkdtempSync(path.join(tmpdir(), 'chromium-'));
    const sandbox = process.getuid() === 0 ? ['--no-sandbox'] : [];
    this.process = spawn(process.env.CHROMIUM, [
      '--headless=new', ...sandbox, '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
      '--disable-background-networking', '--disable-component-update',
      '--remote-debugging-port=0', `--user-data-dir=${this.profile}`, 'about:blank',
    ], { stdio: ['ignore', 'ignore', 'pipe'] });
  }

  devtools() {
    return new Promise((resolve, reject) => {
      let said = '';
      this.process.stderr.on('data', (chunk) => {
        said += chunk;
        const found = /DevTools listening on (ws:\S+)/.exec(said);
        if (found) resolve(found[1]);
      });
      this.process.on('exit', (status) => reject(new Error(`the browser ended with ${status}:\n${said}`)));
    });
  }

  async start() {
    this.socket = new WebSocket(await this.devtools(), { perMessageDeflate: false });
    await new Promise((resolve, reject) => { this.socket.on('open', resolve); this.socket.on('error', reject); });
    [this.waiting, this.tabs, this.id] = [new Map(), new Map(), 0];
    this.socket.on('message', (data) => {
      const message = JSON.parse(data);
      this.tabs.get(message.sessionId)?.hear(message);
      this.waiting.get(message.id)?.(message);
      this.waiting.delete(message.id);
    });
  }

  call(method, params = {}, sessionId = undefined) {
    return new Promise((resolve, reject) => {
      this.id += 1;
      this.waiting.set(this.id, ({ result, error }) => {
        if (error) reject(new Error(`${method}: ${error.message}`)); else resolve(result);
      });
      this.socket.send(JSON.stringify({ id: this.id, method, params, sessionId }));
    });
  }

  // A new tab, of which everything that it complains about is kept.
  async tab() {
    const { targetId } = await this.call('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.call('Target.attachToTarget', { targetId, flatten: true });
    const send = (method, params) => this.call(method, params, sessionId);
    const complaints = new Complaints();
    this.tabs.set(sessionId, complaints);
    for (const domain of ['Runtime', 'Page', 'Log', 'Network']) await send(`${domain}.enable`);
    return new Tab(send, this.screenshots, complaints);
  }

  // Asked politely, the browser ends its own processes, too; killed, they may still write for a while.
  async end() {
    this.process.removeAllListeners('exit');
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const gone = new Promise((resolve) => this.process.on('exit', resolve));
      const timer = setTimeout(() => this.process.kill('SIGKILL'), 5_000);
      if (this.socket) this.call('Browser.close').catch(() => {}); else this.process.kill();
      await gone;
      clearTimeout(timer);
    }
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}

// Runs a test in a browser, and ends this process with 0 when it kept every promise.
exports.inBrowser = (screenshots, test) => {
  const browser = new Browser(screenshots);
  browser.start().then(() => test(browser))
    .then(() => 0, (error) => { console.error(error.stack); return 1; })
    .then(async (status) => { await browser.end(); process.exit(status); });
};
