// Two tabs of a real browser chat over the example's page, and come back by themselves when the server ends with 1012
// and another one listens. Ends with status 0 when every promise was kept.
//
// Arguments: the page's path, a folder for screenshots. Variables: REALTIME_URL, TOKEN_ANA, TOKEN_BEN, CHROMIUM.
// Prints `restart` when the server is to be replaced by another one at the same address.
'use strict';

const assert = require('node:assert/strict');
const { pathToFileURL } = require('node:url');
const { inBrowser } = require('./browser.js');

const [page, screenshots] = process.argv.slice(2);

inBrowser(screenshots, async (browser) => {
  async function tab(token, dark) {
    const made = await browser.tab();
    await made.size(390, 700, { phone: true });
    await made.scheme(dark ? 'dark' : 'light');
    const fragment = new URLSearchParams({ url: process.env.REALTIME_URL, channel: 'presence.lobby', token });
    await made.open(`${pathToFileURL(page)}#${fragment}`);
    return made;
  }

  async function say(tab, text) {
    await tab.evaluate('document.getElementById("text").focus()');
    await tab.type(text);
    await tab.press('Enter');
  }

  const state = 'document.getElementById("state")';
  const uids = 'Array.from(document.querySelectorAll("#members li"), (it) => it.textContent).sort().join()';
  const lines = 'Array.from(document.querySelectorAll("#log p"), (it) => it.textContent)';
  const says = (who, text) => `${lines}.includes(${JSON.stringify(who + text)})`;
  const ana = await tab(process.env.TOKEN_ANA, false);
  await ana.until('the first tab is connected', `${state}?.textContent === "connected as ana"`);
  const ben = await tab(process.env.TOKEN_BEN, true);
  await ben.until('the second tab is connected', `${state}?.textContent === "connected as ben"`);
  for (const each of [ana, ben]) await each.until('both see both', `${uids} === "ana,ben"`);

  await say(ana, 'Hello <b>Ben</b>, 世界');
  await say(ben, 'Hello Ana');
  for (const each of [ana, ben]) {
    await each.until("Ana's message, as text", says('ana', 'Hello <b>Ben</b>, 世界'));
    await each.until("Ben's message", says('ben', 'Hello Ana'));
  }
  await ana.screenshot('chat-light.png');
  await ben.screenshot('chat-dark.png');

  // What the page says on the way is kept, so that it need not be caught in the act.
  for (const each of [ana, ben]) {
    await each.evaluate('globalThis.seen = []');
    const note = `new MutationObserver(() => seen.push(${state}.textContent))`;
    await each.evaluate(`${note}.observe(${state}, { childList: true })`);
  }
  console.log('restart');
  for (const each of [ana, ben]) {
    await each.until('1012 is told', 'seen[0]?.startsWith("the server was updated; reconnecting")');
    const back = `seen.length > 1 && ${state}.dataset.state === "connected"`;
    await each.until('it is back', `${back} && ${uids} === "ana,ben"`);
  }
  await say(ben, 'And on we go');
  await ana.until('a message over the second server', says('ben', 'And on we go'));
  assert.equal(await ana.evaluate('document.querySelectorAll("#log b").length'), 3, 'nothing was shown twice');
  for (const each of [ana, ben]) assert.deepEqual(each.complaints.exceptions, []);
});
