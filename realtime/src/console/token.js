// What a token says, without asking anybody; and what in it would keep the server from accepting it.

function part(text, name) {
  let bytes;
  try {
    const plain = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
    bytes = Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
  } catch {
    throw new Error(`its ${name} is not Base64`);
  }
  const json = new TextDecoder().decode(bytes);
  let value;
  try {
    value = JSON.parse(json);
  } catch {
    throw new Error(`its ${name} is not JSON`);
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw new Error(`its ${name} is not a JSON object`);
  return { json, value };
}

/** Header and claims of a token; an Error says why it is none. */
export function decode(text) {
  const token = text.replace(/\s+/g, '');
  const parts = token.split('.');
  if (parts.length !== 3) throw new Error('a token has three parts with dots between them');
  return { token, header: part(parts[0], 'header'), claims: part(parts[1], 'payload') };
}

/** A span of time in words. */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** How long the claims are good, in words; the time is in milliseconds. */
export function lifetime({ exp, nbf }, now) {
  if (typeof exp !== 'number') return 'has no expiry';
  if (typeof nbf === 'number' && nbf * 1000 > now) return `not valid for another ${span(nbf - now / 1000)}`;
  const left = exp - now / 1000;
  return left > 0 ? `expires in ${span(left)}` : `expired ${span(-left)} ago`;
}

/** Why no server could take this token to connect, in sentences; none if it may be good. */
export function faults({ header, claims }, now) {
  const { exp, nbf, scope, connectionId, singleUse, jti, channels } = claims.value;
  const found = [];
  const { alg } = header.value;
  if (!/^(?:(?:HS|RS|PS|ES)(?:256|384|512)|EdDSA)$/.test(alg)) found.push(`The algorithm ${JSON.stringify(alg)} is not accepted.`);
  if (typeof exp !== 'number') found.push('It has no exp, or one that is no number.');
  else if (exp * 1000 <= now) found.push(`It expired ${span(now / 1000 - exp)} ago.`);
  if (typeof nbf === 'number' && nbf * 1000 > now) found.push(`It is not valid for another ${span(nbf - now / 1000)}.`);
  if (typeof scope !== 'string') found.push('It has no scope.');
  else if (!scope.split(' ').includes('connect')) found.push(`Its scope is ${JSON.stringify(scope)}, without connect.`);
  if (connectionId !== undefined) found.push('It has a connectionId: it is for use on a connection, not to open one.');
  if (singleUse === true && !jti) found.push('It is for a single use, but has no jti.');
  if (channels !== undefined && (channels === null || typeof channels !== 'object' || Array.isArray(channels))) {
    found.push('Its channels are not an object.');
  }
  return found;
}

/** Names that the claims grant something for: the literal keys, and their aliases. */
export function channelNames({ channels }) {
  if (channels === null || typeof channels !== 'object') return [];
  return Object.entries(channels).flatMap(([name, grants]) => {
    const literal = !name.includes('*') && !name.startsWith('#regex:');
    return literal ? [name, ...(typeof grants?.alias === 'string' ? [grants.alias] : [])] : [];
  });
}
