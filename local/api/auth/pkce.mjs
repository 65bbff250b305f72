// PKCE: a mailed link opened in a browser yields a code that only the client which asked for the mail can use.
import { createHash, randomUUID } from 'node:crypto';
import { authError } from '../errors.mjs';
import { userById } from './users.mjs';

export const PREFIX = 'pkce_';
const VALID_FOR = '1 hour';

/** Note the challenge that came with a request for mail; returns the prefix its token gets. */
export async function begin(query, user, method, { code_challenge: challenge, code_challenge_method: how }) {
  if (!challenge) return '';
  const kind = String(how ?? '').toLowerCase();
  if (!['s256', 'plain'].includes(kind)) throw authError(400, 'validation_failed', 'Invalid code_challenge_method');
  if (!/^[A-Za-z0-9._~-]{43,128}$/.test(challenge)) {
    throw authError(
      400,
      'validation_failed',
      'code challenge has to be between 43 and 128 characters of A-Z a-z 0-9 - . _ ~',
    );
  }
  await query(
    `insert into auth.flow_state (id, user_id, auth_code, code_challenge_method, code_challenge, provider_type,
       authentication_method, created_at, updated_at)
     values ($1, $2, $3, $4, $5, 'email', $6, now(), now())`,
    [randomUUID(), user.id, randomUUID(), kind, challenge, method],
  );
  return PREFIX;
}

/** The link was opened: the code for the client. */
export async function issueCode(query, user) {
  const [flow] = await query(
    `update auth.flow_state set auth_code_issued_at = now() where id = (
       select id from auth.flow_state where user_id = $1 and auth_code_issued_at is null order by created_at desc limit 1
     ) returning auth_code`,
    [user.id],
  );
  if (!flow) throw authError(404, 'flow_state_not_found', 'invalid flow state, no valid flow state found');
  return flow.auth_code;
}

export async function exchange(query, code, verifier) {
  if (!code || !verifier) {
    throw authError(400, 'validation_failed', 'invalid request: both auth code and code verifier should be non-empty');
  }
  const [flow] = await query(
    `delete from auth.flow_state where auth_code = $1 and auth_code_issued_at is not null returning *,
       auth_code_issued_at > now() - interval '${VALID_FOR}' as valid`,
    [String(code)],
  );
  if (!flow) throw authError(404, 'flow_state_not_found', 'invalid flow state, no valid flow state found');
  if (!flow.valid) throw authError(422, 'flow_state_expired', 'invalid flow state, flow state has expired');
  const hashed = createHash('sha256').update(String(verifier)).digest('base64url');
  if (flow.code_challenge !== (flow.code_challenge_method === 's256' ? hashed : verifier)) {
    throw authError(400, 'bad_code_verifier', 'code challenge does not match previously saved code verifier');
  }
  return { user: await userById(query, flow.user_id), method: flow.authentication_method };
}
