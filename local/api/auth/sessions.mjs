// Sessions: opened by signing in, kept alive by refresh tokens that are each good for one use.
import { randomBytes, randomUUID } from 'node:crypto';
import pg from 'pg';
import { authError } from '../errors.mjs';
import { isBanned, shown, updateUser, userById } from './users.mjs';

const REUSE_SECONDS = 10; // two tabs may refresh at once
const HOOK_TIMEOUT_MS = 2000;
const REQUIRED_CLAIMS = ['aud', 'exp', 'iat', 'sub', 'email', 'phone', 'role', 'aal', 'session_id', 'is_anonymous'];

export class Sessions {
  constructor(tokens, { apiUrl, jwtExpiry, accessTokenHook }) {
    this.tokens = tokens;
    this.issuer = `${apiUrl}/auth/v1`;
    this.expiry = jwtExpiry;
    this.hook = accessTokenHook;
  }

  async open(query, user, method, request) {
    if (isBanned(user)) throw authError(400, 'user_banned', 'User is banned');
    const id = randomUUID();
    await query(
      `insert into auth.sessions (id, user_id, created_at, updated_at, aal, user_agent, ip)
       values ($1, $2, now(), now(), 'aal1', $3, $4)`,
      [id, user.id, request.headers['user-agent'] ?? null, request.socket.remoteAddress ?? null],
    );
    await query(
      `insert into auth.mfa_amr_claims (id, session_id, created_at, updated_at, authentication_method)
       values ($1, $2, now(), now(), $3)`,
      [randomUUID(), id, method],
    );
    const signedIn = await updateUser(query, user.id, { last_sign_in_at: 'now' });
    return this.#answer(query, signedIn, id, await this.#newRefreshToken(query, user.id, id, null), method);
  }

  async refresh(query, text) {
    if (typeof text !== 'string' || text === '')
      throw authError(400, 'validation_failed', 'Refresh token is not valid');
    // The lock makes concurrent uses of one token come one after the other.
    const [found] = await query(
      `select id, token, session_id, revoked, user_id, updated_at > now() - make_interval(secs => $2) as recent
       from auth.refresh_tokens where token = $1 for update`,
      [text, REUSE_SECONDS],
    );
    const user = found && (await userById(query, found.user_id));
    if (!user) throw authError(400, 'refresh_token_not_found', 'Invalid Refresh Token: Refresh Token Not Found');
    if (isBanned(user)) throw authError(400, 'user_banned', 'Invalid Refresh Token: User Banned');
    const next = found.revoked ? await this.#reused(query, found) : await this.#rotated(query, found);
    if (next === null) return { stolen: true };
    await query('update auth.sessions set refreshed_at = now(), updated_at = now() where id = $1', [found.session_id]);
    return this.#answer(query, user, found.session_id, next, 'token_refresh');
  }

  async #rotated(query, { id, token, user_id: userId, session_id: session }) {
    await query('update auth.refresh_tokens set revoked = true, updated_at = now() where id = $1', [id]);
    return this.#newRefreshToken(query, userId, session, token);
  }

  /** Just after its use a token still gets what replaced it; later it is in wrong hands, and the session ends. */
  async #reused(query, { token, session_id: session, recent }) {
    const [active] = await query(
      'select token, parent from auth.refresh_tokens where session_id = $1 and not revoked order by id desc limit 1',
      [session],
    );
    if (active && recent && active.parent === token) return active.token;
    await query('update auth.refresh_tokens set revoked = true, updated_at = now() where session_id = $1', [session]);
    return null;
  }

  async #newRefreshToken(query, userId, session, parent) {
    const token = randomBytes(9).toString('base64url');
    await query(
      `insert into auth.refresh_tokens (instance_id, token, user_id, session_id, parent, revoked, created_at, updated_at)
       values ('00000000-0000-0000-0000-000000000000', $1, $2, $3, $4, false, now(), now())`,
      [token, userId, session, parent],
    );
    return token;
  }

  async #answer(query, user, session, refreshToken, method) {
    const claims = await this.#claims(query, user, session, method);
    return {
      access_token: await this.tokens.sign(claims),
      token_type: 'bearer',
      expires_in: claims.exp - claims.iat,
      expires_at: claims.exp,
      refresh_token: refreshToken,
      user: await shown(query, user),
      weak_password: null,
    };
  }

  async #claims(query, user, session, method) {
    const amr = await query(
      `select authentication_method as method, floor(extract(epoch from updated_at))::int as timestamp
       from auth.mfa_amr_claims where session_id = $1 order by updated_at desc`,
      [session],
    );
    const iat = Math.floor(Date.now() / 1000);
    const claims = {
      iss: this.issuer,
      sub: user.id,
      aud: user.aud ?? 'authenticated',
      exp: iat + this.expiry,
      iat,
      email: user.email ?? '',
      phone: user.phone ?? '',
      app_metadata: user.raw_app_meta_data ?? {},
      user_metadata: user.raw_user_meta_data ?? {},
      role: user.role ?? 'authenticated',
      aal: 'aal1',
      amr,
      session_id: session,
      is_anonymous: user.is_anonymous,
    };
    return this.hook ? this.#hooked(query, claims, method) : claims;
  }

  /** The project's own function may add to the claims, or refuse. */
  async #hooked(query, claims, method) {
    const name = `${pg.escapeIdentifier(this.hook.schema)}.${pg.escapeIdentifier(this.hook.name)}`;
    const event = { user_id: claims.sub, claims, authentication_method: method };
    let output;
    try {
      await query(`set local statement_timeout = ${HOOK_TIMEOUT_MS}`);
      [{ output }] = await query(`select ${name}($1::jsonb) as output`, [JSON.stringify(event)]);
      await query('set local statement_timeout to default');
    } catch (error) {
      if (error.severity === undefined) throw error;
      console.error(`access token hook ${name}: ${error.message}`);
      throw authError(
        500,
        'unexpected_failure',
        `Error running hook URI: pg-functions://postgres/${this.hook.schema}/${this.hook.name}`,
      );
    }
    if (output?.error) {
      throw authError(
        output.error.http_code || 500,
        'hook_refused',
        output.error.message || 'The access token hook refused.',
      );
    }
    const made = output?.claims;
    const missing = REQUIRED_CLAIMS.filter((claim) => made?.[claim] === undefined);
    if (missing.length > 0) {
      throw authError(
        500,
        'unexpected_failure',
        `output claims do not conform to the expected schema: (root): ${missing.join(', ')} is required`,
      );
    }
    return made;
  }
}

export const alreadyUsed = () => authError(400, 'refresh_token_already_used', 'Invalid Refresh Token: Already Used');

/** `scope`: the caller's own session, all but it, or every one. Refresh tokens go with their session. */
export async function endSessions(query, userId, session, scope) {
  const chosen = { local: 'and id = $2', others: 'and id is distinct from $2', global: '' }[scope];
  if (chosen === undefined) throw authError(400, 'validation_failed', `Unsupported logout scope "${scope}"`);
  const values = chosen ? [userId, session ?? null] : [userId];
  await query(`delete from auth.sessions where user_id = $1 ${chosen}`, values);
}
