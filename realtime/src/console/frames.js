// The list of what went over the wire: bounded, filtered, paused, copied; and never faster than the page can draw.

import { pretty, redacted } from './json.js';

/** Rows that are kept; the oldest goes first. */
export const KEPT = 2_000;

/** Characters that are kept, for the same reason: 2,000 messages of the largest kind would be a quarter of a gigabyte. */
const KEPT_CHARACTERS = 16_000_000;

/** Rows that are drawn at one time. What comes faster than that is drawn later, and what would be pushed out before it is
 * drawn never is: so a flood costs this page a bounded share of its time. */
const DRAWN_AT_ONCE = 60;

/** A body with more lines than that is folded at first. */
const FOLDED_ABOVE = 24;

function time(at) {
  const digits = (number, count) => String(number).padStart(count, '0');
  return `${digits(at.getHours(), 2)}:${digits(at.getMinutes(), 2)}:${digits(at.getSeconds(), 2)}.${digits(at.getMilliseconds(), 3)}`;
}

export class Frames {
  #list;
  #entries = [];                    // the newest KEPT
  #waiting = [];                    // of those, the ones that have no row yet
  #filter = '';
  #direction = 'all';
  #scheduled = false;
  #characters = 0;
  #following = true;                // the end stays in view, unless the reader has scrolled away from it
  #top = 0;                         // where the list was scrolled to by itself
  #count = { sent: 0, received: 0 };

  paused = false;
  secrets = false;

  /** `list` is the element that gets the rows; `changed` is told how many there are. */
  constructor(list, { changed, say }) {
    this.#list = list;
    this.changed = changed;
    this.say = say;
    list.addEventListener('keydown', (event) => this.#key(event));
    list.addEventListener('click', (event) => this.#click(event));
    list.addEventListener('scroll', () => this.#scrolled());
    list.addEventListener('focusin', ({ target }) => this.#rove(target.closest('li')));
  }

  add(frame) {
    const entry = { ...frame, at: new Date(), row: null };
    this.#count[entry.sent ? 'sent' : 'received'] += 1;
    this.#characters += entry.text.length;
    this.#entries.push(entry);
    this.#waiting.push(entry);
    while (this.#entries.length > KEPT || (this.#characters > KEPT_CHARACTERS && this.#entries.length > 1)) {
      const oldest = this.#entries.shift();
      this.#characters -= oldest.text.length;
      if (oldest.row) oldest.row.remove(); else this.#waiting.shift();
    }
    this.#schedule();
  }

  clear() {
    [this.#entries, this.#waiting, this.#characters] = [[], [], 0];
    this.#count = { sent: 0, received: 0 };
    this.#list.replaceChildren();
    this.#tell();
  }

  /** Shows only rows that contain a text, in one direction or in `all`. */
  show({ filter = this.#filter, direction = this.#direction }) {
    [this.#filter, this.#direction] = [filter.trim().toLowerCase(), direction];
    for (const entry of this.#entries) if (entry.row) entry.row.hidden = !this.#wanted(entry);
    this.#tell();
  }

  pause(paused) {
    this.paused = paused;
    this.#schedule();
  }

  /** Draws every row anew, as after secrets have been shown or hidden. */
  redraw() {
    this.#list.replaceChildren();
    for (const entry of this.#entries) entry.row = null;
    this.#waiting = [...this.#entries];
    this.#schedule();
  }

  /** What is shown, one JSON object a line. */
  text() {
    return this.#entries.filter((entry) => entry.row && this.#wanted(entry)).map((entry) => this.#line(entry)).join('\n');
  }

  #line({ at, sent, via, title, text }) {
    const head = { at: at.toISOString(), direction: sent ? 'sent' : 'received', via, title };
    return JSON.stringify({ ...head, text: redacted(text, this.secrets) });
  }

  #wanted(entry) {
    if (this.#direction !== 'all' && entry.sent !== (this.#direction === 'sent')) return false;
    if (this.#filter === '') return true;
    entry.sought ??= [entry.title, entry.channel ?? '', redacted(entry.text, false)].join(' ').toLowerCase();
    return entry.sought.includes(this.#filter);
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      if (this.paused) this.#tell(); else this.#draw();
    });
  }

  #draw() {
    const rows = this.#waiting.splice(0, DRAWN_AT_ONCE).map((entry) => {
      entry.row = this.#row(entry);
      return entry.row;
    });
    this.#list.append(...rows);
    if (!this.#list.querySelector('[tabindex="0"]')) this.#rove(this.#list.lastElementChild);
    this.follow();
    this.#tell();
    if (this.#waiting.length > 0) this.#schedule();
  }

  /** Keeps the end in view, if it was. */
  follow() {
    if (!this.#following) return;
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#top = this.#list.scrollTop;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#list;
    // Of what the list does by itself, the browser tells later, when more may have come.
    if (scrollTop === this.#top) return;
    this.#top = scrollTop;
    this.#following = scrollHeight - scrollTop - clientHeight < 40;
  }

  #row(entry) {
    const { at, sent, via, title, channel, text, note, failed } = entry;
    const row = document.createElement('li');
    row.className = `frame ${sent ? 'sent' : 'received'}${failed ? ' failed' : ''}`;
    row.tabIndex = -1;
    row.hidden = !this.#wanted(entry);
    row.entry = entry;
    const part = (name, content) => {
      const span = document.createElement('span');
      span.className = name;
      span.textContent = content;
      return span;
    };
    const arrow = part('arrow', sent ? '↑' : '↓');
    arrow.ariaHidden = 'true';
    const head = document.createElement('div');
    head.className = 'head';
    head.append(arrow, part('hidden-text', sent ? 'Sent' : 'Received'), part('time', time(at)), part('title', title));
    if (channel !== undefined) head.append(part('channel', String(channel)));
    if (note) head.append(part('note', note));
    head.append(part('via', via));
    const copy = document.createElement('button');
    copy.type = 'button';
    copy.className = 'copy';
    copy.tabIndex = -1;
    copy.textContent = 'Copy';
    head.append(copy);
    row.append(head);
    if (text !== '') {
      const body = document.createElement('pre');
      body.append(pretty(text, { secrets: this.secrets }));
      row.append(body);
      const lines = body.textContent.split('\n').length;
      if (lines > FOLDED_ABOVE || text.length > 4_000) {
        row.classList.add('folded');
        const more = document.createElement('button');
        more.type = 'button';
        more.className = 'more';
        more.tabIndex = -1;
        more.textContent = `Show all ${lines} lines`;
        row.append(more);
      }
    }
    return row;
  }

  #unfold(row) {
    const body = row.querySelector('pre');
    if (!body || !row.querySelector('.more')) return;
    const folded = row.classList.toggle('folded');
    if (!folded) body.replaceChildren(pretty(row.entry.text, { secrets: this.secrets, whole: true }));
    row.querySelector('.more').textContent = folded ? 'Show all' : 'Show less';
  }

  async copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      this.say(`${what} copied`);
    } catch {
      // Only pages from a secure origin may use the clipboard: the old way remains.
      const area = document.createElement('textarea');
      const before = document.activeElement;
      area.value = text;
      area.className = 'hidden-text';
      document.body.append(area);
      area.select();
      const done = document.execCommand('copy');
      area.remove();
      before?.focus();
      this.say(done ? `${what} copied` : 'The browser does not let this page copy');
    }
  }

  #click({ target }) {
    const row = target.closest('li');
    if (target.closest('.copy')) void this.copy(redacted(row.entry.text, this.secrets), 'Message');
    else if (target.closest('.more')) this.#unfold(row);
  }

  /** One row is reached with Tab, the others with the arrows. */
  #rove(row) {
    if (!row) return;
    for (const other of this.#list.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    row.tabIndex = 0;
  }

  #key(event) {
    const row = event.target.closest('li');
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const shown = [...this.#list.children].filter((it) => !it.hidden);
    const at = shown.indexOf(row);
    const go = {
      ArrowUp: shown[at - 1], ArrowDown: shown[at + 1], Home: shown[0], End: shown.at(-1),
    };
    if (event.key in go) {
      go[event.key]?.focus();
      event.preventDefault();
    } else if (event.key === 'Enter') {
      this.#unfold(row);
      event.preventDefault();
    } else if (event.key === 'c') {
      void this.copy(redacted(row.entry.text, this.secrets), 'Message');
      event.stopPropagation();
    }
  }

  #tell() {
    const shown = this.#entries.reduce((count, entry) => count + (entry.row && !entry.row.hidden ? 1 : 0), 0);
    this.changed({ ...this.#count, shown, kept: this.#entries.length, waiting: this.#waiting.length });
  }
}
