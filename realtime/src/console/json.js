// JSON text as people read it: indented and coloured, but never parsed on the way, so that every digit and every repeated
// member is shown as it came (R-JSON-9).

const TOKEN = /("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null)|([{}[\],])|\s+/gs;

/** Members whose values are hidden unless the reader asks for them. */
const SECRETS = new Set(['"token"', '"connectionSecret"']);

/** Longer texts are shown in part: colouring a megabyte would stop the page. */
export const SHOWN = 16_384;

const HIDDEN = '"(hidden)"';

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** The value of a JSON text, or undefined. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The text as it may be shown or copied: with the values of secret members hidden, if they are to be. */
export function redacted(text, secrets) {
  if (secrets || !isJson(text)) return text;
  return pieces(text, false).map(([, piece]) => piece).join('');
}

/** The text in pieces, each with its kind; white space between tokens is left out. */
function pieces(text, secrets) {
  const found = [];
  let secret = false;
  for (const [, string, colon, number, word, mark] of text.matchAll(TOKEN)) {
    if (string !== undefined && colon !== undefined) {
      found.push(['key', string], ['colon', ':']);
      secret = !secrets && SECRETS.has(string);
      continue;
    }
    if (string !== undefined) found.push(secret ? ['hidden', HIDDEN] : ['string', string]);
    else if (number !== undefined) found.push(['number', number]);
    else if (word !== undefined) found.push(['word', word]);
    else if (mark !== undefined) found.push(['mark', mark]);
    else continue;
    secret = false;
  }
  return found;
}

/** The text, indented and coloured; what is no JSON as it is. */
export function pretty(text, { secrets = false, whole = false } = {}) {
  const out = document.createDocumentFragment();
  if (!whole && text.length > SHOWN) {
    out.append(`${redacted(text, secrets).slice(0, SHOWN)}…`);
    return out;
  }
  if (!isJson(text)) {
    out.append(text);
    return out;
  }
  const all = pieces(text, secrets);
  let depth = 0;
  const line = () => `\n${'  '.repeat(depth)}`;
  all.forEach(([kind, piece], index) => {
    switch (kind) {
      case 'colon':
        out.append(': ');
        break;
      case 'mark':
        if (piece === ',') {
          out.append(`,${line()}`);
        } else if (piece === '{' || piece === '[') {
          const empty = '}]'.includes(all[index + 1][1]);
          depth += 1;
          out.append(empty ? piece : piece + line());
        } else {
          const empty = '{['.includes(all[index - 1][1]);
          depth -= 1;
          out.append(empty ? piece : line() + piece);
        }
        break;
      default: {
        const span = document.createElement('span');
        span.className = `json-${kind}`;
        span.textContent = piece;
        out.append(span);
      }
    }
  });
  return out;
}
