// Accounts: rows of auth.users and auth.identities, and how the auth API shows them.
import { randomUUID } from 'node:crypto';
import { authError } from '../errors.mjs';

const LONGEST_PASSWORD = 72; // bcrypt reads no further
const TIMES = [
  'email_confirmed_at',
  'phone_confirmed_at',
  'confirmed_at',
  'invited_at',
  'confirmation_sent_at',
  'recovery_sent_at',
  'email_change_sent_at',
  'last_sign_in_at',
  'banned_until',
  'deleted_at',
];
const NEVER = '0001-01-01T00:00:00Z';

export async function userBy(query, column, value) {
  const [user] = await query(`select * from auth.users where ${column} = $1 and not is_sso_user`, [value]);
  return user ?? null;
}

export async function userById(query, id) {
  return isUuid(id) ? userBy(query, 'id', id) : null;
}

export const isUuid = (text) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text ?? '');

export function checkedEmail(text) {
  const email = String(text ?? '')
    .trim()
    .toLowerCase();
  if (/^[^\s@"(),:;<>[\\\]]+@[^\s@]+\.[^\s@.]+$/.test(email) && email.length <= 255) return email;
  throw authError(400, 'validation_failed', 'Unable to validate email address: invalid format');
}

export function checkPassword(password, shortest) {
  if (typeof password !== 'string' || password === '') {
    throw authError(400, 'validation_failed', 'Signup requires a valid password');
  }
  if (Buffer.byteLength(password) > LONGEST_PASSWORD) {
    throw authError(422, 'validation_failed', `Password cannot be longer than ${LONGEST_PASSWORD} bytes`);
  }
  if (password.length < shortest) {
    throw authError(422, 'weak_password', `Password should be at least ${shortest} characters.`, {
      weak_password: { reasons: ['length'] },
    });
  }
}

/** bcrypt runs in the database: this process stays free for others, and the hash is the one hosted projects store. */
export async function hashOf(query, password) {
  const [{ hash }] = await query("select extensions.crypt($1, extensions.gen_salt('bf', 10)) as hash", [password]);
  return hash;
}

/** Takes as long for an unknown user or one without a password as for a known one. */
export async function passwordFits(query, user, password) {
  const stored = user?.encrypted_password || null;
  const [{ fits }] = await query(
    "select extensions.crypt($1, coalesce($2, extensions.gen_salt('bf', 10))) = $2 as fits",
    [String(password ?? ''), stored],
  );
  return fits === true;
}

export async function createUser(query, { id = randomUUID(), email = null, confirmed = false, ...given }) {
  const provider = email ? { provider: 'email', providers: ['email'] } : {};
  const row = {
    instance_id: '00000000-0000-0000-0000-000000000000',
    id,
    email,
    aud: given.aud ?? 'authenticated',
    role: given.role ?? 'authenticated',
    encrypted_password: given.hash ?? '',
    email_confirmed_at: email && confirmed ? 'now' : null,
    raw_app_meta_data: JSON.stringify({ ...provider, ...given.app_metadata }),
    raw_user_meta_data: JSON.stringify(
      email ? { ...given.user_metadata, ...claimed(id, email, confirmed) } : (given.user_metadata ?? {}),
    ),
    is_anonymous: given.anonymous ?? false,
    invited_at: given.invited ? 'now' : null,
    created_at: 'now',
    updated_at: 'now',
  };
  const [user] = await query(insertOf('auth.users', row), Object.values(row));
  if (email) await createIdentity(query, id, email, confirmed);
  return user;
}

async function createIdentity(query, userId, email, confirmed) {
  const row = {
    provider: 'email',
    provider_id: userId,
    user_id: userId,
    identity_data: JSON.stringify(claimed(userId, email, confirmed)),
    last_sign_in_at: 'now',
    created_at: 'now',
    updated_at: 'now',
  };
  await query(insertOf('auth.identities', row), Object.values(row));
}

const claimed = (sub, email, confirmed) => ({ sub, email, email_verified: confirmed, phone_verified: false });

function insertOf(table, row) {
  const names = Object.keys(row);
  return `insert into ${table} (${names.join(', ')}) values (${names.map((_, index) => `$${index + 1}`).join(', ')}) returning *`;
}

/** Set columns of one user; names are ours, never the client's. */
export async function updateUser(query, id, changes) {
  const names = Object.keys(changes);
  const set = ['updated_at = now()', ...names.map((name, index) => `${name} = $${index + 2}`)];
  const [user] = await query(`update auth.users set ${set.join(', ')} where id = $1 returning *`, [
    id,
    ...Object.values(changes),
  ]);
  return user;
}

/** Metadata is merged key by key; null takes a key away. */
export function merged(before, changes) {
  const kept = Object.entries({ ...before, ...changes }).filter(([, value]) => value !== null);
  return JSON.stringify(Object.fromEntries(kept));
}

/** The address is the user's from now on; an anonymous user becomes a permanent one by it. */
export async function changeEmail(query, user, email, confirmed) {
  if (email === user.email) return user;
  const taken = await userBy(query, 'email', email);
  if (taken) throw emailTaken();
  const [identity] = await query("select id from auth.identities where user_id = $1 and provider = 'email'", [user.id]);
  const told = JSON.stringify(claimed(user.id, email, confirmed));
  if (identity)
    await query('update auth.identities set identity_data = identity_data || $2, updated_at = now() where id = $1', [
      identity.id,
      told,
    ]);
  else await createIdentity(query, user.id, email, confirmed);
  return updateUser(query, user.id, {
    email,
    is_anonymous: false,
    email_confirmed_at: confirmed ? 'now' : null,
    email_change: '',
    email_change_token_new: '',
    email_change_token_current: '',
    raw_app_meta_data: merged(user.raw_app_meta_data, { provider: 'email', providers: ['email'] }),
    raw_user_meta_data: merged(user.raw_user_meta_data, claimed(user.id, email, confirmed)),
  });
}

export const emailTaken = () =>
  authError(422, 'email_exists', 'A user with this email address has already been registered');

export const isBanned = ({ banned_until: until }) =>
  Boolean(until) && (until === 'infinity' || Date.parse(iso(until)) > Date.now());

export async function shown(query, user) {
  const identities = await query('select * from auth.identities where user_id = $1 order by created_at', [user.id]);
  return presented(user, identities);
}

function presented(user, identities) {
  const times = TIMES.filter((name) => user[name]).map((name) => [name, iso(user[name])]);
  return {
    id: user.id,
    aud: user.aud ?? 'authenticated',
    role: user.role ?? 'authenticated',
    email: user.email ?? '',
    phone: user.phone ?? '',
    ...Object.fromEntries(times),
    created_at: iso(user.created_at) ?? NEVER,
    updated_at: iso(user.updated_at) ?? NEVER,
    ...(user.email_change ? { new_email: user.email_change } : {}),
    app_metadata: user.raw_app_meta_data ?? {},
    user_metadata: user.raw_user_meta_data ?? {},
    identities: identities.map((each) => ({
      identity_id: each.id,
      id: each.provider_id,
      user_id: each.user_id,
      identity_data: each.identity_data,
      provider: each.provider,
      last_sign_in_at: iso(each.last_sign_in_at),
      created_at: iso(each.created_at) ?? NEVER,
      updated_at: iso(each.updated_at) ?? NEVER,
      email: each.email,
    })),
    is_anonymous: user.is_anonymous,
  };
}

/** `2026-11-20 08:06:47.37376+00` is what Postgres says in UTC; clients expect 2026-11-20T08:06:47.37376Z. */
export const iso = (text) => text?.replace(' ', 'T').replace(/\+00$/, 'Z');
