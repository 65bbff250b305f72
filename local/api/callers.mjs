// Who calls: the API key says which door was used, the bearer token who stands there.
import { createHash, timingSafeEqual } from 'node:crypto';
import { HttpError } from './errors.mjs';

const ROLE_OF_KEY = { publishable: 'anon', secret: 'service_role' };

export class Callers {
  constructor(tokens, { publishable_key, secret_key }) {
    this.tokens = tokens;
    this.keys = [
      ['publishable', digest(publishable_key)],
      ['secret', digest(secret_key)],
    ];
  }

  /** The kind of the request's API key; a request without a right one goes no further. */
  async door(request, url) {
    const given = apiKey(request, url);
    if (!given) {
      throw new HttpError(401, {
        message: 'No API key found in request',
        hint: 'No `apikey` request header or url param was found.',
      });
    }
    const kind = this.#kindOf(given) ?? (await this.#kindOfLegacy(given));
    if (!kind) throw new HttpError(401, { message: 'Invalid API key', hint: 'Double check the API key.' });
    if (kind === 'secret' && /^Mozilla\//i.test(request.headers['user-agent'] ?? '')) {
      throw new HttpError(401, {
        message: 'Forbidden use of secret API key in browser',
        hint: 'Use the publishable key there.',
      });
    }
    return kind;
  }

  /** The caller behind that door: the user of the bearer token, or else what the key itself stands for. */
  async caller(request, url) {
    const kind = await this.door(request, url);
    const token = bearer(request);
    if (token === undefined || token === apiKey(request, url)) {
      const role = ROLE_OF_KEY[kind];
      return { role, claims: { role }, token: null, kind };
    }
    return { ...(await this.bearerOf(token)), kind };
  }

  /** A token that is there must be right: a wrong one never turns its sender into an anonymous caller. */
  async bearerOf(token) {
    const claims = await this.tokens.verify(token);
    return { role: typeof claims.role === 'string' ? claims.role : 'anon', claims, token };
  }

  #kindOf(text) {
    const given = digest(text);
    return this.keys.find(([, known]) => timingSafeEqual(known, given))?.[0];
  }

  /** The keys before sb_publishable_… and sb_secret_…: JWTs that only name a role. */
  async #kindOfLegacy(text) {
    if (text.split('.').length !== 3) return undefined;
    const { role, sub } = await this.tokens.verify(text).catch(() => ({}));
    return sub === undefined ? { anon: 'publishable', service_role: 'secret' }[role] : undefined;
  }
}

export function bearer(request) {
  const header = request.headers.authorization;
  if (header === undefined) return undefined;
  const found = /^Bearer(?:\s+(.*))?$/i.exec(header);
  return found ? (found[1] ?? '').trim() : undefined;
}

const apiKey = (request, url) => request.headers.apikey ?? url.searchParams.get('apikey') ?? undefined;
const digest = (text) => createHash('sha256').update(text).digest();
