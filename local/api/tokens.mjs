// Access tokens: ES256 outside; HS256 with the project's secret is still accepted, as hosted projects do.
import { SignJWT, compactVerify, decodeProtectedHeader, importJWK } from 'jose';

const CACHED_TOKENS = 500;
const CLOCK_SKEW_SECONDS = 30;

/** `reason` is one of malformed, signature, expired, early. */
export class TokenError extends Error {
  constructor(reason, message) {
    super(message);
    this.reason = reason;
  }
}

export class Tokens {
  static async of({ jwk, jwt_secret }) {
    const { d: _private, key_ops: _operations, ...open } = jwk;
    const shown = { ...open, alg: 'ES256', use: 'sig', key_ops: ['verify'] };
    return new Tokens(jwk.kid, await importJWK(jwk, 'ES256'), await importJWK(shown, 'ES256'), jwt_secret, shown);
  }

  constructor(keyId, privateKey, publicKey, secret, shown) {
    this.keyId = keyId;
    this.privateKey = privateKey;
    this.publicKey = publicKey;
    this.secret = new TextEncoder().encode(secret);
    this.jwks = { keys: [shown] };
    this.verified = new Map();
  }

  sign(claims) {
    return new SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid: this.keyId, typ: 'JWT' }).sign(this.privateKey);
  }

  /** A signature holds for good, so it is checked once; the times are looked at on every call. */
  async verify(token, { skew = CLOCK_SKEW_SECONDS } = {}) {
    let claims = this.verified.get(token);
    if (!claims) {
      claims = await this.#checked(token);
      if (this.verified.size >= CACHED_TOKENS) this.verified.delete(this.verified.keys().next().value);
      this.verified.set(token, claims);
    }
    const now = Date.now() / 1000;
    if (claims.exp !== undefined && claims.exp + skew < now) throw new TokenError('expired', 'JWT expired');
    if (claims.nbf > now + skew) throw new TokenError('early', 'JWT not yet valid');
    if (claims.iat > now + skew) throw new TokenError('early', 'JWT issued at future');
    return claims;
  }

  async #checked(token) {
    const parts = token.split('.').length;
    if (parts !== 3) throw new TokenError('malformed', `Expected 3 parts in JWT; got ${parts}`);
    try {
      const { alg } = decodeProtectedHeader(token);
      const key = { ES256: this.publicKey, HS256: this.secret }[alg];
      const { payload } = await compactVerify(token, key, { algorithms: ['ES256', 'HS256'] });
      const claims = JSON.parse(new TextDecoder().decode(payload));
      const timed = ['exp', 'nbf', 'iat'].every((name) => ['undefined', 'number'].includes(typeof claims[name]));
      if (timed) return claims;
    } catch {
      /* every way to be wrong gets the same answer */
    }
    throw new TokenError('signature', 'No suitable key or wrong key type');
  }
}
