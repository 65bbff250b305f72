// What the secret key may do with accounts: /admin/users, /admin/generate_link, /invite.
import { authError } from '../errors.mjs';
import { readObject, sendJson } from '../http.mjs';
import { endSessions } from './sessions.mjs';
import {
  changeEmail,
  checkPassword,
  checkedEmail,
  createUser,
  emailTaken,
  hashOf,
  isUuid,
  merged,
  shown,
  updateUser,
  userBy,
  userById,
} from './users.mjs';

const HIGHEST_PAGE_SIZE = 1000;
const SECONDS = { h: 3600, m: 60, s: 1, ms: 1e-3, us: 1e-6, ns: 1e-9 };

export class Admin {
  constructor(database, mail, refused, { passwordLength }) {
    this.database = database;
    this.mail = mail;
    this.refused = refused;
    this.passwordLength = passwordLength;
  }

  async handle(request, response, url, names) {
    const read = () => readObject(request, this.refused);
    const [what, id, more] = names;
    if (what === 'generate_link' && request.method === 'POST')
      return sendJson(response, 200, await this.#generateLink(await read(), url));
    if (what !== 'users' || more) return undefined;
    if (id === undefined) {
      if (request.method === 'GET') return this.#list(response, url);
      if (request.method === 'POST') return sendJson(response, 200, await this.#create(await read()));
      return undefined;
    }
    if (!isUuid(id)) throw authError(404, 'validation_failed', 'user_id must be an UUID');
    if (request.method === 'GET') return sendJson(response, 200, await this.#with(id, shown));
    if (request.method === 'PUT') {
      const attributes = await read();
      return sendJson(response, 200, await this.#with(id, (query, user) => this.#update(query, user, attributes)));
    }
    if (request.method === 'DELETE') {
      const { should_soft_delete: soft } = await read();
      return sendJson(response, 200, await this.#with(id, (query, user) => remove(query, user, soft === true)));
    }
    return undefined;
  }

  #with(id, work) {
    return this.database.asAuth(async (query) => {
      const user = await userById(query, id);
      if (!user) throw authError(404, 'user_not_found', 'User not found');
      return work(query, user);
    });
  }

  async #list(response, url) {
    const page = positive(url, 'page', 1);
    const size = Math.min(positive(url, 'per_page', 50), HIGHEST_PAGE_SIZE);
    const { users, total } = await this.database.asAuth(async (query) => {
      const [{ count }] = await query('select count(*) from auth.users');
      const found = await query('select * from auth.users order by created_at desc, id limit $1 offset $2', [
        size,
        (page - 1) * size,
      ]);
      const all = [];
      for (const user of found) all.push(await shown(query, user));
      return { users: all, total: Number(count) };
    });
    const last = Math.max(1, Math.ceil(total / size));
    const link = (to, rel) => `</admin/users?page=${to}&per_page=${size}>; rel="${rel}"`;
    const links = [...(page < last ? [link(page + 1, 'next')] : []), link(last, 'last')];
    sendJson(
      response,
      200,
      { users, aud: 'authenticated' },
      { 'x-total-count': String(total), link: links.join(', ') },
    );
  }

  async #create(attributes) {
    const { email, password, password_hash: given, email_confirm: confirmed, ban_duration: ban } = attributes;
    if (!email) throw authError(400, 'validation_failed', 'Cannot create a user without an email');
    const address = checkedEmail(email);
    if (attributes.id !== undefined && !isUuid(attributes.id))
      throw authError(400, 'validation_failed', 'ID must conform to the uuid v4 format');
    if (password) checkPassword(password, this.passwordLength);
    return this.database.asAuth(async (query) => {
      if (await userBy(query, 'email', address)) throw emailTaken();
      const user = await createUser(query, {
        ...pick(attributes, ['id', 'aud', 'role', 'user_metadata', 'app_metadata']),
        email: address,
        confirmed: confirmed === true,
        hash: password ? await hashOf(query, password) : given,
      });
      return shown(query, ban ? await updateUser(query, user.id, { banned_until: bannedUntil(ban) }) : user);
    });
  }

  async #update(query, user, attributes) {
    const { password, password_hash: given, ban_duration: ban } = attributes;
    const changes = pick(attributes, ['role', 'aud']);
    if (password) {
      checkPassword(password, this.passwordLength);
      changes.encrypted_password = await hashOf(query, password);
      await endSessions(query, user.id, null, 'global');
    } else if (given) {
      changes.encrypted_password = given;
    }
    if (attributes.app_metadata) changes.raw_app_meta_data = merged(user.raw_app_meta_data, attributes.app_metadata);
    if (attributes.user_metadata)
      changes.raw_user_meta_data = merged(user.raw_user_meta_data, attributes.user_metadata);
    if (attributes.email_confirm === true && !user.email_confirmed_at) changes.email_confirmed_at = 'now';
    if (ban) changes.banned_until = bannedUntil(ban);
    let changed = await updateUser(query, user.id, changes);
    if (attributes.email) changed = await changeEmail(query, changed, checkedEmail(attributes.email), true);
    return shown(query, changed);
  }

  async invite(request, url) {
    const { email, data } = await readObject(request, this.refused);
    const address = checkedEmail(email);
    return this.database.asAuth(async (query) => {
      const user = await this.#invited(query, address, data);
      await this.mail.send(query, user, 'invite', { redirectTo: url.searchParams.get('redirect_to') });
      return shown(query, await userById(query, user.id));
    });
  }

  async #invited(query, email, data) {
    const known = await userBy(query, 'email', email);
    if (known?.email_confirmed_at) throw emailTaken();
    return known ?? createUser(query, { email, invited: true, user_metadata: data ?? {} });
  }

  async #generateLink({ type, email, password, data, new_email: newEmail, redirect_to: redirectTo }, url) {
    const address = checkedEmail(email);
    const options = { redirectTo: url.searchParams.get('redirect_to') ?? redirectTo };
    return this.database.asAuth(async (query) => {
      const known = await userBy(query, 'email', address);
      const user = await this.#linked(query, type, address, known, { password, data });
      const changing = String(type).startsWith('email_change');
      if (changing) {
        options.to = checkedEmail(newEmail);
        await updateUser(query, user.id, { email_change: options.to });
      }
      const link = await this.mail.link(query, user, changing ? 'email_change' : type, options);
      return { ...(await shown(query, await userById(query, user.id))), ...link, verification_type: type };
    });
  }

  async #linked(query, type, email, known, { password, data }) {
    if (['recovery', 'email_change_current', 'email_change_new'].includes(type)) {
      if (!known) throw authError(404, 'user_not_found', 'User with this email not found');
      return known;
    }
    if (type === 'magiclink') return known ?? createUser(query, { email, user_metadata: data ?? {} });
    if (type === 'invite') return this.#invited(query, email, data);
    if (type !== 'signup')
      throw authError(400, 'validation_failed', `Invalid email action link type requested: ${type}`);
    if (known) throw emailTaken();
    checkPassword(password, this.passwordLength);
    return createUser(query, { email, user_metadata: data ?? {}, hash: await hashOf(query, password) });
  }
}

async function remove(query, user, soft) {
  if (!soft) {
    await query('delete from auth.users where id = $1', [user.id]);
    return {};
  }
  await endSessions(query, user.id, null, 'global');
  await query('delete from auth.identities where user_id = $1', [user.id]);
  await updateUser(query, user.id, {
    email: null,
    phone: null,
    encrypted_password: '',
    raw_app_meta_data: '{}',
    raw_user_meta_data: '{}',
    deleted_at: 'now',
  });
  return {};
}

/** Durations as Go writes them: 24h, 1h30m; `none` ends a ban. */
function bannedUntil(text) {
  if (text === 'none') return null;
  const parts = [...String(text).matchAll(/(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)/g)];
  if (parts.length === 0 || parts.map(([part]) => part).join('') !== text) {
    throw authError(400, 'validation_failed', `invalid format for ban duration: ${text}`);
  }
  const seconds = parts.reduce((sum, [, count, unit]) => sum + Number(count) * SECONDS[unit], 0);
  const until = new Date(Date.now() + seconds * 1000);
  if (Number.isNaN(until.getTime())) throw authError(400, 'validation_failed', `ban duration is too long: ${text}`);
  return until.toISOString();
}

function positive(url, name, otherwise) {
  const text = url.searchParams.get(name) || String(otherwise);
  if (!/^[1-9]\d{0,8}$/.test(text))
    throw authError(400, 'validation_failed', `Bad Pagination Parameters: ${name} is '${text}'`);
  return Number(text);
}

const pick = (from, names) =>
  Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]]));
