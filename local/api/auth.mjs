// The auth service: /auth/v1/…, as GoTrue answers. MFA, SSO and social sign-in are not here.
import { Admin } from './auth/admin.mjs';
import { Mail } from './auth/mail.mjs';
import { PREFIX, begin, exchange, issueCode } from './auth/pkce.mjs';
import { Sessions, alreadyUsed, endSessions } from './auth/sessions.mjs';
import {
  changeEmail,
  checkPassword,
  checkedEmail,
  createUser,
  hashOf,
  isBanned,
  merged,
  passwordFits,
  shown,
  updateUser,
  userBy,
  userById,
} from './auth/users.mjs';
import { bearer } from './callers.mjs';
import { authError, isDatabaseError } from './errors.mjs';
import { readObject, send, sendJson } from './http.mjs';
import { TokenError } from './tokens.mjs';

const METHOD_OF = { signup: 'otp', invite: 'otp', recovery: 'recovery', magiclink: 'magiclink', email_change: 'otp' };
const ELSEWHERE = /^(factors|sso|saml|authorize|callback|passkeys|oauth|user\/(identities|oauth))(\/|$)/;

export class Auth {
  constructor(database, tokens, callers, settings) {
    this.database = database;
    this.tokens = tokens;
    this.callers = callers;
    this.passwordLength = settings.passwordLength;
    this.sessions = new Sessions(tokens, settings);
    this.mail = new Mail(settings);
    this.admin = new Admin(database, this.mail, badJson, settings);
    this.routes = {
      'GET health': (_request, response) =>
        sendJson(response, 200, { version: 'strive', name: 'GoTrue', description: 'Auth of the local stack' }),
      'GET settings': (_request, response) => sendJson(response, 200, SETTINGS),
      'GET .well-known/jwks.json': (_request, response) =>
        sendJson(response, 200, tokens.jwks, { 'cache-control': 'public, max-age=600' }),
      'POST signup': this.#signUp,
      'POST token': this.#token,
      'POST otp': this.#otp,
      'POST magiclink': this.#otp,
      'POST recover': this.#recover,
      'POST resend': this.#resend,
      'POST verify': this.#verify,
      'GET verify': this.#verifyLink,
      'GET user': this.#user,
      'PUT user': this.#changeUser,
      'GET reauthenticate': this.#reauthenticate,
      'POST logout': this.#signOut,
      'POST invite': this.#invite,
    };
  }

  /** Links in mails are opened in browsers, and keys to check signatures with are for everyone. */
  isOpen(request, url) {
    const path = url.pathname.slice('/auth/v1/'.length);
    return path.startsWith('.well-known/') || (request.method === 'GET' && path === 'verify');
  }

  async handle(request, response, url, caller) {
    const path = decodeURIComponent(url.pathname.slice('/auth/v1/'.length)).replace(/\/$/, '');
    const route = this.routes[`${request.method} ${path}`];
    if (route) return route.call(this, request, response, url, caller);
    const [first, ...names] = path.split('/');
    if (
      ELSEWHERE.test(path) ||
      path.startsWith('admin/oauth') ||
      /^admin\/users\/[^/]+\/(factors|passkeys)/.test(path)
    ) {
      throw authError(
        501,
        'not_built_in',
        `/auth/v1/${path} is not part of this stack; run against \`supabase start\` or a hosted project for it.`,
      );
    }
    if (first === 'admin') {
      requireAdmin(caller);
      const answered = await this.admin.handle(request, response, url, names);
      if (answered !== undefined || response.headersSent) return answered;
    }
    const known = Object.keys(this.routes).some((each) => each.endsWith(` ${path}`)) || first === 'admin';
    throw known
      ? authError(405, 'bad_method', `${request.method} is not allowed here`)
      : authError(404, 'not_found', `There is nothing at /auth/v1/${path}`);
  }

  failure(error) {
    if (error instanceof TokenError) return badToken(error);
    if (!isDatabaseError(error)) return error;
    if (error.code === '23505' && error.constraint === 'users_email_partial_key') return registered();
    console.error('auth:', error.message, error.detail ?? '', error.where ?? '');
    // 22…: what the client sent cannot be stored; else a trigger or constraint of the project refused.
    return error.code.startsWith('22')
      ? authError(400, 'validation_failed', error.message)
      : authError(500, 'unexpected_failure', 'Database error saving new user');
  }

  async #signUp(request, response) {
    const { email, phone, password, data } = await readObject(request, badJson);
    if (phone) throw authError(400, 'phone_provider_disabled', 'Phone signups are disabled');
    if (!email && !password) return this.#signUpAnonymously(request, response, data);
    const address = checkedEmail(email);
    checkPassword(password, this.passwordLength);
    const session = await this.database.asAuth(async (query) => {
      const known = await userBy(query, 'email', address);
      if (known?.email_confirmed_at) throw registered();
      const hash = await hashOf(query, password);
      const user = known
        ? await updateUser(query, known.id, {
            encrypted_password: hash,
            email_confirmed_at: 'now',
            raw_user_meta_data: merged(known.raw_user_meta_data, data ?? {}),
          })
        : await createUser(query, { email: address, hash, user_metadata: data ?? {}, confirmed: true });
      return this.sessions.open(query, user, 'password', request);
    });
    sendJson(response, 200, session);
  }

  async #signUpAnonymously(request, response, data) {
    const session = await this.database.asAuth(async (query) => {
      const user = await createUser(query, { anonymous: true, user_metadata: data ?? {} });
      return this.sessions.open(query, user, 'anonymous', request);
    });
    sendJson(response, 200, session);
  }

  async #token(request, response, url) {
    const given = await readObject(request, badJson);
    const grant = { password: this.#byPassword, refresh_token: this.#byRefreshToken, pkce: this.#byCode }[
      url.searchParams.get('grant_type')
    ];
    if (!grant) throw authError(400, 'invalid_credentials', 'unsupported_grant_type');
    const session = await this.database.asAuth((query) => grant.call(this, query, given, request));
    // The session that was ended by a stolen token stays ended: that transaction was committed.
    if (session.stolen) throw alreadyUsed();
    sendJson(response, 200, session);
  }

  async #byPassword(query, { email, phone, password }, request) {
    if (phone) throw authError(400, 'phone_provider_disabled', 'Phone logins are disabled');
    const user = await userBy(
      query,
      'email',
      String(email ?? '')
        .trim()
        .toLowerCase(),
    );
    if (!(await passwordFits(query, user, password)))
      throw authError(400, 'invalid_credentials', 'Invalid login credentials');
    if (!user.email_confirmed_at) throw authError(400, 'email_not_confirmed', 'Email not confirmed');
    return this.sessions.open(query, user, 'password', request);
  }

  #byRefreshToken(query, { refresh_token: token }) {
    return this.sessions.refresh(query, token);
  }

  async #byCode(query, { auth_code: code, code_verifier: verifier }, request) {
    const { user, method } = await exchange(query, code, verifier);
    return this.sessions.open(query, user, method, request);
  }

  async #otp(request, response, url) {
    const given = await readObject(request, badJson);
    if (given.phone) throw authError(400, 'phone_provider_disabled', 'Unsupported phone provider');
    const address = checkedEmail(given.email);
    await this.database.asAuth(async (query) => {
      const known = await userBy(query, 'email', address);
      if (!known && given.create_user === false) throw authError(422, 'otp_disabled', 'Signups not allowed for otp');
      const user = known ?? (await createUser(query, { email: address, user_metadata: given.data ?? {} }));
      const prefix = await begin(query, user, 'magiclink', given);
      await this.mail.send(query, user, 'magiclink', { redirectTo: url.searchParams.get('redirect_to'), prefix });
    });
    sendJson(response, 200, {});
  }

  /** The same answer whether the address is known or not. */
  async #recover(request, response, url) {
    const given = await readObject(request, badJson);
    const address = checkedEmail(given.email);
    await this.database.asAuth(async (query) => {
      const user = await userBy(query, 'email', address);
      if (!user) return;
      const prefix = await begin(query, user, 'recovery', given);
      await this.mail.send(query, user, 'recovery', { redirectTo: url.searchParams.get('redirect_to'), prefix });
    });
    sendJson(response, 200, {});
  }

  async #resend(request, response, url) {
    const { type, email } = await readObject(request, badJson);
    if (!['signup', 'email_change'].includes(type)) {
      throw authError(400, 'validation_failed', 'Missing one of these types: signup, email_change');
    }
    const address = checkedEmail(email);
    await this.database.asAuth(async (query) => {
      const user = await userBy(query, type === 'signup' ? 'email' : 'email_change', address);
      if (!user || (type === 'signup' && user.email_confirmed_at)) return;
      await this.mail.send(query, user, type, { to: address, redirectTo: url.searchParams.get('redirect_to') });
    });
    sendJson(response, 200, {});
  }

  async #verify(request, response) {
    const given = await readObject(request, badJson);
    const session = await this.database.asAuth(async (query) => {
      const { user, purpose } = await this.#redeemed(query, given);
      return this.sessions.open(query, user, METHOD_OF[purpose] ?? 'otp', request);
    });
    sendJson(response, 200, session);
  }

  /** A mailed link: sends the browser on with a session in the fragment, or with a code for the client that asked. */
  async #verifyLink(request, response, url) {
    const given = Object.fromEntries(url.searchParams);
    const back = new URL(this.mail.allowed(given.redirect_to));
    try {
      await this.database.asAuth(async (query) => {
        const { user, purpose } = await this.#redeemed(query, {
          type: given.type,
          token_hash: given.token ?? given.token_hash,
        });
        if (String(given.token).startsWith(PREFIX)) {
          back.searchParams.set('code', await issueCode(query, user));
        } else {
          const {
            user: _user,
            weak_password: _weak,
            ...session
          } = await this.sessions.open(query, user, METHOD_OF[purpose] ?? 'otp', request);
          back.hash = new URLSearchParams({ ...session, type: given.type });
        }
      });
    } catch (error) {
      const { error_code: code, msg } = this.failure(error).body ?? {};
      if (!code) throw error;
      back.hash = new URLSearchParams({ error: 'access_denied', error_code: code, error_description: msg });
    }
    send(response, 303, null, { location: back.href });
  }

  /** Opening what was mailed to an address proves that it is theirs. */
  async #redeemed(query, given) {
    const { user, purpose } = await this.mail.redeem(query, given);
    if (purpose === 'email_change') return { user: await changeEmail(query, user, user.email_change, true), purpose };
    const confirmed = user.email_confirmed_at ? user : await updateUser(query, user.id, { email_confirmed_at: 'now' });
    return { user: confirmed, purpose };
  }

  /** The signed-in user of the request and their session, both as they are now rather than as the token remembers. */
  async #present(query, request) {
    const token = bearer(request);
    if (token === undefined || token.startsWith('sb_')) {
      throw authError(401, 'no_authorization', 'This endpoint requires a valid Bearer token');
    }
    const { claims } = await this.callers.bearerOf(token);
    if (!claims.sub) throw authError(403, 'bad_jwt', 'invalid claim: missing sub claim');
    const user = await userById(query, claims.sub);
    if (!user) throw authError(403, 'user_not_found', 'User from sub claim in JWT does not exist');
    if (isBanned(user)) throw authError(403, 'user_banned', 'User is banned');
    if (claims.session_id) {
      const [session] = await query('select id from auth.sessions where id::text = $1 and user_id = $2', [
        String(claims.session_id),
        user.id,
      ]);
      if (!session) throw authError(403, 'session_not_found', 'Session from session_id claim in JWT does not exist');
    }
    return { user, session: claims.session_id ?? null };
  }

  async #user(request, response) {
    sendJson(
      response,
      200,
      await this.database.asAuth(async (query) => shown(query, (await this.#present(query, request)).user)),
    );
  }

  async #changeUser(request, response) {
    const given = await readObject(request, badJson);
    if (given.phone) throw authError(400, 'phone_provider_disabled', 'Phone signups are disabled');
    const changed = await this.database.asAuth(async (query) => {
      const { user, session } = await this.#present(query, request);
      const changes = {};
      if (given.data) changes.raw_user_meta_data = merged(user.raw_user_meta_data, given.data);
      if (given.password !== undefined && given.password !== null) {
        checkPassword(given.password, this.passwordLength);
        if (user.encrypted_password && (await passwordFits(query, user, given.password))) {
          throw authError(422, 'same_password', 'New password should be different from the old password.');
        }
        changes.encrypted_password = await hashOf(query, given.password);
        await endSessions(query, user.id, session, 'others');
      }
      const updated = await updateUser(query, user.id, changes);
      return shown(query, given.email ? await changeEmail(query, updated, checkedEmail(given.email), true) : updated);
    });
    sendJson(response, 200, changed);
  }

  async #reauthenticate(request, response) {
    await this.database.asAuth(async (query) => {
      const { user } = await this.#present(query, request);
      await this.mail.send(query, user, 'reauthentication');
    });
    sendJson(response, 200, {});
  }

  async #signOut(request, response, url) {
    await this.database.asAuth(async (query) => {
      const { user, session } = await this.#present(query, request);
      await endSessions(query, user.id, session, url.searchParams.get('scope') ?? 'global');
    });
    send(response, 204, null);
  }

  async #invite(request, response, url, caller) {
    requireAdmin(caller);
    sendJson(response, 200, await this.admin.invite(request, url));
  }
}

const SETTINGS = {
  external: { anonymous_users: true, email: true, phone: false },
  disable_signup: false,
  mailer_autoconfirm: true,
  phone_autoconfirm: false,
  sms_provider: '',
  saml_enabled: false,
};

const badJson = (message) => authError(400, 'bad_json', message);
const registered = () => authError(422, 'user_already_exists', 'User already registered');

function requireAdmin(caller) {
  if (caller.role !== 'service_role') throw authError(403, 'not_admin', 'User not allowed');
}

function badToken({ reason, message }) {
  const found = { expired: 'token has invalid claims: token is expired', malformed: `token is malformed: ${message}` };
  return authError(
    403,
    'bad_jwt',
    `invalid JWT: unable to parse or verify signature, ${found[reason] ?? 'token signature is invalid'}`,
  );
}
