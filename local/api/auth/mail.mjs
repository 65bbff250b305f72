// Mail is not sent: it is written to the log and kept for a while, to be read at /mail.
import { createHash, randomInt } from 'node:crypto';
import { authError } from '../errors.mjs';
import { PREFIX } from './pkce.mjs';
import { updateUser } from './users.mjs';

const KEPT = 50;
const VALID_FOR = '1 hour';

// type of verification → the columns that hold its token and when it was sent, and what the mail says
const PURPOSES = {
  signup: { token: 'confirmation_token', sent: 'confirmation_sent_at', subject: 'Confirm your signup' },
  invite: { token: 'confirmation_token', sent: 'confirmation_sent_at', subject: 'You have been invited' },
  recovery: { token: 'recovery_token', sent: 'recovery_sent_at', subject: 'Reset your password' },
  magiclink: { token: 'recovery_token', sent: 'recovery_sent_at', subject: 'Your magic link' },
  email_change: { token: 'email_change_token_new', sent: 'email_change_sent_at', subject: 'Confirm your new email' },
  reauthentication: {
    token: 'reauthentication_token',
    sent: 'reauthentication_sent_at',
    subject: 'Your confirmation code',
  },
};
// What a client may call them: `email` is whatever was sent last to sign in or to confirm.
const ACCEPTED = {
  ...Object.fromEntries(Object.keys(PURPOSES).map((type) => [type, [type]])),
  email: ['magiclink', 'signup'],
};

export class Mail {
  constructor({ apiUrl, siteUrl, redirectUrls }) {
    this.apiUrl = apiUrl;
    this.siteUrl = siteUrl;
    this.redirectUrls = [siteUrl, apiUrl, ...redirectUrls];
    this.box = [];
  }

  /** Make a one-time code for the user and mail it; the database keeps only its hash. */
  async send(query, user, type, { to = user.email, redirectTo, prefix } = {}) {
    const link = await this.link(query, user, type, { to, redirectTo, prefix });
    const message = {
      to,
      subject: PURPOSES[type].subject,
      code: link.email_otp,
      link: link.action_link,
      at: new Date().toISOString(),
    };
    this.box.unshift(message);
    this.box.length = Math.min(this.box.length, KEPT);
    console.log(`mail to ${to}: ${message.subject}; code ${message.code}; ${message.link}`);
  }

  async link(query, user, type, { to = user.email, redirectTo, prefix = '' } = {}) {
    const code = String(randomInt(1_000_000)).padStart(6, '0');
    const hashed = `${prefix}${hashOf(to, code)}`;
    const { token, sent } = PURPOSES[type];
    await updateUser(query, user.id, { [token]: hashed, [sent]: 'now' });
    const back = this.allowed(redirectTo);
    const asked = new URLSearchParams({ token: hashed, type, redirect_to: back });
    return {
      action_link: `${this.apiUrl}/auth/v1/verify?${asked}`,
      email_otp: code,
      hashed_token: hashed,
      redirect_to: back,
      verification_type: type,
    };
  }

  /** The user whose code this is; it is gone with that. */
  async redeem(query, { type, email, token, token_hash: hash }) {
    const wanted = hash ?? (email && token ? hashOf(email, String(token)) : null);
    const purposes = ACCEPTED[type];
    if (!purposes) throw authError(400, 'validation_failed', `Verify type '${type}' is not supported`);
    if (!wanted) throw authError(400, 'validation_failed', 'Verify requires a token or a token hash');
    for (const purpose of purposes) {
      const { token: column, sent } = PURPOSES[purpose];
      const [user] = await query(
        `update auth.users set ${column} = '' where ${column} in ($1, $2) and ${sent} > now() - interval '${VALID_FOR}' returning *`,
        [wanted, `${PREFIX}${wanted}`],
      );
      if (user) return { user, purpose };
    }
    throw authError(403, 'otp_expired', 'Email link is invalid or has expired');
  }

  /** Where a mailed link may lead; anything else would make this server a redirector for strangers. */
  allowed(redirectTo) {
    if (!redirectTo || !URL.canParse(redirectTo)) return this.siteUrl;
    const asked = new URL(redirectTo);
    const fits = this.redirectUrls.some((each) =>
      each.includes('*')
        ? new RegExp(
            `^${each
              .split('*')
              .map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'))
              .join('.*')}$`,
          ).test(redirectTo)
        : URL.canParse(each) && new URL(each).origin === asked.origin,
    );
    return fits ? redirectTo : this.siteUrl;
  }
}

const hashOf = (email, code) => createHash('sha224').update(`${email.toLowerCase()}${code}`).digest('hex');
